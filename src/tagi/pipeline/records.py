"""What a run leaves behind besides its results: enough to know how to get them again."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tagi import __version__
from tagi.config import Recipe
from tagi.files import write_text

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
    """Write a run's record as JSON and return it."""
    record = {"recipe": recipe.model_dump(mode="json"), "environment": environment(), **content}
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here: an installed package has no commit to name
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None
