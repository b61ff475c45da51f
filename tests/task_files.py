"""Tasks as JSON Lines files, for tests."""

import json
from collections.abc import Iterable
from pathlib import Path

from tagi.data.task import Task


def write_jsonl(tasks: Iterable[Task], path: Path) -> None:
    """Write tasks so that `read_jsonl` gives them back; optional fields that are empty are left out."""
    path.write_text("".join(json.dumps(_fields(task), ensure_ascii=False) + "\n" for task in tasks), encoding="utf-8")


def _fields(task: Task) -> dict[str, object]:
    given = {
        "examples": [{"input": one.input, "output": one.output} for one in task.examples],
        "instances": [
            {"id": one.id, "input": one.input, "outputs": list(one.outputs)}
            | ({} if one.choices is None else {"choices": list(one.choices)})
            for one in task.instances
        ],
        "paraphrases": list(task.paraphrases),
        "metric": task.metric,
    }
    named = {"task": task.name, "category": task.category, "instruction": task.instruction}
    return {**named, **{name: value for name, value in given.items() if value}}
