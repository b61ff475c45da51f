"""Adapters of a few bytes that depend on their instruction, for the store: nothing heavy is imported."""

import hashlib
from pathlib import Path
from typing import Any

from tagi.serving.store import Draft

GENERATOR = "sha256:0123456789abcdef"


def files(instruction: str, size: int = 2000) -> dict[str, bytes]:
    """An adapter's files."""
    return {
        "about.json": instruction.encode(),
        "weights.bin": hashlib.shake_256(instruction.encode()).digest(size),
    }


def write_files(folder: Path, instruction: str, size: int = 2000) -> None:
    """Write an adapter's files into a new folder."""
    folder.mkdir()
    for name, content in files(instruction, size).items():
        (folder / name).write_bytes(content)


def draft(instruction: str, size: int = 2000, **about: Any) -> Draft:
    """An adapter to be stored."""
    return Draft(lambda folder: write_files(folder, instruction, size), instruction, **about)
