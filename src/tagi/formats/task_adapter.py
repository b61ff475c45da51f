"""Folders of task adapters: the generated module, the instruction states and a record.

A LoRA is stored in PEFT's two files. PEFT's formats cannot describe where other modules act, so these are stored in a
file of tagi's own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypeVar

from tagi.adapters.bank import LoraBank, as_lora
from tagi.adapters.protocol import Bank
from tagi.backbones.protocol import Instructions
from tagi.data.task import Example
from tagi.errors import CheckpointError
from tagi.formats.checkpoint import check_finite, check_tensors, content_digest, read_some_tensors, write_tensors
from tagi.formats.finding import generator_of
from tagi.formats.generator import generator_tensors, load_generator
from tagi.formats.peft import WEIGHTS, read_peft, write_lora
from tagi.formats.records import AdapterRecord
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates

A = TypeVar("A", bound=AdaptedTask, default=AdaptedTask)
STATES = "instruction_states.safetensors"
MODULE = "generated_module.safetensors"
"""File with the tensors of modules other than LoRA, by place and part, without the task axis."""
_SIDES = ("keys", "values")


def write_adapter(
    folder: Path,
    generator: GeneratorModel,
    states: TaskStates,
    instruction: str,
    examples: Sequence[Example],
    *,
    refined: Mapping[str, Any] | None = None,
) -> None:
    """Write one task's adapter into an existing folder. The same adapter gives identical files.

    Args:
        folder: The folder.
        generator: Generator of the adapter. The record has its digest and location.
        states: The task states.
        instruction: The instruction.
        examples: Demonstrations with the instruction.
        refined: Record of the refinement, if any.
    """
    if isinstance(states.bank, LoraBank):
        write_lora(folder, states.bank, generator.backbone)
    else:
        module = {name: tensor[0] for name, tensor in states.bank.tensors().items()}
        write_tensors(folder, module, MODULE, marked=False)
    kept = {"states": states.states[0], "mask": states.mask[0]}
    if generator.keeps_keys_values:
        for layer, pair in enumerate(states.cross or ()):
            kept |= {f"{layer}.{side}": part[0] for side, part in zip(_SIDES, pair, strict=True)}
    if states.ids is not None:
        kept["ids"] = states.ids[0]
    write_tensors(folder, kept, STATES, marked=False)
    AdapterRecord(
        format=1,
        instruction=instruction,
        examples=tuple(examples),
        generator=generator_digest(generator),
        base_model=generator.backbone.identity,
        source=generator.source,
        module=states.bank.module,
        refined=dict(refined or {}),
        alone=generator.settings.adapts_prefix and states.cross is None,
    ).write(folder)


def read_adapter(
    folder: Path, generator: GeneratorModel
) -> tuple[TaskStates, str, tuple[Example, ...], dict[str, Any]]:
    """Read a folder's states, instruction, demonstrations, and how it was refined (empty if it was not).

    Raises `CheckpointError` if the folder is damaged or foreign, or was made with another generator or base model.
    """
    record, identity = AdapterRecord.read(folder), generator.backbone.identity
    if record.base_model.revision != identity.revision:
        raise CheckpointError(f"{folder}: expected base model {record.base_model}, got {identity}")
    found = generator_digest(generator)
    if record.generator != found:
        raise CheckpointError(f"{folder}: expected the generator {record.generator}, got {found}")
    bank = _read_bank(folder, generator)
    device = generator.backbone.device
    with torch.no_grad():
        states = generator.states_from(_read_states(folder, generator), bank.map(lambda tensor: tensor.to(device)))
    if record.alone:
        states = states.without_states()
    return states, record.instruction, record.examples, record.refined


def open_adapter(
    folder: Path,
    generator: str | None = None,
    *,
    base: str | None = None,
    kind: type[A] = AdaptedTask,  # type: ignore[assignment]
) -> A:
    """Read an adapter folder with its generator.

    Args:
        folder: The adapter's folder.
        generator: Name of the generator; by default the one that the folder names.
        base: Where the generator's base model is now, if not where the generator says.
        kind: The class to make.

    Raises:
        CheckpointError: The folder is damaged or foreign, its generator is not found, or another generator made it.
    """
    source = generator_of(folder) if generator is None else generator
    try:
        loaded = load_generator(source, base=base)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: cannot read its generator: {error}") from error
    states, instruction, examples, refined = read_adapter(folder, loaded)
    return kind(loaded, states, instruction, examples, refined=refined)


def digest_of(bank: Bank) -> str:
    """Return `sha256:` and 16 digits over a generated bank."""
    return content_digest(bank.tensors())


def generator_digest(generator: GeneratorModel) -> str:
    """Return `sha256:` and 16 digits over a generator's settings and tensors."""
    settings = [generator.settings.as_dict(), generator.text.settings.as_dict()]
    return content_digest(generator_tensors(generator), start=json.dumps(settings, sort_keys=True))


def _read_bank(folder: Path, generator: GeneratorModel) -> Bank:
    blank = generator.blank_bank
    if generator.settings.module == "lora":
        bank, whole = read_peft(folder), as_lora(blank, "adapters of PEFT's").whole()
        shapes = {name: tensor.shape for name, tensor in whole.tensors().items()}
        check_tensors(folder / WEIGHTS, bank.tensors(), shapes)
        return bank.sliced([module.path for module in generator.backbone.target_modules])
    tensors = read_some_tensors(folder, MODULE)
    check_tensors(folder / MODULE, tensors, {name: tensor.shape[1:] for name, tensor in blank.tensors().items()})
    check_finite(folder / MODULE, tensors)
    return blank.like({name: tensor.unsqueeze(0) for name, tensor in tensors.items()})


def _read_states(folder: Path, generator: GeneratorModel) -> Instructions:
    """Return the encoded instruction on the generator's device."""
    tensors, device = read_some_tensors(folder, STATES), generator.backbone.device
    tokens = tensors["mask"].shape[0] if "mask" in tensors else 0
    expected: dict[str, tuple[int, ...]] = {"states": (tokens, generator.backbone.d_model), "mask": (tokens,)}
    if generator.settings.adapts_prefix:
        expected["ids"] = (tokens,)
    layers = generator.backbone.memory_shapes(tokens) if generator.keeps_keys_values else []
    for layer, shape in enumerate(layers):
        expected |= {f"{layer}.{side}": shape for side in _SIDES}
    check_tensors(folder / STATES, tensors, expected)
    placed = {name: tensor.unsqueeze(0).to(device) for name, tensor in tensors.items()}
    kept = [(placed[f"{layer}.keys"], placed[f"{layer}.values"]) for layer in range(len(layers))]
    return Instructions(placed["states"], placed["mask"].bool(), kept or None, placed.get("ids"))
