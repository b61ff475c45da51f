"""Records of runs, task adapters and exports as JSON files."""

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
"""Record in the folder of a run, written last."""
FORMAT = 1
"""Version of the record's format. Records of other versions are not compared with these."""
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "rouge-score", "numpy")
R = TypeVar("R", bound="Record")


class Record(pydantic.BaseModel):
    """Base class of records. Values are not converted."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    FILE: ClassVar[str]
    """Name of the file."""
    WHAT: ClassVar[str]
    """Description of the file for messages."""

    @classmethod
    def read(cls: type[R], folder: Path) -> R:
        """Read the record of a folder. Raises `CheckpointError`, one line with file and key, if it is not valid."""
        return read_json(folder / cls.FILE, cls)

    def write(self, folder: Path) -> None:
        """Write the record into an existing folder, without optional fields that have their default value."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        (folder / self.FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path, model: type[R]) -> R:
    """Read a JSON file. Raises `CheckpointError`, one line with file and key, if it does not fit `model`."""
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
    """Record of a training stage or an evaluation. Keys depend on its kind."""

    model_config = pydantic.ConfigDict(extra="allow")
    FILE = RECORD
    WHAT = "a run's record"
    recipe: dict[str, Any]


class AdapterRecord(Record):
    """Record of a task adapter.

    Args:
        format: Version of the record's format.
        instruction: Instruction of the adapter.
        examples: Demonstrations with the instruction.
        generator: Digest of the generator.
        base_model: Name and revision of the backbone.
        source: A name that finds the generator from any folder. None in older folders, which have it in a file of its
            own, and for a generator that was never saved.
        module: What was generated.
        refined: Record of the refinement; empty without one.
        alone: Whether the adapter works without KV prefix.
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
    """Origin of an exported LoRA. Unknown parts are None.

    Args:
        base_model: Name and revision of the backbone.
        model: transformers' class of the backbone.
        instruction: The task's instruction.
        examples: The task's demonstrations.
        generator: Digest of the generator.
        seed: The generator's seed.
        refined: Record of the refinement.
        prompt: Prompt with `{input}` for the input, for generators without `instruction_cache`.
        prompts: Result of `export_prompts.prompts_of`, for generators with `instruction_cache`.
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
    """Record of an export.

    Args:
        format: Version of the record's form.
        kind: "peft", "merged" or "gguf".
        rank: Rank of the LoRA.
        alpha: Alpha of the LoRA.
        layers: Number of layers with LoRA.
        targets: Last parts of the names of these layers.
        dtype: Data type of the LoRA.
        lost: Parts of the adapter that the export does not contain.
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
