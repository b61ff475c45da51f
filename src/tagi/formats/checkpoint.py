"""Checkpoints of methods: `config.json` and `model.safetensors`, as on the hub, without pickle."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagi.backbones.protocol import BaseModel
from tagi.errors import CheckpointError
from tagi.files import new_folder, refuse_pointers
from tagi.formats.records import Record

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1


class CheckpointConfig(Record):
    """Keys that every checkpoint's configuration has. Methods add further keys."""

    model_config = pydantic.ConfigDict(extra="allow")
    FILE = CONFIG
    WHAT = "a checkpoint of tagi"
    model_type: Literal["tagi"]
    format: Literal[1]
    method: str
    base_model: BaseModel
    text: Any


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
    """Write a checkpoint atomically. The same content gives identical files.

    Args:
        folder: The folder. An earlier checkpoint in it is replaced.
        method: Name of the method.
        base: Name and revision of the base model.
        settings: Configuration keys of the method.
        tensors: The trained tensors, by name.
        extra: Information about the training.
        files: Further text files by name, such as a model card.
    """
    config = {**identity_of(method, base), **settings, "provenance": dict(extra or {})}
    texts = {CONFIG: json.dumps(config, indent=2, sort_keys=True) + "\n", **(files or {})}
    with new_folder(folder, overwrite=True) as temporary:
        write_tensors(temporary, tensors)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def identity_of(method: str, base: BaseModel) -> dict[str, Any]:
    """Return the common keys of configurations: kind, method and base model."""
    return {
        "model_type": "tagi",
        "format": FORMAT,
        "method": method,
        "base_model": {"name": base.name, "revision": base.revision},
    }


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's configuration. Raises `CheckpointError` if the folder is not a checkpoint of tagi."""
    return CheckpointConfig.read(folder).model_dump()


def base_of(config: Mapping[str, Any]) -> BaseModel:
    """Return the pinned base model of a checkpoint's configuration."""
    return BaseModel(**config["base_model"])


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], file: str = WEIGHTS, *, marked: bool = True) -> None:
    """Write tensors, each in its own type, into a file of an existing folder.

    Args:
        folder: The folder.
        tensors: The tensors by name.
        file: The file's name.
        marked: Whether to mark the file as written by PyTorch, which transformers requires.

    Raises `OSError` if the file cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(whole, folder / file, metadata={"format": "pt"} if marked else None)
    except SafetensorError as error:  # a full disk is only recognisable by the message
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder / file)) from error


def read_tensors(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, which must have exactly the names and shapes of `expected`."""
    tensors = read_some_tensors(folder)
    check_tensors(folder / WEIGHTS, tensors, {name: tensor.shape for name, tensor in expected.items()})
    return tensors


def read_some_tensors(folder: Path, file: str = WEIGHTS) -> dict[str, Tensor]:
    """Read all tensors of a folder's file. Raises `CheckpointError` if the file is missing or damaged."""
    path = folder / file
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected {file}, got no such file")
    refuse_pointers(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected whole safetensors, got a damaged file ({error})") from error


def check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise `CheckpointError` unless the tensors of a file have exactly these names and shapes."""
    check_names(path, tensors, shapes.keys())
    check_shapes(path, tensors, shapes)


def check_names(path: Path, tensors: Mapping[str, Tensor], names: Set[str]) -> None:
    """Raise `CheckpointError` unless the tensors of a file have exactly these names."""
    odd = sorted(tensors.keys() ^ names)
    if odd:
        state = "missing" if odd[0] in names else "unexpected"
        raise CheckpointError(f"{path}: tensor {odd[0]!r} is {state} ({len(odd)} such)")


def check_shapes(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise `CheckpointError` unless the tensors of a file have these shapes."""
    for name, shape in shapes.items():
        if (found := tuple(tensors[name].shape)) != tuple(shape):
            raise CheckpointError(f"{path}: expected {name!r} of shape {tuple(shape)}, got {found}")


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` if a tensor of a file holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite numbers, got NaN or infinity in {name!r}")


def content_digest(tensors: Mapping[str, Tensor], *, start: str = "", typed: bool = False) -> str:
    """Return `sha256:` and 16 digits over the names and bytes of tensors.

    Args:
        tensors: The tensors by name; their order does not matter.
        start: Text that comes before them.
        typed: Whether types and shapes count as well.
    """
    digest = hashlib.sha256(start.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() if typed else name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
