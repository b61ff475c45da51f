"""The folder that an evaluation writes into: whose it is, who is in it, and what an earlier run left there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tagi.data.task import Task
from tagi.errors import ConfigError, DataError
from tagi.evaluation.predictions_log import TaskLog
from tagi.evaluation.scoring.answers import line_fault
from tagi.files import write_text
from tagi.formats.records import RECORD, read_record

_LOCK = ".lock"
_WHOLE = {"n", "metric", "overall", "interval", "per_category"}
"""What a finished evaluation's record has of every condition."""
_CLAIM = "evaluation.json"
"""What an evaluation is of, written before its first answer, so that only the same one goes on with its files."""


def claim(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """Take `out` for this evaluation; its record if it is finished there. Anything else's files are an error."""
    mark, record = out / _CLAIM, out / RECORD
    if not out.exists() or not any(file.name != _LOCK for file in out.iterdir()):
        write_text(mark, json.dumps({"evaluation": identity}) + "\n")
        return None
    if not resume or not (mark.exists() or record.exists()):
        own = ": go on with --resume" if mark.exists() or record.exists() else ""
        raise ConfigError(f"{out}: expected a new folder, got one that holds files{own}")
    found = read_record(record) if record.exists() else _read_claim(mark)
    other = found.get("evaluation")
    if other != identity:
        raise ConfigError(
            f"{out}: expected an evaluation of this checkpoint, recipe and data, of the same conditions and limits "
            f"({identity}), got another ({other}): score into another folder"
        )
    if not record.exists():
        return None
    results = found.get("results")
    tables = list(results.values()) if isinstance(results, dict) else []
    whole = all(isinstance(table, dict) and table.keys() >= _WHOLE for table in tables)
    if not tables or not whole or not isinstance(found.get("data"), dict):
        raise ConfigError(f"{record}: expected a finished evaluation's record, got one without its results")
    return found


def _read_claim(claim: Path) -> dict[str, Any]:
    try:
        found = json.loads(claim.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{claim}: expected what is evaluated here, got: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{claim}: expected what is evaluated here, got {found!r:.40}")
    return found


@contextmanager
def alone(out: Path | None) -> Iterator[None]:
    """No other process evaluates into the folder meanwhile."""
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
        if {file.name for file in out.iterdir()} <= {_LOCK}:  # nothing was begun
            (out / _LOCK).unlink(missing_ok=True)
            out.rmdir()


def check_kept(log: TaskLog, task: Task) -> None:
    """What an earlier run left is taken up only if it answers these instances."""
    for line, instance in zip(log.lines(task.name), task.instances, strict=True):
        fault = line_fault(line)
        asked = {"id": instance.id, "input": instance.input, "references": list(instance.outputs)}
        wrong = [key for key, value in asked.items() if key in line and line[key] != value]
        if fault is None and wrong:
            fault = f"{wrong[0]}: expected {asked[wrong[0]]!r:.60}, got {line[wrong[0]]!r:.60}"
        if fault:
            raise DataError(f"{log.path}: task {task.name!r}: {fault}: remove the file to ask anew")
