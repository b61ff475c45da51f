"""Settings of training and test tasks and of the format of their texts."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from tagi.settings.sources import BY_NAME, Source
from tagi.settings.tables import SPLITS, Count, Flag, NotNegative, Rule, Seed, Table, Text, Whole
from tagi.settings.text import TextFormat

TASK_FILES = (".jsonl", ".csv", ".tsv")
"""File name suffixes of a user's own tasks."""


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
    """Training, validation and test tasks, and how instructions vary. Includes the keys of `TextFormat`.

    Args:
        source: "toy": the built-in word-list tasks. "sni": Super-Natural Instructions. "p3": P3. "jsonl": your own
            tasks, as JSON Lines or a table. "everyday": the everyday benchmark, for evaluation only.
        path: Folder or file of the tasks.
        test_path: For P3, the folder of evaluation sets: rendered ones with a file per prompt, or raw ones with
            `templates`. For your own tasks, the file of test tasks.
        test_tasks: Number of your own tasks to hold out for testing. They are drawn with a fixed seed.
        test_on_training: Allow your own test tasks to share instances with the training tasks. Records, tables and
            reports then state it.
        templates: Folder of promptsource's template files (`imdb/templates.yaml`). They serve as instructions of P3's
            prompts and render raw evaluation sets. For a prompt without a template, the text that a random sample of
            its rows has in common is the instruction.
        prompts: Prompts of P3's evaluation sets. "original": those for the original task of a data set, as in T0's
            evaluation. "all": all of them.
        datasets: Training data sets of P3. "table-11": those of the paper's Table 11. "all": all in the folder, except
            those that P3 is evaluated on.
        inputs: Inputs of P3 for methods that read instructions. "rendered": the rendered prompts, which contain the
            template's text. "fields": the prompts without the template's text. Methods that read no instruction always
            read the rendered prompts.
        instances_per_task: Maximum number of training instances per task.
        test_instances_per_task: Maximum number of test instances per task.
        truncate: Truncate texts that exceed their limit. Otherwise such a text is an error.
        shuffle_inputs: Shuffle the inputs among a task's instances, so that they carry no information (a control).
        task_split: Train only on the tasks of this many categories or data sets, the largest ones (Figure 3).
        validation_tasks: Number of training tasks to hold out for selecting the best checkpoint.
        validation_instances: Number of instances of each validation task.
        validation_categories: Hold out all training tasks of these categories instead.
        wordings: Sampling weights of instruction wordings by name, drawn once per task and micro-batch. "definition" is
            the instruction itself. Tasks of Super-Natural Instructions also have "terse", "short", "plain", "request"
            and "detailed"; the `paraphrases` of your own tasks are named "1", "2" and so on. Names that a task lacks
            are ignored. By default the instruction and its paraphrases are equally likely.
        demonstrations: Share of training rows that show between 1 and `positives` demonstrations; the others show none.
            Validation and evaluation then show none, unless `tagi evaluate --positives` is given. By default every row
            shows the first `positives` demonstrations.
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
    """Labelled examples ("shots") of a task, for in-context methods and for models of a single task.

    Shots of a test task are never instances that it is scored on. They are further instances of the task; for P3, rows
    of the training set in `path` or next to the evaluation set (`super_glue/cb/train.jsonl` next to
    `validation.jsonl`), or else further rows of the evaluation set.

    Args:
        count: Number of shots of a test task and of every training episode.
        seed: Seed for drawing shots.
        path: Folder of P3's training sets, laid out like `data.test_path`.
    """

    count: Count = 16
    seed: Seed = 0
    path: Text | None = None
