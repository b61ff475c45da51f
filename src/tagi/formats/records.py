"""What a run leaves behind besides its results: enough to know how to get them again."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tagi import __version__
from tagi.errors import CheckpointError
from tagi.files import write_text
from tagi.settings.recipe import Recipe

RECORD = "record.json"
"""The record in a run's folder, the last of its files."""
FORMAT = 1
"""Version of the record's form: records of another cannot be compared with these."""
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "rouge-score", "numpy")


def environment() -> dict[str, Any]:
    """Versions, device and commit, if this is a checkout."""
    return {
        "tagi": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def write_record(path: Path, recipe: Recipe, content: dict[str, Any]) -> dict[str, Any]:
    """Write a run's record as JSON and return it. `content` says its `kind` (`training`, `evaluation`, ...)."""
    record = {
        "format": FORMAT,
        "kind": content["kind"],
        "seed": recipe.seed,
        "recipe": recipe.model_dump(mode="json"),
        "environment": environment(),
        **content,
    }
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def read_record(path: Path) -> dict[str, Any]:
    """A record of this project's, whole; `CheckpointError` if the file is anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a run's record, got: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise CheckpointError(f"{path}: expected a run's record, got JSON without the table 'recipe'")
    return record


def trained_by(checkpoint: Path) -> dict[str, Any] | None:
    """`stage`, `seed` and `recipe` of the run that left a checkpoint, by the record beside it; None without one."""
    if not (checkpoint.parent / RECORD).is_file():
        return None
    record = read_record(checkpoint.parent / RECORD)
    return {"stage": record.get("stage"), "seed": record["recipe"].get("seed"), "recipe": record["recipe"]}


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here: an installed package has no commit to name
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None
