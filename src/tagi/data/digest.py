"""Digests of what was read: data are the same if their content is, wherever it lies."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tagi.data.task import Task

_DIGITS = 16
_LATER = {"shots", "metric"}
"""Fields of a task that were added later: left out while empty, so that older digests stay the same."""
_AT_ONCE = 1 << 20


def tasks_digest(tasks: Iterable[Task]) -> str:
    """`sha256:` and 16 digits over everything the tasks hold, in their order.

    Fields that were added later count only where they are set, so that older tasks keep their digests.
    """
    digest = hashlib.sha256()
    for task in tasks:
        fields = {name: value for name, value in asdict(task).items() if value or name not in _LATER}
        digest.update(json.dumps(fields, ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"


def files_digest(files: Iterable[Path], *, ends_only: bool = False) -> str:
    """`sha256:` and 16 digits over the files' names, sizes and bytes, in order of their names.

    `ends_only` reads of every file no more than its first and last megabyte: for a corpus of hundreds of gigabytes.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as content:
            if ends_only and size > 2 * _AT_ONCE:
                digest.update(content.read(_AT_ONCE))
                content.seek(size - _AT_ONCE)
            while block := content.read(_AT_ONCE):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"
