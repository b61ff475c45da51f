"""The output folder of an evaluation: its identity, and results of an interrupted run."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from tagi.data.task import Task
from tagi.errors import ConfigError, DataError
from tagi.evaluation.predictions_log import TaskLog
from tagi.evaluation.reports.records import read_evaluation
from tagi.evaluation.scoring.answers import Answer, RankedAnswer, read_line
from tagi.files import write_text
from tagi.formats.records import RECORD, read_record

_LOCK = ".lock"
_CLAIM = "evaluation.json"
"""Stores the identity of the evaluation before its first answer, so that only the same one can be resumed."""


def claim(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """Prepare `out` for this evaluation. Returns the record if the evaluation is already finished.

    Raises a `TagiError` if the folder has other content, or if its record is damaged.
    """
    mark, record = out / _CLAIM, out / RECORD
    if not out.exists() or not any(file.name != _LOCK for file in out.iterdir()):
        write_text(mark, json.dumps({"evaluation": identity}) + "\n")
        return None
    begun = mark.exists() or record.exists()
    if not resume or not begun:
        remedy = ": go on with --resume" if begun else ""
        raise ConfigError(f"{out}: expected a new folder, got one that holds files{remedy}")
    other = (read_record(record) if record.exists() else _read_claim(mark)).get("evaluation")
    if other != identity:
        wanted = "expected an evaluation of this checkpoint, recipe and data, of the same conditions and limits"
        raise ConfigError(f"{out}: {wanted} ({identity}), got another ({other}): score into another folder")
    return read_evaluation(record) if record.exists() else None


def _read_claim(claim: Path) -> dict[str, Any]:
    try:
        return TypeAdapter(dict[str, Any]).validate_json(claim.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{claim}: expected the identity of an evaluation, got: {error}") from error


@contextmanager
def alone(out: Path | None) -> Iterator[None]:
    """Lock the folder. Raises `ConfigError` if another process evaluates into it."""
    if out is None:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{out}: expected no other evaluation into it at this time, got one that runs") from error
    try:
        yield
    finally:
        lock.release()
        if {file.name for file in out.iterdir()} <= {_LOCK}:  # nothing was started
            (out / _LOCK).unlink(missing_ok=True)
            out.rmdir()


def kept_answers(log: TaskLog, task: Task) -> Sequence[Answer | RankedAnswer]:
    """Return a task's answers of an interrupted run. Raises `DataError` if they are for other instances."""
    answers = []
    for line, instance in zip(log.lines(task.name), task.instances, strict=True):
        try:
            answers.append(read_line(line))
            for key, value in (("id", instance.id), ("input", instance.prompt), ("references", list(instance.outputs))):
                if key in line and line[key] != value:
                    raise DataError(f"{key}: expected {value!r:.60}, got {line[key]!r:.60}")
        except DataError as error:
            raise DataError(
                f"{log.path}: task {task.name!r}: {error}: remove the file to score the task again"
            ) from error
    return answers
