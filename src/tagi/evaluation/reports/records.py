"""Find the records under a folder, and the reason for each that cannot be used."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError, model_validator

from tagi.errors import CheckpointError, DataError
from tagi.evaluation.predictions_log import predictions_file, read_answers
from tagi.formats.records import FORMAT, RECORD, read_record
from tagi.settings.faults import fault_sentence

_MARKS = ('"recipe"', '"environment"')
"""A JSON file with any other name is also a record if it contains both."""
_UNRECORDED = "not recorded"
Scores = dict[str, FiniteFloat]


class _Result(BaseModel):
    """The parts of a condition's result that a report uses."""

    n: PositiveInt
    metric: str
    interval: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
    overall: Scores
    per_task: dict[str, Scores] = {}
    per_category: dict[str, Scores] = {}

    @model_validator(mode="after")
    def _have_the_metric(self) -> "_Result":
        for name, scores in {"overall": self.overall, **self.per_task}.items():
            if self.metric not in scores:
                raise ValueError(f"expected a score {self.metric!r} of {name}")
        return self


class _Step(BaseModel):
    step: int


class _Teacher(BaseModel):
    first_loss: FiniteFloat
    final_loss: FiniteFloat


_COMMON: dict[str, Any] = {
    "seed": int,
    "recipe.name": str,
    "recipe.backbone.name": str,
    "recipe.data.source": str,
    "recipe.training": dict,
    "recipe.evaluation": dict,
    "environment.tagi": str,
}
_KEYS: dict[Any, dict[str, Any]] = {
    "training": {
        **_COMMON,
        "stage": str,
        "training.steps": int,
        "training.history": list[_Step],
        "teachers": list[_Teacher] | None,
    },
    "evaluation": {
        **_COMMON,
        "method": str,
        "revision": str,
        "data.digest": str,
        "data.instances": int,
        "results": Annotated[dict[str, _Result], Field(min_length=1)],
    },
    **{kind: {"recipe.name": str, "environment.tagi": str} for kind in ("flops", "methods", "time")},
}
"""Required keys of each kind of record: dotted key -> type."""


@dataclass(frozen=True)
class Record:
    """A usable record.

    Args:
        path: Path relative to the reported folder.
        content: The parsed record.
        written: Modification time, in seconds since the epoch.
        counts: Number of predictions by task, for every condition whose predictions are next to the record.
    """

    path: str
    content: dict[str, Any]
    written: float
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`training`, `evaluation`, `flops`, `methods` or `time`."""
        return str(self.content["kind"])

    @property
    def data_set(self) -> str:
        """Name of the data set: the source; for the user's own tasks, with the name of the file."""
        data = self.content["recipe"]["data"]
        if data["source"] == "jsonl":
            return f"own tasks, {Path(str(data.get('path'))).name}"
        return str(data["source"])


@dataclass(frozen=True, order=True)
class LeftOut:
    """A record that is not used, and the reason."""

    reason: str
    path: str
    detail: str


def read_records(folder: Path) -> tuple[list[Record], list[LeftOut]]:
    """Return the usable records under `folder`, at any depth and sorted by path, and those that are left out.

    Records that are broken, interrupted, partial, or of another format or kind are left out.
    """
    records, left_out = [], []
    for path in sorted(path for path in folder.rglob("*.json") if not path.name.startswith(".")):
        found = _read(path, path.relative_to(folder).as_posix())
        if isinstance(found, Record):
            records.append(found)
        elif found is not None:
            left_out.append(found)
    for mark, what in (("evaluation.json", "an evaluation"), ("checkpoints", "a training run")):
        for path in sorted(folder.rglob(mark)):
            if not (path.parent / RECORD).exists():
                place = path.parent.relative_to(folder).as_posix()
                left_out.append(LeftOut("interrupted", place, f"{what} without its record: it did not end"))
    return records, left_out


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the record of a finished evaluation. Raises `CheckpointError` for anything else."""
    record = read_record(path)
    form, kind = record.get("format"), record.get("kind")
    if (form, kind) != (FORMAT, "evaluation"):
        wanted = f"an evaluation's record of format {FORMAT}"
        raise CheckpointError(f"{path}: expected {wanted}, got kind {kind!r} of format {form!r}")
    if fault := _fault(record):
        raise CheckpointError(f"{path}: expected a finished evaluation's record: {fault}")
    return record


def training_mark(record: Mapping[str, Any]) -> str:
    """Return the mark after a score if the evaluation tested on training data, else an empty text."""
    return " (tested on training data)" if record.get("data", {}).get("trained_on") else ""


def _read(path: Path, name: str) -> Record | LeftOut | None:
    """Return a record, the reason why it is left out, or None for a file that is not a record."""
    named = path.name == RECORD
    try:
        text = path.read_text(encoding="utf-8", errors="strict" if named else "replace")
        if not named and not all(mark in text for mark in _MARKS):
            return None
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        return LeftOut("broken", name, f"not JSON: {error}")
    if not isinstance(content, dict) or not (named or {"recipe", "environment"} <= content.keys()):
        return LeftOut("broken", name, "not a JSON object") if named else None
    content = _with_format(content)
    form, kind = content.get("format"), content.get("kind")
    if form != FORMAT:
        got = "one without a format" if form is None else f"{form!r}"
        return LeftOut("another form", name, f"expected a record of format {FORMAT}, got {got}")
    if kind not in _KEYS:
        return LeftOut("another kind", name, f"of kind {kind!r}: neither {' nor '.join(_KEYS)}")
    if fault := _fault(content):
        return LeftOut("broken", name, fault)
    counts: dict[str, dict[str, int]] = {}
    if kind == "evaluation":
        if content.get("partial"):
            return LeftOut("partial", name, "asked for less than the recipe's test set (--limit or --tasks)")
        if _asked_otherwise(content):
            return LeftOut("asked otherwise", name, "another wording or number of examples (--wording or --positives)")
        try:
            counts = _counts(path.parent, content) if named else {}
        except DataError as error:
            return LeftOut("broken", name, str(error).replace(str(path.parent), "").lstrip("/"))
    return Record(name, content, path.stat().st_mtime, counts)


def _with_format(content: dict[str, Any]) -> dict[str, Any]:
    """Return the record. Records of versions without format, kind and seed get these.

    For such an evaluation, the weights and texts are unknown.
    """
    recipe, data = content.get("recipe"), content.get("data")
    kind = next((name for key, name in (("training", "training"), ("results", "evaluation")) if key in content), None)
    older = not {"format", "kind"} & content.keys()
    if not older or kind is None or not isinstance(recipe, dict):
        return content
    known = {"format": FORMAT, "kind": kind, "seed": recipe.get("seed")}
    if kind == "evaluation" and isinstance(data, dict):
        known |= {"revision": _UNRECORDED, "data": {"digest": _UNRECORDED, **data}}
        content = {key: value for key, value in content.items() if key != "data"}
    return {**known, **content}


def _fault(content: dict[str, Any]) -> str | None:
    """Return the error in a record of a known kind, or None."""
    for key, kind in _KEYS[content["kind"]].items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            sentence = fault_sentence(error.errors(include_url=False)[0])
            return f"{key}{'' if sentence.startswith(':') else '.'}{sentence}"
    numbers = {"training": "training", "evaluation": "results"}.get(content["kind"], "methods")
    if numbers not in content:
        return f"{numbers}: expected a value, got nothing"
    return None if _finite(content[numbers]) else f"{numbers}: expected finite numbers, got others"


def _asked_otherwise(content: dict[str, Any]) -> bool:
    """Return whether the wording or the number of examples differs from the recipe's evaluation."""
    usual = 0 if content["recipe"]["data"].get("demonstrations") is not None else None
    data = content["data"]
    return "wording" in data or data.get("positives", usual) != usual


def _counts(folder: Path, content: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Count predictions by task. A record may lack its predictions, but must not have those of another evaluation."""
    counts = {}
    for condition, result in content["results"].items():
        file = folder / predictions_file(condition)
        if not file.exists():
            continue
        lines = read_answers(file)
        if len(lines) != result["n"]:
            raise DataError(f"{file.name}: expected {result['n']} predictions, as the record says, got {len(lines)}")
        counts[condition] = dict(Counter(str(line["task_id"]) for line in lines))
        scored, answered = result["per_task"].keys(), counts[condition].keys()
        # If tasks have their own metrics, `per_task` has only those that count for the main score.
        if scored != answered and not ("counts" in result and scored <= answered):
            raise DataError(f"{file.name}: expected predictions of the record's tasks, got those of others")
        if not _finite(lines):
            raise DataError(f"{file.name}: expected finite numbers, got others")
    return counts


def _finite(value: Any) -> bool:
    """Return whether all numbers in it are finite."""
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)
