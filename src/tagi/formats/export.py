"""Export of adapters: as a PEFT folder, a merged model, or a LoRA file for llama.cpp."""

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tagi.activity import activity
from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge
from tagi.backbones.load import load_backbone, locate
from tagi.backbones.model_files import write_model
from tagi.backbones.protocol import Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.files import new_folder
from tagi.formats.cards import CARD, export_card
from tagi.formats.checkpoint import content_digest, read_some_tensors
from tagi.formats.export_prompts import prompts_of
from tagi.formats.finding import adapter_in, find_checkpoint
from tagi.formats.gguf_lora import ARCHITECTURES, gguf_factors, write_gguf_lora
from tagi.formats.peft import CONFIG, WEIGHTS, LoraConfiguration, layer_shape, read_peft, write_lora
from tagi.formats.records import AdapterRecord, ExportRecord, Origin
from tagi.formats.task_adapter import generator_digest, open_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask

Format = Literal["peft", "merged", "gguf"]
GGUF_FILE = "adapter.gguf"
_LOSSY = "give --lossy to export the LoRA without"


@dataclass(frozen=True)
class Exportable:
    """One task's LoRA on its backbone.

    Args:
        bank: The LoRA.
        backbone: The backbone.
        origin: Origin of the LoRA.
        beside: Parts of the task adapter besides the LoRA.
        tuned: Tuned backbone parameters of the generator, if any. Merged exports contain them.
    """

    bank: LoraBank
    backbone: Backbone
    origin: Origin
    beside: tuple[str, ...] = ()
    tuned: str | None = None

    def lost(self, format: Format) -> tuple[str, ...]:
        """Return the parts that an export in this format does not contain."""
        return self.beside if self.tuned is None or format == "merged" else (*self.beside, self.tuned)


def open_exportable(adapter: Path, *, generator: str | None = None, base: str | None = None) -> Exportable:
    """Read an adapter folder, or any plain LoRA in PEFT's format, with its base model.

    Args:
        adapter: The folder, or that of a refinement.
        generator: The generator of an adapter folder; by default the one that the folder names.
        base: The base model of a plain LoRA, by default the one that it names; or where that of a generator is now.

    Raises:
        CheckpointError: The folder is damaged, or of another generator or base model.
        InputError: An adapter folder's module is not LoRA, there is a generator for a plain LoRA, or a plain LoRA names
            no base model and none is given.
    """
    adapter = adapter_in(adapter)
    if (adapter / AdapterRecord.FILE).is_file():
        try:
            return exportable_of(open_adapter(adapter, generator, base=base))
        except InputError as error:
            raise InputError(f"{adapter}: {error}") from error
    if generator is not None:
        raise InputError(f"--generator: expected an adapter of a generator, got {adapter} without {AdapterRecord.FILE}")
    bank, config = read_peft(adapter), LoraConfiguration.read(adapter)
    known = ExportRecord.read(adapter) if (adapter / ExportRecord.FILE).is_file() else None
    name, revision = base or config.base_model_name_or_path, known.base_model.revision if known else config.revision
    if name is None:
        raise InputError(f"{adapter}: expected the name of its base model in {CONFIG}, got none: give it with --base")
    backbone = load_backbone(name, revision=revision)
    _check_layers(bank, backbone, adapter)
    facts: dict[str, Any] = {"instruction": None, "examples": (), "generator": None, "seed": None}
    facts |= {name: getattr(known, name) for name in Origin.model_fields} if known else {}
    return Exportable(bank, backbone, _origin(backbone, **facts), tuple(known.lost) if known else ())


def exportable_of(adapter: AdaptedTask) -> Exportable:
    """Return the source of an export for a task adapter in memory. Raises `InputError` if it is not a LoRA.

    A base model next to the saved generator is named by its full path.
    """
    generator, bank, backbone = adapter.generator, adapter.bank, copy(adapter.generator.backbone)
    if not isinstance(bank, LoraBank):
        raise InputError(f"expected an adapter of LoRA, got one of {bank.module}, which other software lacks")
    settings, text, prompts = generator.settings, generator.text, None
    if generator.source is not None and backbone.identity.name.startswith("."):
        found = Path(locate(backbone.identity.name, find_checkpoint(generator.source)))
        backbone.identity = replace(backbone.identity, name=str(found.resolve()))
    if settings.instruction_cache is not None:
        instructed = settings.adapts_prefix and adapter.states.cross is not None
        prompts = prompts_of(text, adapter.instruction if instructed else None, adapter.examples)
    origin = _origin(
        backbone,
        instruction=adapter.instruction,
        examples=adapter.examples,
        generator=generator_digest(generator),
        seed=settings.seed,
        refined=adapter.refined or None,
        prompt=_prompt(text) if prompts is None else None,
        prompts=prompts,
    )
    tuned = None if settings.tune == "none" else f"tuned backbone parameters ({settings.tune})"
    beside = settings.beside_lora(decoder_only=not backbone.encoder_decoder)
    return Exportable(bank, backbone, origin, beside, tuned)


def export(
    source: Exportable, format: Format, out: Path, *, lossy: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Write an export atomically. The same adapter gives identical files.

    Args:
        source: The LoRA with its backbone.
        format: "peft", "merged" or "gguf".
        out: New folder.
        lossy: Whether to export the LoRA even if other parts are lost.
        overwrite: Whether files in `out` are replaced.

    Returns:
        Folder, format, rank, alpha, layers, dtype, base model and size in bytes.

    Raises:
        InputError: Parts of the adapter would be lost and `lossy` is False. Nothing is written.
        ConfigError: llama.cpp's LoRA is not known for this type of base model.
    """
    lost = source.lost(format)
    if lost and not lossy:
        raise InputError(f"expected an adapter that is its LoRA alone, got one with {', '.join(lost)}: {_LOSSY}")
    write = {"peft": _write_peft, "merged": _write_merged, "gguf": _write_gguf}[format]
    bank = source.bank.whole()
    with activity(f"Writing {out}"), new_folder(out, overwrite=overwrite) as temporary, torch.no_grad():
        record = ExportRecord(
            **{name: getattr(source.origin, name) for name in Origin.model_fields},
            format=1,
            kind=format,
            rank=bank.rank,
            alpha=bank.scale * bank.rank,
            layers=len(bank.factors),
            targets=sorted({layer.rsplit(".", 1)[-1] for layer in bank.factors}),
            dtype=str(next(iter(bank.tensors().values())).dtype).removeprefix("torch."),
            lost=list(lost),
            tensors=write(temporary, source),
        )
        record.write(temporary)
        (temporary / CARD).write_text(export_card(record), encoding="utf-8")
    return {
        "export": str(out),
        "format": format,
        **record.model_dump(include={"rank", "alpha", "layers", "dtype"}),
        "base": str(record.base_model),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def _origin(backbone: Backbone, **facts: Any) -> Origin:
    return Origin(**{**facts, "base_model": backbone.identity, "model": type(backbone.model).__name__})


def _prompt(text: TextEncoder) -> str:
    """Return the prompt of generators without `instruction_cache`, with `{input}` for the input."""
    written = text.encoding.input("{input}")
    return written if text.closes else text.encoding.cued(written)


def _check_layers(bank: LoraBank, backbone: Backbone, folder: Path) -> None:
    """Raise `CheckpointError` unless every factor belongs to a linear layer of the backbone and fits its shape."""
    linears = set(backbone.linears)
    for layer, (a, b) in bank.whole().factors.items():
        if layer not in linears:
            raise CheckpointError(f"{folder}: expected LoRA for layers of {backbone.identity}, got one for {layer!r}")
        shape = layer_shape(backbone, layer)
        if (b.shape[1], a.shape[2]) != shape:
            raise CheckpointError(
                f"{folder}: expected LoRA of {shape[0]} x {shape[1]} for {layer!r} of {backbone.identity}, "
                f"got {b.shape[1]} x {a.shape[2]}"
            )


def _write_peft(folder: Path, source: Exportable) -> str:
    write_lora(folder, source.bank, source.backbone)
    return content_digest(read_some_tensors(folder, WEIGHTS), typed=True)


def _write_merged(folder: Path, source: Exportable) -> None:
    merged = merge(source.backbone.model, source.bank)
    write_model(folder, merged, source.backbone.tokenizer, source.backbone.files)


def _write_gguf(folder: Path, source: Exportable) -> None:
    config, bank, base = source.backbone.model.config, source.bank.whole(), source.origin.base_model
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"{base.name}: expected a base model of type {', '.join(ARCHITECTURES)}, whose order of rows in GGUF is "
            f"known here, got {config.model_type!r} (another one: CONTRIBUTING.md, 'An architecture for llama.cpp')"
        )
    write_gguf_lora(
        folder / GGUF_FILE,
        gguf_factors(bank, config),
        architecture=ARCHITECTURES[config.model_type],
        alpha=bank.scale * bank.rank,
        name=f"LoRA for {base.name}",
    )
