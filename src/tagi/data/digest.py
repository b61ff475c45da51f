"""Digests of what was read: data are the same if their content is, wherever it lies."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tagi.data.task import Task

_DIGITS = 16
_AT_ONCE = 1 << 20


def tasks_digest(tasks: Iterable[Task]) -> str:
    """`sha256:` and 16 digits over everything the tasks hold, in their order."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps(asdict(task), ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"


def files_digest(files: Iterable[Path]) -> str:
    """`sha256:` and 16 digits over the files' names and bytes, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as content:
            while block := content.read(_AT_ONCE):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:_DIGITS]}"
