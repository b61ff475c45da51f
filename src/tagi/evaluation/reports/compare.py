"""Two evaluations' folders, one against the other."""

from pathlib import Path
from typing import Any

from tagi.errors import CheckpointError, DataError, InputError
from tagi.evaluation.predictions_log import predictions_file, read_answers
from tagi.evaluation.reports.paired_answers import Scored, compare_answers, score_lines
from tagi.evaluation.scoring.answers import line_fault
from tagi.formats.records import FORMAT, RECORD, read_record

_NOT_OF_THE_RUN = ("name", "description", "data.path")


def compare(
    a: Path, b: Path, *, condition: str = "right", metric: str | None = None, examples: int = 0
) -> dict[str, Any]:
    """Evaluation `a` against `b` over the same instances, as `compare_answers` has it.

    The result also names the `condition`, the `metric` (by default the first evaluation's own), what each is of, and
    every key in which their recipes differ. Raises a `TagiError` if either is no complete evaluation, or if they are
    not of the same test data.
    """
    records = [_evaluation(folder) for folder in (a, b)]
    data = [record["data"] for record in records]
    if data[0]["digest"] != data[1]["digest"]:
        raise DataError(f"expected evaluations of the same test data, got {_data(a, data[0])} and {_data(b, data[1])}")
    for folder, record in zip((a, b), records, strict=True):
        if condition not in record["results"]:
            known = ", ".join(record["results"])
            raise InputError(f"--condition: expected one of {folder} ({known}), got {condition!r}")
    for folder, record in zip((a, b), records, strict=True):
        result = record["results"][condition]
        if not isinstance(result, dict) or not isinstance(result.get("n"), int) or "metric" not in result:
            raise DataError(f"{folder}: expected results.{condition} with 'n' and 'metric', got {result!r:.60}")
    metric = metric or str(records[0]["results"][condition]["metric"])
    scored = [_scored(folder, record, condition, metric) for folder, record in zip((a, b), records, strict=True)]
    return {
        "condition": condition,
        "metric": metric,
        "of": {"a": _of(a, records[0]), "b": _of(b, records[1])},
        "recipes_differ": _differing(records[0]["recipe"], records[1]["recipe"]),
        **compare_answers(*scored, examples=examples),
    }


def _evaluation(folder: Path) -> dict[str, Any]:
    path = folder / RECORD if folder.is_dir() else folder
    record = read_record(path)
    found = {key: record.get(key) for key in ("format", "kind")}
    if found != {"format": FORMAT, "kind": "evaluation"}:
        wanted = f"an evaluation's record of format {FORMAT}"
        raise CheckpointError(f"{path}: expected {wanted}, got kind {found['kind']!r} of format {found['format']!r}")
    wanted_tables = ("results", "data", "recipe", "environment")
    lacking = [key for key in wanted_tables if not isinstance(record.get(key), dict)]
    if lacking or "digest" not in record["data"]:
        raise CheckpointError(f"{path}: expected an evaluation's record, got one without {lacking or 'data.digest'}")
    return record


def _scored(folder: Path, record: dict[str, Any], condition: str, metric: str) -> list[Scored]:
    path = (folder if folder.is_dir() else folder.parent) / predictions_file(condition)
    lines = read_answers(path)
    count = record["results"][condition]["n"]
    for number, line in enumerate(lines, start=1):
        fault = line_fault(line)
        if fault:
            raise DataError(f"{path}, line {number}: {fault}")
    if len(lines) != count:
        raise DataError(f"{path}: expected {count} answers, as its record says, got {len(lines)}")
    try:
        return score_lines(lines, metric)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _data(folder: Path, data: dict[str, Any]) -> str:
    return f"{data['digest']} ({data.get('tasks')} tasks, {data.get('instances')} instances) in {folder}"


def _of(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    named = {key: record.get(key) for key in ("method", "checkpoint", "revision", "seed", "partial")}
    return {"folder": str(folder), **named, "tagi": record.get("environment", {}).get("tagi")}


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    first, second = dict(_flat(a)), dict(_flat(b))
    keys = [key for key in {**first, **second} if key not in _NOT_OF_THE_RUN]
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
