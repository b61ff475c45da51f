"""Which checkpoints of a run are complete, and whose they are."""

import json
import re
from pathlib import Path

from tagi.errors import TrainingError
from tagi.files import write_text

MARKER = "complete.json"
"""Written last, and by rename: a checkpoint without it was cut short."""

_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path, identity: str) -> None:
    """Declare a checkpoint whole: every file it holds, by size, and the identity of its run."""
    sizes = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir()) if path.name != MARKER}
    write_text(checkpoint / MARKER, json.dumps({"identity": identity, "files": sizes}, indent=2) + "\n")


def newest_complete(folder: Path, identity: str) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none.

    Raises `TrainingError` if it belongs to a run of another identity (recipe, data or stage).
    """
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        marker = _read_marker(path)
        if marker is None:
            continue
        if marker["identity"] != identity:
            raise TrainingError(
                f"{path}: expected a checkpoint of this run ({identity}), got one of another ({marker['identity']}): "
                "the recipe, the data or the stage has changed"
            )
        return path
    return None


def _read_marker(checkpoint: Path) -> dict | None:  # type: ignore[type-arg]
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        whole = all((checkpoint / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError):  # cut short: not a checkpoint yet
        return None
    return marker if whole else None
