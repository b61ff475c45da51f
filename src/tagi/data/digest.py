"""Digests of what was read: data are the same if their content is, wherever it lies."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from tagi.data.task import Task

_DIGITS = 16
_AT_ONCE = 1 << 20
_LATER = ("shots", "wordings", "metric")
"""Fields of a task that were added later: left out while empty, so that older digests stay the same."""


def tasks_digest(tasks: Iterable[Task], *, wordings: bool = False) -> str:
    """Return `sha256:` and 16 digits over what the tasks hold, in their order.

    Empty `shots`, `wordings` and `metric`, and no value of an instance's `rendered`, do not count, so that digests made
    before these fields existed still hold.

    Args:
        tasks: The tasks.
        wordings: Whether named wordings count. Most uses of tasks do not read them.
    """
    digest = hashlib.sha256()
    for task in tasks:
        fields = asdict(task if wordings else replace(task, wordings=()))
        for name in _LATER:
            if not fields[name]:
                del fields[name]
        for instance in fields["instances"]:
            if instance["rendered"] is None:
                del instance["rendered"]
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
