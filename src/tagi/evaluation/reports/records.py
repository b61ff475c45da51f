"""Finding records under a folder, and what is wrong with those that cannot be used."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagi.errors import DataError
from tagi.evaluation.predictions_log import predictions_file, read_answers

RECORD = "record.json"
_CLAIM = "evaluation.json"
_CHECKPOINTS = "checkpoints"
_MARKS = ('"recipe"', '"environment"')
"""A JSON file of another name that has both is a record, kept under a name of its own."""
KINDS = ("training", "evaluation")
_NEEDED: dict[str, dict[str, type]] = {
    "all": {
        "seed": int,
        "recipe.name": str,
        "recipe.backbone.name": str,
        "recipe.data.source": str,
        "recipe.training": dict,
        "recipe.evaluation": dict,
        "environment.tagi": str,
    },
    "training": {"stage": str, "training.steps": int, "training.history": list},
    "evaluation": {"method": str, "revision": str, "data.digest": str, "data.instances": int, "results": dict},
}
"""What a record must say, by its kind."""
_NAMES: dict[type, str] = {str: "text", int: "a whole number", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class Record:
    """A usable record: where it lies under the reported folder, what it says, when it was written.

    `counts` has, for every condition whose predictions lie beside it, the number of them by task.
    """

    path: str
    content: dict[str, Any]
    written: float
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`training` or `evaluation`."""
        return str(self.content["kind"])

    @property
    def data_set(self) -> str:
        """What its tasks are called: the source, and the file's name of one's own."""
        data = self.content["recipe"]["data"]
        if data["source"] == "jsonl":
            return f"own tasks, {Path(str(data.get('path'))).name}"
        return str(data["source"])


@dataclass(frozen=True, order=True)
class LeftOut:
    """A record that is in no number, and why."""

    reason: str
    path: str
    detail: str


def read_records(folder: Path, form: int) -> tuple[list[Record], list[LeftOut]]:
    """Every record under `folder`, at any depth, in the order of their paths; `form` is the format they must have.

    What is broken, interrupted, partial, or of another form or kind is left out.
    """
    records, left_out = [], []
    for path in _candidates(folder):
        name = path.relative_to(folder).as_posix()
        found = _read(path, name, form)
        if isinstance(found, Record):
            records.append(found)
        elif found is not None:
            left_out.append(found)
    left_out += [LeftOut("interrupted", *one) for one in _interrupted(folder)]
    return records, left_out


def _candidates(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))


def _interrupted(folder: Path) -> Iterator[tuple[str, str]]:
    for claim in sorted(folder.rglob(_CLAIM)):
        if not (claim.parent / RECORD).exists():
            yield claim.parent.relative_to(folder).as_posix(), "an evaluation without its record: it did not end"
    for checkpoints in sorted(folder.rglob(_CHECKPOINTS)):
        if checkpoints.is_dir() and not (checkpoints.parent / RECORD).exists():
            yield checkpoints.parent.relative_to(folder).as_posix(), "a training run without its record: it did not end"


def _read(path: Path, name: str, form: int) -> Record | LeftOut | None:
    """A record, why it is none, or None for a file that is not meant to be one."""
    try:
        text = path.read_text(encoding="utf-8", errors="strict" if path.name == RECORD else "replace")
        if path.name != RECORD and not all(mark in text for mark in _MARKS):
            return None
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        return LeftOut("broken", name, f"not JSON: {error}")
    if not isinstance(content, dict):
        return LeftOut("broken", name, "not a JSON object") if path.name == RECORD else None
    if path.name != RECORD and not {"recipe", "environment"} <= content.keys():
        return None
    found = content.get("format")
    if found != form:
        got = "one without a format" if found is None else f"{found!r}"
        return LeftOut("another form", name, f"expected a record of format {form}, got {got}")
    if content.get("kind") not in KINDS:
        return LeftOut("another kind", name, f"of kind {content.get('kind')!r}: neither {' nor '.join(KINDS)}")
    fault = _fault(content)
    if fault is not None:
        return LeftOut("broken", name, fault)
    if content["kind"] == "evaluation" and content.get("partial"):
        return LeftOut("partial", name, "asked for less than the recipe's test set (--limit or --tasks)")
    if content["kind"] == "evaluation" and _asked_otherwise(content):
        return LeftOut("asked otherwise", name, "another wording or number of examples (--wording or --positives)")
    try:
        counts = _counts(path, content) if content["kind"] == "evaluation" else {}
    except DataError as error:
        return LeftOut("broken", name, str(error).replace(str(path.parent), "").lstrip("/"))
    return Record(name, content, path.stat().st_mtime, counts)


def _asked_otherwise(content: dict[str, Any]) -> bool:
    """Whether tasks were given in another wording, or with other examples, than the recipe's evaluation gives them."""
    usual = 0 if content["recipe"]["data"].get("demonstrations") is not None else None
    data = content["data"]
    return "wording" in data or data.get("positives", usual) != usual


def _counts(path: Path, content: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Predictions by task; a record may be kept without them, but not with others."""
    counts = {}
    for condition, result in content["results"].items():
        file = path.parent / predictions_file(condition)
        if path.name != RECORD or not file.exists():
            continue
        lines = read_answers(file)
        if len(lines) != result["n"]:
            raise DataError(f"{file.name}: expected {result['n']} predictions, as the record says, got {len(lines)}")
        counts[condition] = dict(Counter(str(line["task_id"]) for line in lines))
        if counts[condition].keys() != result["per_task"].keys():
            raise DataError(f"{file.name}: expected predictions of the record's tasks, got those of others")
        if not _finite(lines):
            raise DataError(f"{file.name}: expected finite numbers, got others")
    return counts


def _fault(content: dict[str, Any]) -> str | None:
    """What a record lacks of what every number here rests on."""
    for key, kind in {**_NEEDED["all"], **_NEEDED[content["kind"]]}.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{key}: expected {_NAMES[kind]}, got {value!r}"
    if content["kind"] == "training":
        history = content["training"]["history"]
        if not all(isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in history):
            return "training.history: expected entries with their step, got others"
        return None if _finite(content["training"]) else "training: expected finite numbers, got others"
    if not content["results"]:
        return "results: expected at least one condition, got none"
    faults = (_result_fault(name, result) for name, result in content["results"].items())
    return next((fault for fault in faults if fault), None)


def _result_fault(name: str, result: Any) -> str | None:
    where = f"results.{name}"
    if not isinstance(result, dict):
        return f"{where}: expected a table, got {result!r}"
    if not isinstance(result.get("n"), int) or result["n"] < 1:
        return f"{where}.n: expected a count of at least 1, got {result.get('n')!r}"
    metric, interval = result.get("metric"), result.get("interval")
    if not isinstance(metric, str):
        return f"{where}.metric: expected a name, got {metric!r}"
    if not isinstance(interval, list) or len(interval) != 2 or not all(map(_is_number, interval)):
        return f"{where}.interval: expected two finite numbers, got {interval!r}"
    if not _is_number(_at(result.get("overall"), metric)):
        return f"{where}.overall.{metric}: expected a finite number, got {_at(result.get('overall'), metric)!r}"
    per_task = result.get("per_task")
    if not isinstance(per_task, dict) or not per_task:
        return f"{where}.per_task: expected the scores of tasks, got {per_task!r}"
    for task, scores in per_task.items():
        if not _is_number(_at(scores, metric)):
            return f"{where}.per_task.{task}.{metric}: expected a finite number, got {_at(scores, metric)!r}"
    return None if _finite(result) else f"{where}: expected finite numbers, got others"


def _at(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: Any) -> bool:
    """Whether no number anywhere in it is infinite or none at all."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
