"""The tasks a recipe asks for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from tagi.data.batches import hold_out, with_shuffled_inputs
from tagi.data.everyday import everyday_tasks, is_everyday_file
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.readers.p3 import read_p3
from tagi.data.readers.p3_eval import read_p3_eval
from tagi.data.readers.sni import read_sni
from tagi.data.splits import compare_with_table10, limit_to_split
from tagi.data.task import Instance, Task
from tagi.data.toy.family import toy_tasks
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.stages.shots import P3_POOL, shots_record, wants_shots, with_test_shots, with_validation_shots

_TOY_WORDINGS = 64
"""Wordings of each toy task: training draws one of them for each batch."""

_NAMED = 12
"""Known names that a message lists."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks with counts of what was read, and a warning about what was not.

    `further` are instances beyond those of the test tasks, by task, where shots are drawn from them.
    """

    tasks: tuple[Task, ...]
    summary: dict[str, Any]
    warning: str | None = None
    further: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)


def refuse_training(recipe: Recipe) -> None:
    """Raise `ConfigError` if the recipe's tasks are the everyday benchmark: nothing is trained on it or chosen by it.

    A copy of its file under another name counts too.
    """
    data = recipe.data
    copied = data.source == "jsonl" and is_everyday_file(Path(str(data.path)))
    if data.source == "everyday" or copied:
        what = f"data.path = {data.path!r}" if copied else "data.source = 'everyday'"
        raise ConfigError(
            f"{what}: the everyday benchmark is for evaluation only, nothing can be trained on it: score a checkpoint "
            "with `tagi evaluate CHECKPOINT everyday`"
        )


def load_tasks(recipe: Recipe, split: Split, *, shots: bool | None = None, every: bool = False) -> LoadedTasks:
    """Read the recipe's tasks: those trained on, those held out of them for choosing a checkpoint, or the test tasks.

    `data.task_split` limits training tasks to the largest categories before any are held out: `data.validation_tasks`
    of them, or all of `data.validation_categories`. Held-out tasks have no examples where `data.demonstrations` is set,
    so that a checkpoint is chosen by what it does without. An own JSON Lines file has no split: training and test are
    the whole file. Test and held-out tasks come with `[shots]` if `shots` says so, by default if the recipe has use for
    them; a task with too few examples for them is a `DataError`. With `every` test tasks' shots are all of their
    examples that are not tested.

    Raises `ConfigError` for a wording of `data.wordings` that no training task has, and for a category of
    `data.validation_categories` that has no training task.
    The everyday benchmark has test tasks only: other splits of it raise `ConfigError`.
    """
    if split != "test":
        refuse_training(recipe)
    wanted = split != "train" and (wants_shots(recipe) if shots is None else shots)
    if split == "test":
        read = _read(recipe, "test", further=wanted)
        return _with_shots(recipe, read, every) if wanted else read
    read = _read(recipe, "train")
    data, tasks = recipe.data, read.tasks
    _check_wordings(recipe, tasks)
    if data.task_split is not None and data.source in ("sni", "p3"):
        tasks = limit_to_split(tasks, data.source, data.task_split)
    if data.validation_tasks:
        training, validation = hold_out(tasks, data.validation_tasks, recipe.seed)
        tasks = training if split == "train" else validation
    elif data.validation_categories:
        tasks = _by_validation_categories(data.validation_categories, tasks, held_out=split == "validation")
    if split == "validation":
        if data.demonstrations is not None:
            tasks = tuple(replace(task, examples=()) for task in tasks)
        tasks = tuple(with_validation_shots(recipe, tasks)) if wanted else tasks
    if len(tasks) == len(read.tasks):
        return read
    left = {"tasks": len(tasks), "instances": sum(len(task.instances) for task in tasks), "categories": _counts(tasks)}
    return replace(read, tasks=tasks, summary={**read.summary, **left})


def _check_wordings(recipe: Recipe, tasks: Iterable[Task]) -> None:
    """Raise `ConfigError` for a name in `data.wordings` that is of no task's wordings."""
    if recipe.data.wordings is None:
        return
    known = list(dict.fromkeys(name for task in tasks for name in task.texts))
    for name in recipe.data.wordings:
        if name not in known:
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            raise ConfigError(
                f"data.wordings.{name}: no training task has a wording of this name; known names: "
                f"{', '.join(known[:_NAMED])}{more}"
            )


def _by_validation_categories(names: Sequence[str], tasks: Sequence[Task], *, held_out: bool) -> tuple[Task, ...]:
    """The tasks of these categories if `held_out`, else all others.

    Raises `ConfigError` for an unknown category, and if no task would be left to train on.
    """
    known = {task.category for task in tasks}
    for name in names:
        if name not in known:
            close = get_close_matches(name, sorted(known), n=3) or sorted(known)[:3]
            raise ConfigError(
                f"data.validation_categories: no training task is of category {name!r}; did you mean "
                f"{' or '.join(map(repr, close))}?"
            )
    if known <= set(names):
        raise ConfigError(f"data.validation_categories: all {len(known)} categories are held out; nothing is left")
    return tuple(task for task in tasks if (task.category in names) == held_out)


def _with_shots(recipe: Recipe, read: LoadedTasks, every: bool) -> LoadedTasks:
    tasks = tuple(with_test_shots(recipe, read.tasks, read.further, None if every else recipe.shots.count))
    return replace(read, tasks=tasks, summary={**read.summary, "shots": shots_record(recipe, tasks)})


def _read(recipe: Recipe, split: Literal["train", "test"], *, further: bool = False) -> LoadedTasks:
    """With `further` the instances beyond the tested ones are read too, and kept apart."""
    data = recipe.data
    count = data.instances_per_task if split == "train" else data.test_instances_per_task
    if data.source == "p3":
        if split == "test":
            return _read_p3_tests(recipe, P3_POOL if further and recipe.shots.path is None else 0)
        rendered = read_p3(Path(str(data.path)), instances_per_task=count)
        return LoadedTasks(_shuffled(recipe, rendered.tasks), rendered.summary(), rendered.warning)
    if data.source == "sni":
        read = read_sni(
            Path(str(data.path)),
            split,
            instances_per_task=None if further else count,
            seed=recipe.seed if split == "train" else None,  # every seed is tested on the same instances
        )
        tasks, beyond = _cut(read.tasks, count)
        read = replace(read, tasks=tasks, instances_per_task=count)
        summary = read.summary()
        if split == "train":
            summary["table_10"] = [[row.category, row.here, row.paper] for row in compare_with_table10(read)]
        summary["missing_names"] = list(read.missing)
        return LoadedTasks(_shuffled(recipe, read.tasks), summary, read.warning, beyond)
    if data.source == "toy":
        kind: Any = "train" if split == "train" else "unseen"
        seed = recipe.seed if split == "train" else 0  # every seed is tested on the same instances
        made = toy_tasks(kind, seed, count, examples_per_task=data.positives, paraphrases_per_task=_TOY_WORDINGS)
    elif data.source == "everyday":
        made = everyday_tasks()
    else:
        made = read_jsonl(Path(str(data.path)), require_instances=True)
    tasks, beyond = _cut(made, count)
    return LoadedTasks(_shuffled(recipe, tasks), _summary(data.source, split, tasks), None, beyond)


def _cut(tasks: Iterable[Task], count: int) -> tuple[tuple[Task, ...], dict[str, tuple[Instance, ...]]]:
    """The tasks with their first `count` instances, and the others by task."""
    tasks = tuple(tasks)
    kept = tuple(replace(task, instances=task.instances[:count]) for task in tasks)
    return kept, {task.name: task.instances[count:] for task in tasks}


def _read_p3_tests(recipe: Recipe, beyond: int) -> LoadedTasks:
    """`beyond`: how many rows of a prompt are read after those that are tested."""
    data = recipe.data
    if data.test_path is None:
        raise ConfigError("data.test_path: expected a folder of P3's evaluation sets to score on, got nothing")
    templates = None if data.templates is None else Path(data.templates)
    count = data.test_instances_per_task
    read = read_p3_eval(Path(data.test_path), templates=templates, prompts=data.prompts, limit=count + beyond)
    tasks, further = _cut(read.tasks, count)
    read = replace(read, tasks=tasks, instances_per_task=count)
    return LoadedTasks(_shuffled(recipe, read.tasks), read.summary(), read.warning, further)


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
