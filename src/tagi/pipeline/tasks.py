"""The tasks a recipe asks for."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tagi.config import Recipe
from tagi.data.batches import with_shuffled_inputs
from tagi.data.jsonl import read_jsonl
from tagi.data.sni import read_sni
from tagi.data.splits import compare_with_table10
from tagi.data.task import Task
from tagi.data.toy import toy_tasks

_TOY_WORDINGS = 64
"""Wordings of each toy task: training draws one of them for each batch."""

Split = Literal["train", "test"]


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with counts of what was read, and a warning about what was not."""

    tasks: tuple[Task, ...]
    summary: dict[str, Any]
    warning: str | None = None


def load_tasks(recipe: Recipe, split: Split) -> LoadedTasks:
    """Read the recipe's tasks: those trained on, or those it is tested on.

    An own JSON Lines file has no split: both are the whole file.
    """
    data = recipe.data
    count = data.instances_per_task if split == "train" else data.test_instances_per_task
    if data.source == "sni":
        read = read_sni(Path(str(data.path)), split, instances_per_task=count)
        summary = read.summary()
        if split == "train":
            summary["table_10"] = [[row.category, row.here, row.paper] for row in compare_with_table10(read)]
        summary["missing_names"] = list(read.missing)
        return LoadedTasks(_shuffled(recipe, read.tasks), summary, read.warning)
    if data.source == "toy":
        kind: Any = "train" if split == "train" else "unseen"
        seed = recipe.seed if split == "train" else 0  # every seed is tested on the same instances
        tasks = tuple(toy_tasks(kind, seed, instances_per_task=count, paraphrases_per_task=_TOY_WORDINGS))
    else:
        tasks = tuple(
            replace(task, instances=task.instances[:count])
            for task in read_jsonl(Path(str(data.path)), require_instances=True)
        )
    return LoadedTasks(_shuffled(recipe, tasks), _summary(data.source, split, tasks))


def _summary(source: str, split: Split, tasks: tuple[Task, ...]) -> dict[str, Any]:
    counts = Counter(task.category for task in tasks)
    return {
        "source": source,
        "split": split,
        "tasks": len(tasks),
        "instances": sum(len(task.instances) for task in tasks),
        "categories": dict(counts.most_common()),
    }


def _shuffled(recipe: Recipe, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    return with_shuffled_inputs(tasks, recipe.seed) if recipe.data.shuffle_inputs else tasks
