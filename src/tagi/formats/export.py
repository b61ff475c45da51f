"""Adapters for the world outside: a PEFT folder, a merged model, a LoRA file for llama.cpp."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge
from tagi.backbones.load import load_backbone, locate
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.files import new_folder
from tagi.formats.export_card import RECORD, Origin, read_record, write_record
from tagi.formats.export_prompts import prompts_of
from tagi.formats.gguf_lora import ARCHITECTURES, gguf_factors, write_gguf_lora
from tagi.formats.lora_folder import write_lora
from tagi.formats.peft import WEIGHTS, read_configuration, read_peft, tensors_digest
from tagi.formats.task_adapter import RECORD as TASK_ADAPTER
from tagi.formats.task_adapter import find_generator_of, generator_digest, open_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask

Format = Literal["peft", "merged", "gguf"]
GGUF_FILE = "adapter.gguf"


@dataclass(frozen=True)
class Exportable:
    """One task's LoRA on its backbone, what it was made from, and what its generator has besides."""

    bank: LoraBank
    backbone: Backbone
    origin: Origin
    beside: tuple[str, ...] = ()
    tuned: str | None = None

    def lost(self, format: Format) -> tuple[str, ...]:
        """What does not travel; merged weights hold the backbone's tuned parameters."""
        return self.beside if self.tuned is None or format == "merged" else (*self.beside, self.tuned)


def open_exportable(adapter: Path, *, generator: str | None = None, base: str | None = None) -> Exportable:
    """An adapter folder of `tagi generate`, or any plain LoRA in PEFT's format, with its base model.

    `generator` and `base` are needed where the folder's own are not to be found. Raises `CheckpointError` for a
    damaged folder, another generator or another base model.
    """
    if (adapter / TASK_ADAPTER).is_file():
        if base is not None:
            raise InputError(f"--base: expected none for an adapter of a generator, which has its own, got {base}")
        return _of_generator(adapter, generator)
    if generator is not None:
        raise InputError(f"--generator: expected an adapter that one has made, got {adapter} without {TASK_ADAPTER}")
    bank = read_peft(adapter)
    named = read_configuration(adapter)
    known = read_record(adapter) if (adapter / RECORD).is_file() else None
    backbone = load_backbone(base or named.base, revision=known["base_model"]["revision"] if known else named.revision)
    check_layers(bank, backbone, adapter)
    return Exportable(bank, backbone, origin_of(backbone, known or {}), tuple(known["lost"]) if known else ())


def origin_of(backbone: Backbone, known: Mapping[str, Any]) -> Origin:
    """A backbone, and what the record of an export of an adapter on it knows besides."""
    examples = tuple((example["input"], example["output"]) for example in known.get("examples", ()))
    made_from = (known.get(key) for key in ("generator", "seed", "refined", "prompt", "prompts"))
    return Origin(backbone.identity, type(backbone.model).__name__, known.get("instruction"), examples, *made_from)


def _of_generator(folder: Path, name: str | None) -> Exportable:
    adapter = open_adapter(folder, name)
    base = adapter.generator.backbone.identity
    found = locate(base.name, find_generator_of(folder, name))
    if base.name.startswith(".") and isinstance(found, Path):  # beside the generator: nowhere for an export
        adapter.generator.backbone.identity = BaseModel(str(found.resolve()), base.revision)
    try:
        return exportable_of(adapter)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def exportable_of(adapter: AdaptedTask) -> Exportable:
    """A task adapter in memory. Raises `InputError` for one that is not LoRA."""
    generator, bank = adapter.generator, adapter.bank
    if not isinstance(bank, LoraBank):
        raise InputError(f"expected an adapter of LoRA, got one of {bank.module}, which other software lacks")
    settings, base = generator.settings, generator.backbone.identity
    examples = tuple((example.input, example.output) for example in adapter.examples)
    model = type(generator.backbone.model).__name__
    made_by = generator_digest(generator)
    origin = Origin(
        base,
        model,
        adapter.instruction,
        examples,
        made_by,
        settings.seed,
        adapter.refined or None,
        _prompt(generator.text) if settings.instruction_cache is None else None,
        _prompts(adapter),
    )
    tuned = None if settings.tune == "none" else f"tuned backbone parameters ({settings.tune})"
    beside = settings.beside_lora(decoder_only=not generator.backbone.encoder_decoder)
    return Exportable(bank, generator.backbone, origin, beside, tuned)


def _prompt(text: TextEncoder) -> str:
    """What generators without `instruction_cache` write around an input, which stands as `{input}`."""
    written = text.encoding.input("{input}")
    return written if text.closes else text.encoding.cued(written)


def _prompts(adapter: AdaptedTask) -> dict[str, Any] | None:
    """The prompts that an export states. None for generators of the older form, whose inputs have a frame alone."""
    settings, text = adapter.generator.settings, adapter.generator.text
    if settings.instruction_cache is None:
        return None
    if settings.adapts_prefix and adapter.states.cross is not None:
        return prompts_of(text, adapter.instruction, adapter.examples)
    return prompts_of(text, None)


def check_layers(bank: LoraBank, backbone: Backbone, folder: Path) -> None:
    """Raises `CheckpointError` unless every factor is of a linear layer of the backbone and of its shape."""
    linears = set(backbone.linears)
    for layer, (a, b) in bank.whole().factors.items():
        if layer not in linears:
            raise CheckpointError(f"{folder}: expected LoRA for layers of {backbone.identity}, got one for {layer!r}")
        weight: Any = backbone.model.get_submodule(layer).weight
        shape = tuple(weight.shape[::-1] if backbone.transposed else weight.shape)
        if (b.shape[1], a.shape[2]) != shape:
            raise CheckpointError(
                f"{folder}: expected LoRA of {shape[0]} x {shape[1]} for {layer!r} of {backbone.identity}, "
                f"got {b.shape[1]} x {a.shape[2]}"
            )


def export(
    source: Exportable, format: Format, out: Path, *, lossy: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Write an export into a new folder, or with `overwrite` in place of another, whole or not at all.

    The same adapter gives the same bytes.

    Raises `InputError`, before anything is written, if something of the task does not travel, unless `lossy`.
    """
    lost = source.lost(format)
    if lost and not lossy:
        raise InputError(f"expected an adapter that is its LoRA alone, got one with {', '.join(lost)}: {_LOSSY}")
    write = {"peft": _write_peft, "merged": _write_merged, "gguf": _write_gguf}[format]
    with new_folder(out, overwrite=overwrite) as temporary, torch.no_grad():
        digest = write(temporary, source)
        record = write_record(temporary, format, source.bank, source.origin, lost, digest)
    size = sum(file.stat().st_size for file in out.iterdir())
    base = source.origin.base
    shown = ("rank", "alpha", "layers", "dtype")
    return {
        "export": str(out),
        "format": format,
        **{key: record[key] for key in shown},
        "base": str(base),
        "bytes": size,
    }


_LOSSY = "give --lossy to export the LoRA without"


def _write_peft(folder: Path, source: Exportable) -> str:
    write_lora(folder, source.bank, source.backbone)
    return tensors_digest(load_file(folder / WEIGHTS))


def _write_merged(folder: Path, source: Exportable) -> None:
    merge(source.backbone.model, source.bank).save_pretrained(folder)
    source.backbone.tokenizer.save_pretrained(folder)


def _write_gguf(folder: Path, source: Exportable) -> None:
    config, bank, base = source.backbone.model.config, source.bank.whole(), source.origin.base
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"{base.name}: expected a base model of type {', '.join(ARCHITECTURES)}, whose order of rows in GGUF is "
            f"known here, got {config.model_type!r} (another one: CONTRIBUTING.md, 'An architecture for llama.cpp')"
        )
    write_gguf_lora(
        folder / GGUF_FILE,
        gguf_factors(bank, config.num_attention_heads),
        architecture=ARCHITECTURES[config.model_type],
        alpha=bank.scale * bank.rank,
        name=f"LoRA for {base.name}",
    )
