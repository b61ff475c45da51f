"""Digests of what was read: data are the same if their content is, wherever it lies."""

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
    """Return `sha256:` and 16 digits over what the tasks hold, in their order.

    Empty `shots`, `wordings` and `metric`, and no value of an instance's `rendered`, do not count, so that digests made
    before these fields existed still hold. `split` never counts: tasks are the same whatever they are for.

    Args:
        tasks: The tasks.
        wordings: Whether named wordings count. Most uses of tasks do not read them.
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
    """Return 12 digits over instruction and input of every instance, and the name of the first task that has it."""
    found: dict[str, str] = {}
    for task in tasks:
        for instance in task.instances:
            text = f"{task.instruction.strip()}\0{instance.input.strip()}"
            found.setdefault(hashlib.sha256(text.encode()).hexdigest()[:_INSTANCE_DIGITS], task.name)
    return found


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
