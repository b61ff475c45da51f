"""An export read back by PEFT alone on its base model, and compared with what it was when it was written."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.attach import Attachment
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone
from tagi.errors import CheckpointError, InputError, TagiError
from tagi.formats.export_card import read_record
from tagi.formats.peft import (
    CONFIG,
    WEIGHTS,
    LoraConfiguration,
    read_configuration,
    read_peft,
    tensor_names,
    tensors_digest,
)

INPUTS = (
    "Translate the sentence into French: The weather is nice today.",
    "Is the following review positive or negative? I would not buy this again.",
    "List three fruits that start with the letter A, in alphabetical order:",
)
LARGEST_RANK = 512
"""The largest that vLLM can be started for."""
_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ROUNDING = 4096 * torch.finfo(torch.float32).eps
"""Of the largest logit: how far another order of summation may be off in fp32."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, whether it is as it should be (None: it could not be looked at), and what was found."""

    name: str
    passed: bool | None
    detail: str


class _Failed(Exception):
    """A check that found something wrong."""


def verify(folder: Path, *, base: str | None = None, inputs: Sequence[str] = INPUTS) -> list[Check]:
    """All checks of a PEFT export of `tagi export`, in order; one that rests on what is broken is not made.

    `base` names the base model where the export's own name does not lead to it; it must be the same model.
    Raises `CheckpointError` if the folder is no such export, `InputError` for an empty input.
    """
    record = read_record(folder)
    if record["kind"] != "peft":
        raise CheckpointError(f"{folder}: expected an export of format 'peft', got one of {record['kind']!r}")
    if not inputs or any(not text.strip() for text in inputs):
        raise InputError("expected inputs to compare logits on, got an empty text")
    return list(_checks(_Export(folder, record, base, tuple(inputs))))


def _checks(export: "_Export") -> Iterator[Check]:
    broken: set[str] = set()
    for name, (look, needs) in _CHECKS.items():
        missing = [needed for needed in needs if needed in broken]
        if missing:
            broken.add(name)
            yield Check(name, None, f"not checked: {missing[0]} failed")
            continue
        try:
            yield Check(name, True, look(export))
        except (_Failed, TagiError) as error:
            broken.add(name)
            yield Check(name, False, " ".join(str(error).split()))


@dataclass(frozen=True)
class _Export:
    """The folder and what is read of it, once and only when a check asks."""

    folder: Path
    record: Mapping[str, Any]
    named_base: str | None
    inputs: tuple[str, ...]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise _Failed(f"{WEIGHTS}: expected whole safetensors, got: {error}") from error

    @cached_property
    def configuration(self) -> LoraConfiguration:
        return read_configuration(self.folder)

    @cached_property
    def backbone(self) -> Backbone:
        wanted, name = self.record["base_model"], self.named_base or self.configuration.base
        if self.named_base is None and name != wanted["name"]:
            raise _Failed(f"{CONFIG}: expected base model {wanted['name']!r}, got {name!r}")
        return load_backbone(name, revision=wanted["revision"])

    @cached_property
    def targets(self) -> dict[str, nn.Module]:
        """The base's linear layers that PEFT will adapt, by path."""
        chosen = self.configuration.targets
        paths = [
            path
            for path in self.backbone.linears
            if path in chosen or any(path.endswith(f".{name}") for name in chosen)
        ]
        return {path: self.backbone.model.get_submodule(path) for path in paths}


def _files(export: _Export) -> str:
    return f"{len(export.tensors)} tensors, {sum(t.numel() for t in export.tensors.values()):,} numbers"


def _configuration(export: _Export) -> str:
    found, record = export.configuration, export.record
    if not 1 <= found.rank <= LARGEST_RANK:
        raise _Failed(f"{CONFIG}: expected a rank from 1 to {LARGEST_RANK}, got {found.rank}")
    for key, value in (("rank", found.rank), ("alpha", found.alpha), ("targets", sorted(found.short_targets))):
        if record.get(key) != value:
            raise _Failed(f"{CONFIG}: expected {key} {record.get(key)!r}, got {value!r}")
    return f"rank {found.rank}, alpha {found.alpha:g}, no bias, no further modules, {', '.join(found.short_targets)}"


def _type(export: _Export) -> str:
    wanted = export.record["dtype"]
    if wanted not in _TYPES:
        raise _Failed(f"expected {', '.join(_TYPES)}, which servers read, got {wanted}")
    for name, tensor in export.tensors.items():
        if tensor.dtype != _TYPES[wanted]:
            raise _Failed(f"expected {wanted}, got {str(tensor.dtype).removeprefix('torch.')} for {name!r}")
    return str(wanted)


def _finite(export: _Export) -> str:
    for name, tensor in export.tensors.items():
        if not torch.isfinite(tensor).all():
            raise _Failed(f"expected finite numbers, got NaN or infinity in {name!r}")
    return f"largest number {max(float(tensor.abs().max()) for tensor in export.tensors.values()):.3g}"


def _not_zero(export: _Export) -> str:
    alive = sum(1 for tensor in export.tensors.values() if tensor.any())
    if alive < len(export.tensors):
        zero = next(name for name, tensor in export.tensors.items() if not tensor.any())
        raise _Failed(
            f"expected tensors that hold something, got {len(export.tensors) - alive} of {len(export.tensors)} that "
            f"are all zero, such as {zero!r}"
        )
    return f"{alive} tensors"


def _digest(export: _Export) -> str:
    found, wanted = tensors_digest(export.tensors), export.record.get("tensors")
    if found != wanted:
        raise _Failed(f"expected the tensors that were exported ({wanted}), got others ({found})")
    return found


def _base(export: _Export) -> str:
    return str(export.backbone.identity)


def _keys(export: _Export) -> str:
    wanted = {name for layer in export.targets for name in tensor_names(layer)}
    for what, names in (("missing", wanted - export.tensors.keys()), ("unexpected", export.tensors.keys() - wanted)):
        if names:
            raise _Failed(f"tensor {min(names)!r} is {what} ({len(names)} such)")
    return f"A and B of {len(export.targets)} layers"


def _shapes(export: _Export) -> str:
    rank = export.configuration.rank
    for layer, module in export.targets.items():
        weight: Any = module.weight
        d_out, d_in = reversed(weight.shape) if isinstance(module, Conv1D) else weight.shape
        for name, shape in zip(tensor_names(layer), ((rank, d_in), (d_out, rank)), strict=True):
            found = tuple(export.tensors[name].shape)
            if found != shape:
                raise _Failed(f"expected {shape} for {name!r}, got {found}")
    return f"rank {rank} on every layer"


def _peft(export: _Export) -> str:
    """PEFT holds exactly the file's tensors, and our bank gives the logits that PEFT gives."""
    from peft import PeftModel, get_peft_model_state_dict

    backbone, bank = export.backbone, read_peft(export.folder)
    layers = {layer: backbone.model.get_submodule(layer) for layer in bank.factors}
    bare = _logits(backbone.model, export)
    with Attachment(bank.hooks(layers)).active():
        attached = _logits(backbone.model, export)
    with warnings.catch_warnings(record=True):  # what PEFT would warn of is compared here
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(backbone.model, str(export.folder)).eval()
        held = get_peft_model_state_dict(model, save_embedding_layers=False)  # else it asks the hub for the base
    odd = sorted(held.keys() ^ export.tensors.keys())
    changed = [name for name in held if name in export.tensors and not torch.equal(held[name], export.tensors[name])]
    if odd or changed:
        raise _Failed(f"expected PEFT to load every tensor as it is, got another {[*odd, *changed][0]!r}")
    loaded = _logits(model, export)
    apart, effect, size = (_apart(one, other) for one, other in ((attached, loaded), (loaded, bare), (loaded, None)))
    if not apart <= _ROUNDING * size:
        raise _Failed(f"expected logits within {_ROUNDING * size:.2g} of our bank's, got {apart:.2g} apart")
    if not effect > _ROUNDING * size:
        raise _Failed(f"expected an adapter that changes logits, got {effect:.2g} of {size:.3g}, which is rounding")
    return f"on {len(export.inputs)} inputs logits within {apart:.2g} of our bank's, {effect:.3g} from the base model's"


@torch.no_grad()
def _logits(model: Any, export: _Export) -> list[Tensor]:
    """Of every input by itself, as transformers gives them; an encoder-decoder writes its input."""
    found = []
    for text in export.inputs:
        ids = torch.tensor([export.backbone.tokenizer(text)["input_ids"]])
        asked = {"labels": ids} if export.backbone.encoder_decoder else {}
        found.append(model(input_ids=ids, use_cache=False, **asked).logits)
    return found


def _apart(one: list[Tensor], other: list[Tensor] | None) -> float:
    pairs = zip(one, other or [torch.zeros_like(logits) for logits in one], strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


_CHECKS: dict[str, tuple[Callable[[_Export], str], tuple[str, ...]]] = {
    "files": (_files, ()),
    "configuration": (_configuration, ()),
    "type": (_type, ("files",)),
    "finite": (_finite, ("files",)),
    "not zero": (_not_zero, ("files",)),
    "digest": (_digest, ("files",)),
    "base": (_base, ("configuration",)),
    "keys": (_keys, ("files", "configuration", "base")),
    "shapes": (_shapes, ("keys",)),
    "PEFT": (_peft, ("type", "finite", "not zero", "shapes")),
}
"""In order: what looks, and which checks must have passed for it."""


def as_rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    """For a table or JSON."""
    results = {True: "passed", False: "failed", None: "not checked"}
    return [{"check": one.name, "result": results[one.passed], "found": one.detail} for one in checks]
