"""Which tasks a recipe trains and tests on, and how they are shown."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from tagi.settings.sources import BY_NAME, Source
from tagi.settings.tables import SPLITS, Count, Flag, NotNegative, Rule, Seed, Table, Text, Whole
from tagi.settings.text import TextFormat

TASK_FILES = (".jsonl", ".csv", ".tsv")
"""Ends of the names of files of a user's own tasks."""


def _path_fault(path: str | None, given: Mapping[str, Any]) -> str | None:
    entry = BY_NAME.get(str(given.get("source")))
    if entry is None or entry.path == (path is not None):
        return None
    if entry.path:
        return f"expected a path with data.source = {entry.name!r}, got nothing"
    return f"expected no path with data.source = {entry.name!r}, got {path!r}"


def _only_with(sources: tuple[str, ...], key: str, default: str | None = None) -> Rule:
    """Return the rule of a key that means something for some sources alone."""

    def fault(value: str | None, given: Mapping[str, Any]) -> str | None:
        source = given.get("source", sources[0])
        useless = value != default and source not in sources
        return f"expected no {key} with data.source = {source!r}, got {value!r}" if useless else None

    return fault


def _test_tasks_fault(count: int | None, given: Mapping[str, Any]) -> str | None:
    source = given.get("source", "jsonl")
    if count is None:
        return None
    if source != "jsonl":
        return f"expected none with data.source = {source!r}, which has test tasks of its own, got {count}"
    path = given.get("test_path")
    return None if path is None else f"expected this or data.test_path, got both (data.test_path = {path!r})"


def _prompts_fault(value: str, given: Mapping[str, Any]) -> str | None:
    if value == "original":
        return None
    if given.get("test_path", "unknown") is None:
        return f"expected data.test_path with it, got {value!r} alone"
    return f"expected none with data.source = 'jsonl', got {value!r}" if given.get("source") == "jsonl" else None


def _template_arguments_fault(arguments: dict[str, Any] | None, given: Mapping[str, Any]) -> str | None:
    if arguments is None:
        return None
    if given.get("encoding", "chat") != "chat":
        return f"expected none with data.encoding = {given['encoding']!r}, got {arguments!r}"
    try:
        json.dumps(arguments)
    except TypeError:
        return f"expected values that JSON can hold, got {arguments!r}"
    return None


def _task_split_fault(split: int | None, given: Mapping[str, Any]) -> str | None:
    source = given.get("source")
    if split is None or source is None:
        return None
    if source not in SPLITS:
        return f"expected no split with data.source = {source!r}, got {split}"
    expected = f"expected one of {', '.join(map(str, SPLITS[source]))} with {source}"
    return None if split in SPLITS[source] else f"{expected}, got {split}"


def _validation_categories_fault(categories: list[str] | None, given: Mapping[str, Any]) -> str | None:
    count = given.get("validation_tasks")
    both = categories is not None and count
    return f"expected this or data.validation_tasks, got both (data.validation_tasks = {count})" if both else None


def _wordings_fault(weights: dict[str, float] | None, given: Mapping[str, Any]) -> str | None:
    useless = weights is not None and not any(weights.values())
    return "expected at least one weight above 0, got none" if useless else None


def _demonstrations_fault(share: float | None, given: Mapping[str, Any]) -> str | None:
    if share and given.get("positives") == 0:
        return f"expected data.positives of at least 1 with it, got {share} and no positives"
    return None


@dataclass(frozen=True, kw_only=True)
class DataSettings(TextFormat):
    """Tasks, their training, validation and test instances, and how instructions vary. Beside the format of the texts:

    Args:
        source: The built-in family of tasks ("toy"), Super-Natural Instructions ("sni"), P3 ("p3"), your own JSON Lines
            or table ("jsonl"), or the everyday benchmark that comes with the package ("everyday", for evaluation only).
        path: Folder or file of the tasks.
        test_path: P3's folder of evaluation sets: the hub's, a file for each prompt, or raw ones with `templates`. Of
            your own tasks, the file of the test tasks.
        test_tasks: Hold out so many of your own tasks for testing, drawn by a seed that is the same for every run.
        test_on_training: Allow your own test tasks to share instances with the training tasks. Every record, table and
            report then says so.
        templates: Folder of promptsource's files (`imdb/templates.yaml`). They are the instructions of training and
            evaluation prompts, and raw evaluation sets are rendered with them. Without the template of a prompt its
            instruction is what a random sample of its rows share.
        prompts: Prompts of P3's evaluation sets: those for the original task of a data set ("original", as T0 is
            evaluated), or all.
        datasets: Training datasets of P3: those of Table 11 ("table-11"), or all that are in the folder but those that
            P3 is evaluated on.
        inputs: Inputs of P3 for methods that read instructions: the rendered prompts ("rendered"), which hold the
            template's text, or what is left of them without it ("fields"). Methods that read no instruction read the
            rendered prompts in either case.
        instances_per_task: At most so many training instances per task.
        test_instances_per_task: At most so many test instances per task.
        truncate: Shorten texts over their limit. Otherwise such a text is an error.
        shuffle_inputs: A control: exchange inputs among a task's instances, so that they tell nothing.
        task_split: Train only on the tasks of so many categories or data sets, the largest ones (Figure 3).
        validation_tasks: So many training tasks are held out of training for choosing the best checkpoint.
        validation_instances: Instances of each validation task.
        validation_categories: Hold out all training tasks of these categories instead.
        wordings: Weights by name of a wording: training draws a task's instruction by them, once per micro-batch.
            "definition" is the instruction itself. Tasks of Super-Natural Instructions also have "terse", "short",
            "plain", "request" and "detailed", and the `paraphrases` of JSON Lines are "1", "2" and so on. A task draws
            among the names that it has. By default the instruction and its paraphrases are equally likely.
        demonstrations: Share of these draws that show demonstrations, between 1 and `positives` of them. The other
            draws show none, and so do validation and evaluation unless `tagi evaluate --positives` asks for some. By
            default every row shows the first `positives` examples.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("datasets", "inputs", "validation_categories", "wordings", "demonstrations", "template_arguments"),
            *("test_tasks", "test_on_training"),
        }
    )

    rules: ClassVar[Mapping[str, Rule]] = {
        "path": _path_fault,
        "test_path": _only_with(("p3", "jsonl"), "test_path"),
        "test_tasks": _test_tasks_fault,
        "templates": _only_with(("p3",), "templates"),
        "datasets": _only_with(("p3",), "datasets", "table-11"),
        "inputs": _only_with(("p3",), "inputs", "rendered"),
        "prompts": _prompts_fault,
        "template_arguments": _template_arguments_fault,
        "task_split": _task_split_fault,
        "validation_categories": _validation_categories_fault,
        "wordings": _wordings_fault,
        "demonstrations": _demonstrations_fault,
    }

    source: Source
    path: Text | None = None
    test_path: Text | None = None
    test_tasks: Count | None = None
    test_on_training: Flag = False
    templates: Text | None = None
    prompts: Literal["original", "all"] = "original"
    datasets: Literal["table-11", "all"] = "table-11"
    inputs: Literal["rendered", "fields"] = "rendered"
    instances_per_task: Count = 100
    test_instances_per_task: Count = 100
    truncate: Flag = False
    shuffle_inputs: Flag = False
    task_split: Count | None = None
    validation_tasks: Whole = 0
    validation_instances: Count = 10
    validation_categories: Annotated[list[Text], Field(min_length=1)] | None = None
    wordings: dict[Text, NotNegative] | None = None
    demonstrations: Annotated[float, Strict(), Field(ge=0, le=1)] | None = None


@dataclass(frozen=True)
class ShotSettings(Table):
    """Labelled examples of a task, for methods that learn in context and for models of a single task.

    Shots of test tasks are drawn from what is not tested: further instances of the task, and of P3's prompts rows of
    the training set that is in `path` or beside the set that is tested (`super_glue/cb/train.jsonl` beside
    `validation.jsonl`), or without one further rows of the tested set.

    Args:
        count: Shots of a test task, and of every episode of training.
        seed: Seed of the draw.
        path: P3's folder of training sets, in the layout of `data.test_path`.
    """

    count: Count = 16
    seed: Seed = 0
    path: Text | None = None
