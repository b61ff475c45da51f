"""Digests of data by content, independent of paths."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from tagi.data.task import Task

_DIGITS = 16
_INSTANCE_DIGITS = 12
_AT_ONCE = 1 << 20
_LATER = ("shots", "wordings", "metric", "split")
"""Fields of a task that were added later: left out while empty, so that older digests stay the same."""


def tasks_digest(tasks: Iterable[Task], *, wordings: bool = False) -> str:
    """Return `sha256:` and 16 digits, computed from the tasks' content in order.

    Empty `shots`, `wordings`, `metric` and `rendered` are ignored, so that digests from before these fields existed
    remain valid. `split` is always ignored.

    Args:
        tasks: The tasks.
        wordings: Whether to include named wordings. Most uses of tasks do not read them.
    """
    digest = hashlib.sha256()
    for task in tasks:
        fields = asdict(replace(task, split=None, wordings=task.wordings if wordings else ()))
        for name in _LATER:
            if not fields[name]:
                del fields[name]
        for instance in fields["instances"]:
            if instance["rendered"] is None:
                del instance["rendered"]
        digest.update(json.dumps(fields, ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"


def instance_digests(tasks: Iterable[Task]) -> dict[str, str]:
    """Return a digest (12 digits) of each instance's instruction and input, with the first task that has it."""
    found: dict[str, str] = {}
    for task in tasks:
        for instance in task.instances:
            text = f"{task.instruction.strip()}\0{instance.input.strip()}"
            found.setdefault(hashlib.sha256(text.encode()).hexdigest()[:_INSTANCE_DIGITS], task.name)
    return found


def files_digest(files: Iterable[Path], *, ends_only: bool = False) -> str:
    """Return `sha256:` and 16 digits, computed from the files' names, sizes and content, in order of names.

    `ends_only` reads only the first and last megabyte of every file, for corpora of hundreds of gigabytes.
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
