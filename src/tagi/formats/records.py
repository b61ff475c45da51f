"""JSON files that say what a folder holds: reading, writing, and the records of runs, task adapters and exports."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pydantic
import torch

from tagi import __version__
from tagi.backbones.protocol import BaseModel
from tagi.data.task import Example
from tagi.errors import CheckpointError
from tagi.files import refuse_pointers, write_text
from tagi.settings.recipe import Recipe

RECORD = "record.json"
"""The record in a run's folder, the last of its files."""
FORMAT = 1
"""Version of the record's form: records of another cannot be compared with these."""
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "rouge-score", "numpy")
R = TypeVar("R", bound="Record")


class Record(pydantic.BaseModel):
    """What a JSON file must hold. Values are not converted."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    FILE: ClassVar[str]
    """The file's name in its folder."""
    WHAT: ClassVar[str]
    """What the file is, for messages."""

    @classmethod
    def read(cls: type[R], folder: Path) -> R:
        """Read the record of a folder. Raises `CheckpointError`, one line with file and key, if it is not valid."""
        return read_json(folder / cls.FILE, cls)

    def write(self, folder: Path) -> None:
        """Write the record into an existing folder, without optional fields that have their default."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        (folder / self.FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path, model: type[R]) -> R:
    """Read a JSON file. Raises `CheckpointError`, one line with file and key, if it is not what `model` says."""
    refuse_pointers(path)
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"{path.parent}: expected {model.WHAT} ({path.name}), got {reason}") from error
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "value_error":
            raise CheckpointError(f"{path}: expected {model.WHAT}; {fault['ctx']['error']}") from error
        key = "".join(f"{part}." for part in fault["loc"])[:-1]
        message = fault["msg"].replace("Input should be", "expected").replace("Field required", "expected a value")
        found = "none" if fault["type"] == "missing" else f"{fault['input']!r:.60}"
        where = f"'{key}': " if key else ""
        raise CheckpointError(f"{path}: expected {model.WHAT}; {where}{message}, got {found}") from error


class RunRecord(Record):
    """What a training stage or an evaluation was and gave; keys depend on its kind."""

    model_config = pydantic.ConfigDict(extra="allow")
    FILE = RECORD
    WHAT = "a run's record"
    recipe: dict[str, Any]


class AdapterRecord(Record):
    """What a task adapter was made from.

    Args:
        format: Version of the record's form.
        instruction: The instruction it was generated from.
        examples: The demonstrations that were shown with it.
        generator: Digest of the generator that made it.
        base_model: Name and revision of the backbone.
        source: A name that finds the generator from any folder. None in older folders, which have it in a file of its
            own, and for a generator that was never saved.
        module: What was generated.
        refined: How it was trained further; empty if it was not.
        alone: Whether inputs are answered without the instruction's keys and values.
    """

    FILE = "task_adapter.json"
    WHAT = "the record of a task adapter"
    format: Literal[1]
    instruction: str
    examples: tuple[Example, ...]
    generator: str
    base_model: BaseModel
    source: str | None = None
    module: str = "lora"
    refined: dict[str, Any] = {}
    alone: bool = False


class Origin(Record):
    """What an exported LoRA was made from; unknown parts are None.

    Args:
        base_model: Name and revision of the backbone.
        model: transformers' class of the backbone.
        instruction: The task's instruction.
        examples: The task's demonstrations.
        generator: Digest of the generator.
        seed: The generator's seed.
        refined: How the LoRA was trained further after it was generated.
        prompt: What is written around an input, which `{input}` stands for; of generators without `instruction_cache`.
        prompts: The prompts that `export_prompts.prompts_of` returns; of generators with `instruction_cache`.
    """

    base_model: BaseModel
    model: str
    instruction: str | None
    examples: tuple[Example, ...]
    generator: str | None
    seed: int | None
    refined: dict[str, Any] | None = None
    prompt: str | None = None
    prompts: dict[str, Any] | None = None


class ExportRecord(Origin):
    """What an export is.

    Args:
        format: Version of the record's form.
        kind: What was written: PEFT's folder, a merged model, a GGUF file.
        rank: The LoRA's rank.
        alpha: The LoRA's alpha.
        layers: Number of layers with LoRA.
        targets: The last parts of these layers' names.
        dtype: Type of the LoRA's numbers.
        lost: What the task rests on and the export does not hold.
        tensors: Digest of the tensors in the folder. None where `tagi verify` does not compare it.
    """

    FILE = "tagi_export.json"
    WHAT = "the record of an export"
    format: Literal[1]
    kind: Literal["peft", "merged", "gguf"]
    rank: int
    alpha: float
    layers: int
    targets: list[str]
    dtype: str
    lost: list[str]
    tensors: str | None


def environment() -> dict[str, Any]:
    """Return the versions, the device and, in a git checkout, the commit."""
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
    """Read a run's record. Raises `CheckpointError` if the file is anything else."""
    return read_json(path, RunRecord).model_dump(exclude_unset=True)


def trained_by(checkpoint: Path) -> dict[str, Any] | None:
    """Return `stage`, `seed`, `recipe` and `start` of the run that left a checkpoint, from the record beside it.

    `start` says what the stage rested on; older records have none.

    None if there is no record.
    """
    if not (checkpoint.parent / RECORD).is_file():
        return None
    record = read_record(checkpoint.parent / RECORD)
    start = {"start": record["start"]} if isinstance(record.get("start"), dict) else {}
    return {"stage": record.get("stage"), "seed": record["recipe"].get("seed"), "recipe": record["recipe"], **start}


def training_data(checkpoint: Path) -> dict[str, Any] | None:
    """Return what the record beside a checkpoint says of the data that it was trained on.

    None without a record, and for a model of which nothing was trained.
    """
    path = checkpoint.parent / RECORD
    record = read_record(path) if path.is_file() else {}
    return record.get("data") if record.get("training", {}).get("steps") else None


def _commit() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10).strip() or None
    except (OSError, subprocess.SubprocessError):  # git is not installed, or this is no checkout
        return None
