"""Your own tasks as JSON Lines with one task per line, or as a table (`csv_table`).

`{"task", "instruction", "category"?, "split"?, "metric"?, "examples": [{"input", "output"}]?, "paraphrases": [...]?,
"instances": [{"input", "outputs": [...], "choices": [...]?, "id"?}]}`
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from tagi.data.readers._checks import Filled, Row, Stripped, Text, Texts, json_lines
from tagi.data.readers.csv_table import SUFFIXES, table_rows
from tagi.data.task import Example, Instance, Metric, OwnSplit, Task
from tagi.errors import DataError
from tagi.settings.faults import shown
from tagi.settings.tables import ValidationInfo


class _OwnRow(Row):
    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, fields: Any) -> Any:
        for name in fields if isinstance(fields, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"unknown field {name!r}, expected {', '.join(cls.model_fields)}")
        return fields


class _Example(_OwnRow):
    input: Text
    output: Text


class _LabelledRow(_Example):
    input: Filled


class _Instance(_OwnRow):
    id: Filled | None = None
    input: Filled
    outputs: Texts
    choices: Texts | None = None

    @field_validator("choices")
    @classmethod
    def _hold_an_output(cls, choices: list[str] | None, info: ValidationInfo) -> list[str] | None:
        outputs = info.data.get("outputs")
        # Otherwise no answer in rank classification could be right.
        if choices and outputs and not {one.strip() for one in outputs} & {one.strip() for one in choices}:
            raise ValueError(f"expected one of the outputs among them, got {shown(choices)}")
        return choices


class _Task(_OwnRow):
    task: Filled
    category: Filled | None = None
    instruction: Stripped
    examples: list[_Example] = Field([])
    instances: list[_Instance] = Field([])
    paraphrases: list[Stripped] = Field([])
    metric: Metric | None = None
    split: OwnSplit | None = None


def read_jsonl(path: str | Path, *, require_instances: bool = True) -> list[Task]:
    """Read tasks from a JSON Lines file or a table (.csv, .tsv), in file order.

    `task` and `instruction` are required, and with `require_instances` at least one instance. A task without `category`
    is its own category, with the task's name. `metric` selects how answers are scored (`TASK_METRICS`). `split` marks
    the task for training or testing; a task name may occur once per split. An instance without `id` gets the task's
    name and its index. Blank lines are skipped.

    Raises `DataError` for the first error, with file, line and field, what was expected and what was given.
    """
    tasks: dict[tuple[str, str | None], Task] = {}
    places: dict[tuple[str, str | None], str] = {}
    for where, fields in _objects(Path(path), "tasks"):
        task = _task(fields, where, require_instances)
        same = [(name, split) for name, split in tasks if name == task.name]
        twin = next((key for key in same if None in (key[1], task.split) or key[1] == task.split), None)
        if twin is not None:
            raise DataError(f"{where}: task: {task.name!r} is already the task of {places[twin]}")
        tasks[task.name, task.split], places[task.name, task.split] = task, where
    return list(tasks.values())


def instructions_of(tasks: list[Task]) -> list[Task]:
    """Return every task once, even if it occurs in both splits. Raises `DataError` if their instructions differ."""
    found: dict[str, Task] = {}
    for task in tasks:
        first = found.setdefault(task.name, task)
        if first.instruction != task.instruction:
            wanted = f"expected one instruction for its train and test split, {first.instruction!r:.60}"
            raise DataError(f"task {task.name!r}: {wanted}, got {task.instruction!r:.60}")
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled example.

    Args:
        example: Input and output.
        where: Its location, for messages.
        instruction: The instruction of its task, if the file has it.
        task: The task with this example as its only instance, if the file has it.
    """

    example: Example
    where: str
    instruction: str | None = None
    task: Task | None = field(default=None, compare=False)


def read_labelled(path: str | Path) -> list[Labelled]:
    """Read labelled examples from a JSON Lines file or a table, in file order; blank lines are skipped.

    A line is `{"input", "output"}`, or a task as in `read_jsonl`, whose instances are used with their first output.

    Raises `DataError` for the first error, with file, line and field, and for a file without examples.
    """
    found: list[Labelled] = []
    for where, fields in _objects(Path(path), "examples"):
        if "instances" in fields:
            task = _task(fields, where, require_instances=True)
            for at, one in enumerate(task.instances):
                place = f"{where}: instances[{at}]"
                alone = replace(task, instances=(one,))
                found.append(Labelled(Example(one.input, one.outputs[0]), place, task.instruction, alone))
        else:
            row = _LabelledRow.checked(fields, where)
            found.append(Labelled(Example(row.input, row.output), where))
    return found


def _objects(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, or of a table."""
    return (table_rows if path.suffix.lower() in SUFFIXES else json_lines)(path, what)


def _task(fields: dict[str, Any], where: str, require_instances: bool) -> Task:
    row = _Task.checked(fields, where)
    if require_instances and not row.instances:
        raise DataError(f"{where}: instances: expected a list of at least 1, got none")
    instances: dict[str, Instance] = {}
    for index, one in enumerate(row.instances):
        name = one.id or f"{row.task}-{index}"
        if name in instances:
            raise DataError(f"{where}: instances.{index}.id: {name!r} is already the id of an earlier instance")
        choices = None if one.choices is None else tuple(one.choices)
        instances[name] = Instance(name, one.input, tuple(one.outputs), choices)
    return Task(
        name=row.task,
        category=row.category or row.task,
        instruction=row.instruction,
        instances=tuple(instances.values()),
        examples=tuple(Example(one.input, one.output) for one in row.examples),
        paraphrases=tuple(row.paraphrases),
        metric=row.metric,
        split=row.split,
    )
