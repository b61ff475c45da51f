"""Checkpoints of a run: which are complete, and which run they belong to."""

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
"""Written last, and by rename: a checkpoint without it was cut short."""

WEIGHTS = "model.safetensors"
"""The trained tensors alone, in one piece."""

_NAME = re.compile(r"checkpoint-(\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE = 1 << 20  # bytes: torch's own writer does not say why it failed, but so little room does


def checkpoint_at(folder: Path, step: int) -> Path:
    """The checkpoint of a step, whether it exists or not."""
    return folder / f"checkpoint-{step}"


def mark_complete(checkpoint: Path, identity: str, *, seconds: float = 0.0, processes: int = 1) -> None:
    """Declare a checkpoint whole: every file it holds, by size, its run's identity, and what led to it.

    `seconds` is how long its steps took, `processes` how many took them.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    marker = {"identity": identity, "processes": processes, "seconds": seconds, "files": sizes}
    write_text(checkpoint / MARKER, json.dumps(marker, indent=2) + "\n")


def newest_complete(folder: Path, identity: str, *, processes: int = 1) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none.

    Raises `TrainingError` if it belongs to a run of another identity (recipe, data or stage), or of another number of
    processes: their order of batches and their dropout would not be those of one run.
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
    """Return what `mark_complete` wrote, or None if the checkpoint is not whole."""
    try:
        marker: dict[str, Any] = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        whole = all((checkpoint / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # cut short: not a checkpoint yet
        return None
    return {"processes": 1, "seconds": 0.0, **marker} if whole and "identity" in marker else None


def drop_old(folder: Path, step: int, keep: int, kept: Collection[int] = ()) -> None:
    """Delete old checkpoints before `step`, so that `keep` are left, `step` and `kept` in any case among them."""
    before = [(number, path) for number, path in _by_step(folder) if number < step and number not in kept]
    room = max(keep - len({step, *kept}), 0)
    for _, path in before[: max(len(before) - room, 0)]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Say in one line why a checkpoint could not be written, a full disk above all; what there is of it is deleted."""
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
