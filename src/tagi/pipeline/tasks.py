"""The tasks a recipe asks for."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tagi.config import Recipe
from tagi.data.batches import hold_out, with_shuffled_inputs
from tagi.data.jsonl import read_jsonl
from tagi.data.p3 import read_p3
from tagi.data.p3_eval import read_p3_eval
from tagi.data.sni import read_sni
from tagi.data.splits import compare_with_table10, limit_to_split
from tagi.data.task import Task
from tagi.data.toy import toy_tasks
from tagi.errors import ConfigError

_TOY_WORDINGS = 64
"""Wordings of each toy task: training draws one of them for each batch."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with counts of what was read, and a warning about what was not."""

    tasks: tuple[Task, ...]
    summary: dict[str, Any]
    warning: str | None = None


def load_tasks(recipe: Recipe, split: Split) -> LoadedTasks:
    """Read the recipe's tasks: those trained on, those held out of them for choosing a checkpoint, or the test tasks.

    `data.task_split` limits training tasks to the largest categories before any are held out. An own JSON Lines file
    has no split: training and test are the whole file.
    """
    read = _read(recipe, "test" if split == "test" else "train")
    if split == "test":
        return read
    data, tasks = recipe.data, read.tasks
    if data.task_split is not None and data.source in ("sni", "p3"):
        tasks = limit_to_split(tasks, data.source, data.task_split)
    if data.validation_tasks:
        training, validation = hold_out(tasks, data.validation_tasks, recipe.seed)
        tasks = training if split == "train" else validation
    if len(tasks) == len(read.tasks):
        return read
    left = {"tasks": len(tasks), "instances": sum(len(task.instances) for task in tasks), "categories": _counts(tasks)}
    return replace(read, tasks=tasks, summary={**read.summary, **left})


def _read(recipe: Recipe, split: Literal["train", "test"]) -> LoadedTasks:
    data = recipe.data
    count = data.instances_per_task if split == "train" else data.test_instances_per_task
    if data.source == "p3":
        if split == "test":
            return _read_p3_tests(recipe)
        rendered = read_p3(Path(str(data.path)), instances_per_task=count)
        return LoadedTasks(_shuffled(recipe, rendered.tasks), rendered.summary(), rendered.warning)
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


def _read_p3_tests(recipe: Recipe) -> LoadedTasks:
    data = recipe.data
    if data.test_path is None:
        raise ConfigError("data.test_path: expected a folder of P3's evaluation sets to score on, got nothing")
    templates = None if data.templates is None else Path(data.templates)
    read = read_p3_eval(
        Path(data.test_path), templates=templates, prompts=data.prompts, limit=data.test_instances_per_task
    )
    return LoadedTasks(_shuffled(recipe, read.tasks), read.summary(), read.warning)


def _summary(source: str, split: Split, tasks: tuple[Task, ...]) -> dict[str, Any]:
    return {
        "source": source,
        "split": split,
        "tasks": len(tasks),
        "instances": sum(len(task.instances) for task in tasks),
        "categories": _counts(tasks),
    }


def _counts(tasks: tuple[Task, ...]) -> dict[str, int]:
    return dict(Counter(task.category for task in tasks).most_common())


def _shuffled(recipe: Recipe, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    return with_shuffled_inputs(tasks, recipe.seed) if recipe.data.shuffle_inputs else tasks
