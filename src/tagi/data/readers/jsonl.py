"""Your own tasks as JSON Lines: one task a line.

`{"task", "instruction", "category"?, "metric"?, "examples": [{"input", "output"}]?, "paraphrases": [...]?,
"instances": [{"input", "outputs": [...], "choices": [...]?, "id"?}]}`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.data.readers._checks import (
    as_list,
    as_object,
    as_text,
    as_texts,
    json_lines,
    only_known,
    required,
    shown,
)
from tagi.data.task import TASK_METRICS, Example, Instance, Task
from tagi.errors import DataError

_TASK_FIELDS = ("task", "category", "instruction", "examples", "instances", "paraphrases", "metric")
_EXAMPLE_FIELDS = ("input", "output")
_INSTANCE_FIELDS = ("id", "input", "outputs", "choices")


def read_jsonl(path: str | Path, *, require_instances: bool = True) -> list[Task]:
    """Reads tasks from a JSON Lines file, in file order.

    `task` and `instruction` are always needed, and with `require_instances` at least one instance. A task without
    `category` is a category of its own, named as the task. `metric` says how answers are scored (`TASK_METRICS`). An
    instance without `id` gets the task's name and its index. Blank lines are skipped.

    Raises `DataError` on the first fault, naming file, line and field, what was expected and what was got.
    """
    path = Path(path)
    tasks: list[Task] = []
    lines: dict[str, int] = {}
    for number, where, fields in json_lines(path):
        task = _task(fields, where, require_instances)
        first = lines.setdefault(task.name, number)
        if first != number:
            raise DataError(f"{where}: field 'task': {task.name!r} is the task of line {first} already")
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}: expected tasks, one JSON object a line, got an empty file")
    return tasks


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled example, where it stands, and the instruction of its task where that is told."""

    example: Example
    where: str
    instruction: str | None = None


def read_labelled(path: str | Path) -> list[Labelled]:
    """Labelled examples from a JSON Lines file, in file order; blank lines are skipped.

    A line is `{"input", "output"}`, or a task as `read_jsonl` has it: its instances then, each with its first output.

    Raises `DataError` on the first fault, naming file, line and field, and for a file without examples.
    """
    found: list[Labelled] = []
    for _, where, fields in json_lines(Path(path)):
        if "instances" in fields:
            task = _task(fields, where, require_instances=True)
            for at, one in enumerate(task.instances):
                place = f"{where}: instances[{at}]"
                found.append(Labelled(Example(one.input, one.outputs[0]), place, task.instruction))
        else:
            found.append(Labelled(_example(fields, where, filled=("input",)), where))
    if not found:
        raise DataError(f"{path}: expected an example a line, got none")
    return found


def _task(fields: dict[str, Any], where: str, require_instances: bool) -> Task:
    only_known(fields, _TASK_FIELDS, where)
    name = as_text(required(fields, "task", where), "task", where, filled=True)
    instruction = as_text(required(fields, "instruction", where), "instruction", where, filled=True).strip()
    category = as_text(fields.get("category", name), "category", where, filled=require_instances)
    if require_instances:
        required(fields, "instances", where)
    instances = as_list(fields.get("instances", []), "instances", where, filled=require_instances)
    examples = as_list(fields.get("examples", []), "examples", where)
    task = Task(
        name=name,
        category=category,
        instruction=instruction,
        instances=tuple(_instance(item, index, name, where) for index, item in enumerate(instances)),
        examples=tuple(_example(item, f"{where}: examples[{index}]") for index, item in enumerate(examples)),
        paraphrases=tuple(
            as_text(item, f"paraphrases[{index}]", where, filled=True).strip()
            for index, item in enumerate(as_list(fields.get("paraphrases", []), "paraphrases", where))
        ),
        metric=_metric(fields, where),
    )
    ids: dict[str, int] = {}
    for index, instance in enumerate(task.instances):
        first = ids.setdefault(instance.id, index)
        if first != index:
            at = f"{where}: instances[{index}]: field 'id'"
            raise DataError(f"{at}: {instance.id!r} is the id of instances[{first}] already")
    return task


def _metric(fields: dict[str, Any], where: str) -> str | None:
    """The task's metric, None if the line names none."""
    if "metric" not in fields:
        return None
    metric = as_text(fields["metric"], "metric", where)
    if metric not in TASK_METRICS:
        raise DataError(f"{where}: field 'metric': expected one of {', '.join(TASK_METRICS)}, got {shown(metric)}")
    return metric


def _example(item: Any, where: str, filled: Sequence[str] = ()) -> Example:
    fields = as_object(item, where)
    only_known(fields, _EXAMPLE_FIELDS, where)
    return Example(
        *(as_text(required(fields, name, where), name, where, filled=name in filled) for name in _EXAMPLE_FIELDS)
    )


def _instance(item: Any, index: int, task: str, where: str) -> Instance:
    where = f"{where}: instances[{index}]"
    fields = as_object(item, where)
    only_known(fields, _INSTANCE_FIELDS, where)
    outputs = as_texts(required(fields, "outputs", where), "outputs", where, filled=True)
    choices = None
    if "choices" in fields:
        choices = as_texts(fields["choices"], "choices", where, filled=True)
        # Rank classification could never be right.
        if not {output.strip() for output in outputs} & {choice.strip() for choice in choices}:
            got = shown(list(outputs))
            raise DataError(f"{where}: field 'outputs': expected one of the choices, got {got}")
    return Instance(
        id=as_text(fields.get("id", f"{task}-{index}"), "id", where, filled=True),
        input=as_text(required(fields, "input", where), "input", where, filled=True),
        outputs=outputs,
        choices=choices,
    )
