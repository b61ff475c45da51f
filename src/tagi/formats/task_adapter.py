"""A task adapter's folder: what was generated, the instruction states and a record of what it was made from.

LoRA is in PEFT's two files. PEFT's formats of other modules say nothing of where these act: such a module is in one
file of ours, and the record says which it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypeVar

from tagi.adapters.bank import LoraBank, as_lora
from tagi.adapters.protocol import Bank
from tagi.backbones.protocol import BaseModel, Instructions
from tagi.data.task import Example
from tagi.errors import CheckpointError
from tagi.formats.finding import find_checkpoint
from tagi.formats.generator import generator_tensors, load_generator
from tagi.formats.lora_folder import write_lora
from tagi.formats.peft import read_peft
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates

RECORD = "task_adapter.json"
ORIGIN = "generator.txt"
"""In an adapter's folder, the name of the generator that made it."""
A = TypeVar("A", bound=AdaptedTask, default=AdaptedTask)
STATES = "instruction_states.safetensors"
MODULE = "generated_module.safetensors"
"""All tensors of a module that is not LoRA, by place and part, without the task's axis."""
_SIDES = ("keys", "values")
_FIELDS: dict[str, type] = {"instruction": str, "examples": list, "generator": str, "base_model": dict}


def write_adapter(
    folder: Path,
    generator: GeneratorModel,
    states: TaskStates,
    instruction: str,
    examples: Sequence[Example],
    *,
    refined: Mapping[str, Any] | None = None,
) -> None:
    """Write one task's adapter into an existing folder; the same adapter gives the same bytes."""
    base = generator.backbone.identity
    record: dict[str, Any] = {
        "format": 1,
        "instruction": instruction,
        "examples": [{"input": example.input, "output": example.output} for example in examples],
        "generator": generator_digest(generator),
        "base_model": {"name": base.name, "revision": base.revision},
        **({"refined": dict(refined)} if refined else {}),
        **({"alone": True} if generator.settings.adapts_prefix and states.cross is None else {}),
    }
    if isinstance(states.bank, LoraBank):
        write_lora(folder, states.bank, generator.backbone)
    else:
        record["module"] = states.bank.module
        _save({name: tensor[0] for name, tensor in states.bank.tensors().items()}, folder / MODULE)
    kept = {"states": states.states[0], "mask": states.mask[0]}
    if generator.keeps_keys_values:
        for layer, pair in enumerate(states.cross or ()):
            kept |= {f"{layer}.{side}": part[0] for side, part in zip(_SIDES, pair, strict=True)}
    if states.ids is not None:
        kept["ids"] = states.ids[0]
    _save(kept, folder / STATES)
    (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_adapter(
    folder: Path, generator: GeneratorModel
) -> tuple[TaskStates, str, tuple[Example, ...], dict[str, Any]]:
    """A folder's states, instruction, demonstrations, and how it was refined if it was.

    The generator must be the one that made it.

    Raises `CheckpointError` if the folder is damaged or foreign, or made with another generator or base
    model.
    """
    record = read_record(folder)
    base, identity = BaseModel(**record["base_model"]), generator.backbone.identity
    if base.revision != identity.revision:
        raise CheckpointError(f"{folder}: expected base model {base}, got {identity}")
    found = generator_digest(generator)
    if record["generator"] != found:
        raise CheckpointError(f"{folder}: expected the generator {record['generator']}, got {found}")
    bank = _read_bank(folder, generator)
    device = generator.backbone.device
    with torch.no_grad():
        states = generator.states_from(_read_states(folder, generator), bank.map(lambda tensor: tensor.to(device)))
    if record.get("alone"):
        states = states.without_states()
    examples = tuple(Example(example["input"], example["output"]) for example in record["examples"])
    return states, record["instruction"], examples, record.get("refined") or {}


def read_record(folder: Path) -> dict[str, Any]:
    """What an adapter folder says it was made from."""
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected an adapter folder with {RECORD}, got no such file")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: expected an adapter folder with {RECORD}, got: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: expected an object, got {record!r}")
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise CheckpointError(f"{path}: expected a field {name!r} ({kind.__name__}), got {record.get(name)!r}")
    if not isinstance(record.get("alone", False), bool):
        raise CheckpointError(f"{path}: expected true or false for 'alone', got {record['alone']!r}")
    if not isinstance(record.get("refined", {}), dict):
        raise CheckpointError(f"{path}: expected an object 'refined', got {record['refined']!r}")
    for name, keys in (("base_model", {"name", "revision"}), ("examples", {"input", "output"})):
        for part in record[name] if isinstance(record[name], list) else [record[name]]:
            if not isinstance(part, dict) or part.keys() != keys:
                raise CheckpointError(f"{path}: expected {name!r} with {sorted(keys)}, got {part!r}")
    return record


def open_adapter(folder: Path, generator: str | None = None, *, kind: type[A] = AdaptedTask) -> A:  # type: ignore[assignment]
    """Read an adapter folder with the generator it names, or with the one given."""
    read_record(folder)  # a folder that is none is said to be none, whatever else is missing
    loaded = load_generator(find_generator_of(folder, generator))
    states, instruction, examples, refined = read_adapter(folder, loaded)
    return kind(loaded, states, instruction, examples, refined=refined)


def find_generator_of(folder: Path, generator: str | None = None) -> Path:
    """The checkpoint of the generator that an adapter folder names, or of the one given."""
    return find_checkpoint(origin_of_adapter(folder, generator))


def origin_of_adapter(folder: Path, generator: str | None = None) -> str:
    """The name of the generator given, as it is found from elsewhere, or of the one that an adapter folder names."""
    if generator is not None:
        return name_from_anywhere(generator)
    origin = folder / ORIGIN
    if not origin.is_file():
        raise CheckpointError(f"{folder}: expected {ORIGIN}, which names the generator, got none: give one with -g")
    try:
        named = origin.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{origin}: expected a generator's name in UTF-8, got: {error}") from error
    if not named:
        raise CheckpointError(f"{origin}: expected a generator's name, got an empty file: give one with -g")
    return named


def name_from_anywhere(generator: str) -> str:
    """Return a name that finds the same generator from any folder."""
    # A folder is named in full, so that the adapter can be used from elsewhere; a built-in or hub name is as given.
    path = Path(generator)
    return str(path.resolve()) if path.exists() else generator


def digest_of(bank: Bank) -> str:
    """`sha256:` and 16 digits over all that was generated."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bank.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def generator_digest(generator: GeneratorModel) -> str:
    """`sha256:` and 16 digits over a generator's settings and tensors: which generator made an adapter."""
    digest = hashlib.sha256()
    settings = [generator.settings.as_dict(), generator.text.settings.as_dict()]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(generator_tensors(generator).items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().reshape(-1)  # a gate has no axis
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _read_bank(folder: Path, generator: GeneratorModel) -> Bank:
    if generator.settings.module == "lora":
        bank = read_peft(folder)
        _check_layers(folder, bank, as_lora(generator.blank_bank, "adapters of PEFT's").whole())
        return bank.sliced([site.path for site in generator.backbone.sites])
    path = folder / MODULE
    tensors = _load(path, f"tensors of {generator.settings.module}")
    blank = generator.blank_bank
    expected = {name: tuple(tensor.shape[1:]) for name, tensor in blank.tensors().items()}
    odd = sorted(tensors.keys() ^ expected.keys())
    if odd:
        state = "missing" if odd[0] in expected else "unexpected"
        raise CheckpointError(f"{path}: tensor {odd[0]!r} is {state} ({len(odd)} such)")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(f"{path}: expected {name!r} of shape {expected[name]}, got {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite numbers, got NaN or infinity in {name!r}")
    return blank.like({name: tensor.unsqueeze(0) for name, tensor in tensors.items()})


def _read_states(folder: Path, generator: GeneratorModel) -> Instructions:
    """What was read of the instruction, on the generator's device."""
    path, device = folder / STATES, generator.backbone.device
    tensors = _load(path, "instruction states")
    tokens = tensors["mask"].shape[0] if "mask" in tensors else 0
    expected: dict[str, tuple[int, ...]] = {"states": (tokens, generator.backbone.d_model), "mask": (tokens,)}
    if generator.settings.adapts_prefix:
        expected["ids"] = (tokens,)
    layers = generator.backbone.memory_shapes(tokens) if generator.keeps_keys_values else []
    for layer, shape in enumerate(layers):
        expected |= {f"{layer}.{side}": shape for side in _SIDES}
    for name in sorted(expected.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != expected.get(name):
            wanted = expected.get(name, "no such tensor")
            raise CheckpointError(f"{path}: expected {name!r} of shape {wanted}, got {found or 'none'}")
    placed = {name: tensor.unsqueeze(0).to(device) for name, tensor in tensors.items()}
    kept = [(placed[f"{layer}.keys"], placed[f"{layer}.values"]) for layer in range(len(layers))]
    return Instructions(placed["states"], placed["mask"].bool(), kept or None, placed.get("ids"))


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _load(path: Path, what: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: expected whole {what}, got: {error}") from error


def _check_layers(folder: Path, bank: LoraBank, blank: LoraBank) -> None:
    if bank.factors.keys() != blank.factors.keys():
        raise CheckpointError(f"{folder}: expected LoRA for {len(blank.factors)} layers, got {len(bank.factors)}")
    for layer, (a, b) in bank.factors.items():
        wanted_a, wanted_b = blank.factors[layer]
        sizes = [f"{up.shape[1]} x {down.shape[2]}" for down, up in ((wanted_a, wanted_b), (a, b))]
        if sizes[0] != sizes[1]:
            raise CheckpointError(f"{folder}: expected LoRA of {sizes[0]} for {layer!r}, got {sizes[1]}")
    if bank.rank != blank.rank:
        raise CheckpointError(f"{folder}: expected LoRA of rank {blank.rank}, got {bank.rank}")
