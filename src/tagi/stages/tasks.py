"""Loading the tasks of a recipe."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from tagi.activity import activity
from tagi.data.batches import hold_out, with_shuffled_inputs
from tagi.data.digest import tasks_digest
from tagi.data.everyday import is_everyday_file
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.readers.p3 import read_p3
from tagi.data.readers.p3_eval import read_p3_eval
from tagi.data.readers.sni import read_sni
from tagi.data.splits import compare_with_table10, limit_to_split
from tagi.data.task import Instance, Task
from tagi.data.toy.family import toy_tasks
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.settings.sources import BY_NAME
from tagi.settings.stages import ON_TEST_TASKS
from tagi.stages.own_tasks import own_tasks, refuse_shared, seen_record, shared_instances
from tagi.stages.shots import P3_POOL, shot_sets, shots_record, wants_shots, with_test_shots, with_validation_shots

_TOY_WORDINGS = 64
"""Number of wordings of each toy task; training samples one per batch."""

_NAMED = 12  # known names that a message lists
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class LoadedTasks:
    """Loaded tasks.

    Args:
        tasks: The tasks.
        summary: Counts of what was read.
        warning: What was not read.
        further: Instances by task beyond those of the test tasks, where shots are drawn from them.
    """

    tasks: tuple[Task, ...]
    summary: dict[str, Any]
    warning: str | None = None
    further: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what a record says of them."""
        seen = seen_record(self.tasks) if self.own_training else {}
        return {**self.summary, "warning": self.warning, "digest": tasks_digest(self.tasks), **seen}

    @property
    def own_training(self) -> bool:
        """Whether they are training tasks from a user's own file."""
        return (self.summary.get("source"), self.summary.get("split")) == ("jsonl", "train")


def check_tested(data: "RecipeData") -> None:
    """Raise `ConfigError` if a recipe for own tasks would test on training data without allowing it."""
    recipe = data.recipe
    if recipe.data.source == "jsonl":
        tested = data.tasks("test", shots=False).tasks
        refuse_shared(shared_instances(tested, data.tasks("train").record()), tested, recipe.data)


def refuse_training(recipe: Recipe) -> None:
    """Raise `ConfigError` if the recipe's tasks are the everyday benchmark, or a copy of its file."""
    data = recipe.data
    copied = data.source == "jsonl" and is_everyday_file(Path(str(data.path)))
    if data.source == "everyday" or copied:
        what = f"data.path = {data.path!r}" if copied else "data.source = 'everyday'"
        raise ConfigError(
            f"{what}: the everyday benchmark is for evaluation only, nothing can be trained on it: score a checkpoint "
            "with `tagi evaluate CHECKPOINT everyday`"
        )


class RecipeData:
    """The tasks of a recipe. Files are read once; a command shares one instance between its steps."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._tests: dict[bool, LoadedTasks] = {}

    @activity("Reading tasks")
    def tasks(self, split: Split, *, shots: bool | None = None, every: bool = False) -> LoadedTasks:
        """Return the training tasks, the held-out (validation) tasks, or the test tasks.

        `data.task_split` limits training tasks to the largest categories. Then tasks are held out:
        `data.validation_tasks` of them, or all of `data.validation_categories`. Held-out tasks have no examples if
        `data.demonstrations` is set, so that checkpoints are selected without demonstrations. A user's own tasks are
        split by `own_tasks`. The everyday benchmark has test tasks only.

        Args:
            split: Which tasks.
            shots: Whether test and held-out tasks have `[shots]`; by default if the recipe trains a method that reads
                them.
            every: Use all examples of a test task that are not scored as shots.

        Raises:
            ConfigError: No training task has a wording of `data.wordings` or a category of
                `data.validation_categories`, or the everyday benchmark is asked for training tasks.
            DataError: A task has too few examples for its shots.
        """
        wanted = wants_shots(self.recipe) if shots is None else shots
        if split != "test":
            refuse_training(self.recipe)
            return self._training_tasks(split, wanted)
        recipe, read = self.recipe, self._test_tasks(wanted)
        if not wanted:
            return read
        count = None if every else recipe.shots.count
        tasks = tuple(with_test_shots(recipe, read.tasks, read.further, self._shot_sets, count))
        return replace(read, tasks=tasks, summary={**read.summary, "shots": shots_record(recipe, tasks)})

    def check_shots(self, stages: Sequence[str]) -> None:
        """Raise `DataError` if there are too few examples for shots of the methods that these stages train."""
        recipe, alone = self.recipe, not set(ON_TEST_TASKS).isdisjoint(stages)
        untested = recipe.data.source == "p3" and recipe.data.test_path is None
        if (alone or wants_shots(recipe, stages)) and not untested:
            self.tasks("test", shots=True, every=alone and recipe.single.examples == "all")

    def training_digests(self) -> list[str]:
        """Return digests of the training tasks, and of the held-out tasks if there are any."""
        data = self.recipe.data
        splits: list[Split] = ["train"]
        if data.validation_tasks or data.validation_categories:
            splits.append("validation")
        return [tasks_digest(self.tasks(split).tasks, wordings=data.wordings is not None) for split in splits]

    @cached_property
    def _training(self) -> LoadedTasks:
        return self._read("train")

    @cached_property
    def _listed(self) -> list[Task]:
        """Return all tasks of a user's own file."""
        return read_jsonl(Path(str(self.recipe.data.path)), require_instances=True)

    def _read(self, split: Literal["train", "test"], *, further: bool = False) -> LoadedTasks:
        """Read tasks; with `further` also return the instances that are not tested."""
        recipe, data = self.recipe, self.recipe.data
        count = data.instances_per_task if split == "train" else data.test_instances_per_task
        if data.source == "p3":
            if split == "test":
                return _read_p3_tests(recipe, P3_POOL if further and recipe.shots.path is None else 0)
            rendered = read_p3(
                Path(str(data.path)),
                instances_per_task=count,
                seed=recipe.seed,
                templates=data.templates,
                datasets=data.datasets,
                inputs=data.inputs,
            )
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
        elif reader := BY_NAME[data.source].reader:
            made = resolve_name(reader)(data.path, split, recipe.seed)
        else:
            made = own_tasks(data, split, self._listed)
        tasks, beyond = _cut(made, count)
        summary = {"source": data.source, "split": split, **_counts(tasks)}
        return LoadedTasks(_shuffled(recipe, tasks), summary, None, beyond)

    def _training_tasks(self, split: Split, shots: bool) -> LoadedTasks:
        read, data, seed = self._training, self.recipe.data, self.recipe.seed
        tasks = read.tasks
        _check_wordings(self.recipe, tasks)
        if data.task_split is not None and data.source in ("sni", "p3"):
            tasks = limit_to_split(tasks, data.source, data.task_split)
        if data.validation_tasks:
            training, validation = hold_out(tasks, data.validation_tasks, seed)
            tasks = training if split == "train" else validation
        elif data.validation_categories:
            tasks = _by_validation_categories(data.validation_categories, tasks, held_out=split == "validation")
        if split == "validation":
            if data.demonstrations is not None:
                tasks = tuple(replace(task, examples=()) for task in tasks)
            tasks = tuple(with_validation_shots(self.recipe, tasks)) if shots else tasks
        if len(tasks) == len(read.tasks):
            return read
        return replace(read, tasks=tasks, summary={**read.summary, **_counts(tasks)})

    def _test_tasks(self, further: bool) -> LoadedTasks:
        """Return the test tasks. Further instances are also read if the recipe may need them."""
        further = further or wants_shots(self.recipe) or True in self._tests
        if further not in self._tests:
            self._tests[further] = self._read("test", further=further)
        return self._tests[further]

    @cached_property
    def _shot_sets(self) -> dict[str, tuple[Instance, ...]]:
        """Return P3's training sets, from `shots.path` or next to the evaluation sets."""
        return shot_sets(self.recipe)


def load_tasks(recipe: Recipe, split: Split, *, shots: bool | None = None, every: bool = False) -> LoadedTasks:
    """Load tasks once, like `RecipeData.tasks`."""
    return RecipeData(recipe).tasks(split, shots=shots, every=every)


def _check_wordings(recipe: Recipe, tasks: Iterable[Task]) -> None:
    """Raise `ConfigError` for a name in `data.wordings` that no task has."""
    known = list(dict.fromkeys(name for task in tasks for name in task.texts))
    for name in recipe.data.wordings or ():
        if name not in known:
            listed = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
            fault = "no training task has a wording of this name; known names"
            raise ConfigError(f"data.wordings.{name}: {fault}: {listed}")


def _by_validation_categories(names: Sequence[str], tasks: Sequence[Task], *, held_out: bool) -> tuple[Task, ...]:
    """Return the tasks of these categories if `held_out`, else all others.

    Raises `ConfigError` for an unknown category, and if no task would be left to train on.
    """
    known = {task.category for task in tasks}
    for name in names:
        if name not in known:
            close = " or ".join(map(repr, get_close_matches(name, sorted(known), n=3) or sorted(known)[:3]))
            fault = f"no training task is of category {name!r}; did you mean {close}?"
            raise ConfigError(f"data.validation_categories: {fault}")
    if known <= set(names):
        raise ConfigError(f"data.validation_categories: all {len(known)} categories are held out; nothing is left")
    return tuple(task for task in tasks if (task.category in names) == held_out)


def _cut(tasks: Iterable[Task], count: int) -> tuple[tuple[Task, ...], dict[str, tuple[Instance, ...]]]:
    """Return the tasks with their first `count` instances, and the remaining instances by task."""
    tasks = tuple(tasks)
    kept = tuple(replace(task, instances=task.instances[:count]) for task in tasks)
    return kept, {task.name: task.instances[count:] for task in tasks}


def _read_p3_tests(recipe: Recipe, beyond: int) -> LoadedTasks:
    """`beyond` is the number of rows of a prompt to read after the tested ones."""
    data = recipe.data
    if data.test_path is None:
        raise ConfigError("data.test_path: expected a folder of P3's evaluation sets to score on, got nothing")
    count = data.test_instances_per_task
    read = read_p3_eval(
        data.test_path, templates=data.templates, prompts=data.prompts, limit=count + beyond, inputs=data.inputs
    )
    tasks, further = _cut(read.tasks, count)
    read = replace(read, tasks=tasks, instances_per_task=count)
    return LoadedTasks(_shuffled(recipe, read.tasks), read.summary(), read.warning, further)


def _counts(tasks: tuple[Task, ...]) -> dict[str, Any]:
    return {
        "tasks": len(tasks),
        "instances": sum(len(task.instances) for task in tasks),
        "categories": dict(Counter(task.category for task in tasks).most_common()),
    }


def _shuffled(recipe: Recipe, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    return with_shuffled_inputs(tasks, recipe.seed) if recipe.data.shuffle_inputs else tasks
