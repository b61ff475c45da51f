"""Where a checkpoint lies: a built-in name, a run's folder, or the checkpoint's own."""

from pathlib import Path

from tagi.formats.hub import find_generator

MODEL = "model"
"""The finished checkpoint inside a run's folder."""


def find_checkpoint(name: str) -> Path:
    """The checkpoint folder that `name` means; `CheckpointError` if there is none."""
    folder = find_generator(name)
    return folder / MODEL if (folder / MODEL / "config.json").is_file() else folder
