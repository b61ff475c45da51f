"""Checkpoints of a training run: completeness and identity."""

import errno
import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tagi.errors import TrainingError
from tagi.files import write_text

MARKER = "complete.json"
"""Written last and atomically. A checkpoint without it is incomplete."""

WEIGHTS = "model.safetensors"
"""The trained tensors, unsharded."""

_NAME = re.compile(r"checkpoint-(\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE = 1 << 20  # bytes: torch's writer does not report a full disk, but less free space than this suggests it


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step, which need not exist."""
    return folder / f"checkpoint-{step}"


def mark_complete(checkpoint: Path, identity: str, *, seconds: float = 0.0, processes: int = 1) -> None:
    """Mark a checkpoint as complete, and store the sizes of its files, the run's identity and its history.

    `seconds` is the training time so far, `processes` the number of processes.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    marker = {"identity": identity, "processes": processes, "seconds": seconds, "files": sizes}
    write_text(checkpoint / MARKER, json.dumps(marker, indent=2) + "\n")


def newest_complete(folder: Path, identity: str, *, processes: int = 1) -> Path | None:
    """Return the latest complete checkpoint, or None.

    Raises `TrainingError` if it belongs to a run with another identity (recipe, data or stage) or another number of
    processes, which would change the order of batches and dropout.
    """
    for _, path in reversed(_by_step(folder)):
        marker = read_marker(path)
        if marker is None:
            continue
        if marker["identity"] != identity:
            raise TrainingError(
                f"{path}: expected a checkpoint of this run ({identity}), got one of another ({marker['identity']}): "
                "the recipe, the data or the stage has changed"
            )
        if marker["processes"] != processes:
            raise TrainingError(
                f"{path}: expected a checkpoint of {processes} process(es), got one of {marker['processes']}: "
                "resume with as many"
            )
        return path
    return None


def read_marker(checkpoint: Path) -> dict[str, Any] | None:
    """Return what `mark_complete` wrote, or None if the checkpoint is incomplete."""
    try:
        marker: dict[str, Any] = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        whole = all((checkpoint / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # incomplete
        return None
    return {"processes": 1, "seconds": 0.0, **marker} if whole and "identity" in marker else None


def drop_old(folder: Path, step: int, keep: int, kept: Collection[int] = ()) -> None:
    """Delete checkpoints before `step` so that `keep` are left. `step` and `kept` are never deleted."""
    before = [(number, path) for number, path in _by_step(folder) if number < step and number not in kept]
    room = max(keep - len({step, *kept}), 0)
    for _, path in before[: max(len(before) - room, 0)]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Delete an incomplete checkpoint and raise an error that says why it could not be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as fault:
        if isinstance(fault, RuntimeError) and "inline_container" not in str(fault):  # not torch's writer
            raise
        full = _no_space(fault, checkpoint.parent)
        shutil.rmtree(checkpoint, ignore_errors=True)
        whole = [path for _, path in _by_step(checkpoint.parent) if read_marker(path) is not None]
        newest = f"is {whole[-1].name}, nothing up to it is lost" if whole else "is none"
        raise TrainingError(
            f"{checkpoint}: expected to write a checkpoint, got "
            f"{'no space left on device' if full else str(fault).splitlines()[0]}; the newest complete checkpoint "
            f"{newest}: {'make room and ' if full else ''}resume"
        ) from fault


def _no_space(fault: Exception, folder: Path) -> bool:
    told = getattr(fault, "errno", None) in _FULL or "No space left" in str(fault)
    return told or shutil.disk_usage(folder).free < _LITTLE


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found)
