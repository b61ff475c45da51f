"""A method's checkpoint: `config.json` and `model.safetensors`, the hub's own layout; never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagi.backbones.protocol import BaseModel
from tagi.errors import CheckpointError
from tagi.files import new_folder

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1
_MODEL_TYPE = "tagi"


def write_checkpoint(
    folder: Path,
    *,
    method: str,
    base: BaseModel,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write the folder as a whole or not at all; an earlier checkpoint there is replaced.

    The same content gives the same bytes. `files` are further texts (a model card); the base model's name and
    revision are pinned.
    """
    config = {**identity_of(method, base), **settings, "provenance": dict(extra or {})}
    with new_folder(folder, overwrite=True) as temporary:
        write_tensors(temporary, tensors)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors alone into an existing folder, each in its own type."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def identity_of(method: str, base: BaseModel) -> dict[str, Any]:
    """What every checkpoint's configuration says first: whose it is, and the base model it was made for."""
    return {
        "model_type": _MODEL_TYPE,
        "format": FORMAT,
        "method": method,
        "base_model": {"name": base.name, "revision": base.revision},
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint; `CheckpointError` if the folder holds none of this project's."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a checkpoint folder with {CONFIG} and {WEIGHTS}, got no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != _MODEL_TYPE:
        raise CheckpointError(f"{path}: expected model_type {_MODEL_TYPE!r}, got {found!r}: not a checkpoint of tagi")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {config.get('format')!r}")
    missing = [key for key in ("method", "base_model", "text") if key not in config]
    if missing:
        raise CheckpointError(f"{path}: expected a field {missing[0]!r}, got none")
    base = config["base_model"]
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in ("name", "revision")):
        raise CheckpointError(f"{path}: expected 'base_model' with a name and a revision, got {base!r}")
    return config


def read_tensors(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors, which must have exactly the names and shapes of `expected`."""
    path = folder / WEIGHTS
    tensors = read_some_tensors(folder)
    odd = sorted(tensors.keys() ^ expected.keys())
    if odd:
        state = "missing" if odd[0] in expected else "unexpected"
        raise CheckpointError(f"{path}: tensor {odd[0]!r} is {state} ({len(odd)} such)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: expected {name!r} of shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            )
    return tensors


def read_some_tensors(folder: Path) -> dict[str, Tensor]:
    """Whatever tensors the checkpoint holds; `CheckpointError` if its file is missing or damaged."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected {WEIGHTS}, got no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected whole safetensors, got a damaged file ({error})") from error


def base_of(config: Mapping[str, Any]) -> BaseModel:
    """The pinned base model of a checkpoint's configuration."""
    base = config["base_model"]
    return BaseModel(base["name"], base["revision"])
