"""Records and predictions as evaluations leave them, with scores that are made up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tagi.stages.recipes import load_recipe

FORM = 1
SIZES = {"a": 2, "b": 3, "c": 7}
"""Tasks and how many instances each has."""


def environment(**changes: Any) -> dict[str, Any]:
    return {
        "tagi": "0.1.0",
        "commit": "f" * 40,
        "python": "3.12.1",
        "packages": {"torch": "2.9"},
        "device": "cpu",
        "threads": 5,
        **changes,
    }


def result(
    scores: Mapping[str, float], metric: str = "accuracy", sizes: Mapping[str, int] = SIZES, **changes: Any
) -> dict[str, Any]:
    """What is reported of a condition; `scores` by task, of as many instances each as `sizes` says."""
    n = sum(sizes[task] for task in scores)
    mean = sum(sizes[task] * score for task, score in scores.items()) / n
    return {
        "given": "the task's instruction",
        "n": n,
        "metric": metric,
        "interval": [mean - 3, mean + 4],
        "overall": {metric: mean},
        "per_task": {task: {metric: score} for task, score in scores.items()},
        "per_category": {"odd": {metric: mean}},
        **changes,
    }


def evaluation(
    scores: Mapping[str, float] | float = 50.0,
    recipe: str = "toy",
    overrides: Sequence[str] = (),
    *,
    seed: int = 0,
    stage: str | None = "finetune",
    metric: str = "accuracy",
    **changes: Any,
) -> dict[str, Any]:
    by_task = dict.fromkeys(SIZES, scores) if isinstance(scores, float | int) else scores
    made: dict[str, Any] = {
        "format": FORM,
        "kind": "evaluation",
        "seed": seed,
        "recipe": load_recipe(recipe, [*overrides, f"seed={seed}"]).model_dump(mode="json"),
        "environment": environment(),
        "evaluation": "0123456789abcdef",
        "stage": stage,
        "checkpoint": "runs/somewhere",
        "revision": f"sha256:{seed:064x}",
        "method": "concatenation" if stage == "metatrain" else "tagi",
        "partial": False,
        "data": {"source": "toy", "digest": "sha256:one", "tasks": 3, "instances": 12, "warning": None},
        "results": {"right": result(by_task, metric)},
        **changes,
    }
    if stage is None:
        del made["stage"]
    return made


def training(stage: str = "finetune", recipe: str = "toy", **changes: Any) -> dict[str, Any]:
    return {
        "format": FORM,
        "kind": "training",
        "seed": 0,
        "recipe": load_recipe(recipe, []).model_dump(mode="json"),
        "environment": environment(),
        "stage": stage,
        "identity": "0",
        "training": {
            "steps": 30,
            "seconds": 7200.0,
            "tokens": 11,
            "tokens_per_second": 1234.5,
            "peak_memory": 3 * 2**30,
            "history": [{"step": 10, "loss": 6.5}, {"step": 30, "loss": 4.25}],
        },
        **changes,
    }


def write(folder: Path, content: Any, name: str = "record.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def predictions(sizes: Mapping[str, int] = SIZES) -> str:
    lines = (
        {"task_id": task, "id": f"{task}-{index}", "prediction": "x"}
        for task, size in sizes.items()
        for index in range(size)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)
