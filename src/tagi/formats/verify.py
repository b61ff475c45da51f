"""Verification of exports by loading them with PEFT."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagi.activity import activity
from tagi.adapters.attach import Attachment
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone
from tagi.errors import CheckpointError, InputError, TagiError
from tagi.formats.checkpoint import check_finite, check_names, check_shapes, content_digest, read_some_tensors
from tagi.formats.peft import CONFIG, WEIGHTS, LoraConfiguration, layer_shape, read_peft, tensor_names
from tagi.formats.records import ExportRecord

INPUTS = (
    "Translate the sentence into French: The weather is nice today.",
    "Is the following review positive or negative? I would not buy this again.",
    "List three fruits that start with the letter A, in alphabetical order:",
)
LARGEST_RANK = 512
"""Largest rank that vLLM supports."""
_TYPES = ("float32", "float16", "bfloat16")
_ROUNDING = 4096 * torch.finfo(torch.float32).eps
"""Tolerance of logits in fp32, relative to the largest logit, for another order of summation."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of an export.

    Args:
        name: Name of the check.
        passed: Whether it passed. None if it was skipped because another check failed.
        detail: Details of the result.
    """

    name: str
    passed: bool | None
    detail: str


def verify(folder: Path, *, base: str | None = None, inputs: Sequence[str] = INPUTS) -> list[Check]:
    """Check a PEFT export of `tagi export`.

    Args:
        folder: The export.
        base: Base model, if it is not where the export says. It must be the same model.
        inputs: Texts to compare logits on.

    Returns:
        All checks in order. A check that needs a failed one is not made.

    Raises:
        CheckpointError: The folder is not such an export.
        InputError: There is no input, or an empty one.
    """
    record = ExportRecord.read(folder)
    if record.kind != "peft":
        raise CheckpointError(f"{folder}: expected an export of format 'peft', got one of {record.kind!r}")
    if not inputs or any(not text.strip() for text in inputs):
        raise InputError("expected inputs to compare logits on, got an empty text")
    export, checks = _Export(folder, record, base, tuple(inputs)), dict[str, Check]()
    for name, (look, needs) in _CHECKS.items():
        missing = [needed for needed in needs if not checks[needed].passed]
        if missing:
            checks[name] = Check(name, None, f"not checked: {missing[0]} failed")
            continue
        try:
            with activity(f"Checking the export: {name}"):
                checks[name] = Check(name, True, look(export))
        except TagiError as error:
            checks[name] = Check(name, False, " ".join(str(error).split()))
    return list(checks.values())


def as_rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    """Return the checks as rows of a table or of JSON."""
    results = {True: "passed", False: "failed", None: "not checked"}
    return [{"check": check.name, "result": results[check.passed], "found": check.detail} for check in checks]


@dataclass(frozen=True)
class _Export:
    """The folder, with lazily loaded content."""

    folder: Path
    record: ExportRecord
    named_base: str | None
    inputs: tuple[str, ...]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return read_some_tensors(self.folder, WEIGHTS)

    @cached_property
    def configuration(self) -> LoraConfiguration:
        return LoraConfiguration.read(self.folder)

    @cached_property
    def backbone(self) -> Backbone:
        wanted, name = self.record.base_model, self.named_base or self.configuration.base_model_name_or_path
        if self.named_base is None and name != wanted.name:
            raise CheckpointError(f"{CONFIG}: expected base model {wanted.name!r}, got {name!r}")
        return load_backbone(self.named_base or wanted.name, revision=wanted.revision)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Names and shapes of A and B of all layers that PEFT will adapt."""
        suffixes = tuple(f".{name}" for name in self.configuration.target_modules)  # a list, as was checked
        paths = [path for path in self.backbone.linears if f".{path}".endswith(suffixes)]
        rank, shapes = self.configuration.r, dict[str, tuple[int, int]]()
        for path in paths:
            d_out, d_in = layer_shape(self.backbone, path)
            shapes |= zip(tensor_names(path), ((rank, d_in), (d_out, rank)), strict=True)
        return shapes


def _files(export: _Export) -> str:
    return f"{len(export.tensors)} tensors, {sum(t.numel() for t in export.tensors.values()):,} parameters"


def _configuration(export: _Export) -> str:
    found, record = export.configuration, export.record
    if found.r > LARGEST_RANK:
        raise CheckpointError(f"{CONFIG}: expected a rank from 1 to {LARGEST_RANK}, got {found.r}")
    if isinstance(found.target_modules, str):  # PEFT takes it for a regular expression
        raise CheckpointError(f"{CONFIG}: expected a list of target_modules, got {found.target_modules!r}")
    values = {"rank": found.r, "alpha": found.lora_alpha, "targets": found.short_targets}
    for key, value in values.items():
        if value != getattr(record, key):
            raise CheckpointError(f"{CONFIG}: expected {key} {getattr(record, key)!r}, got {value!r}")
    targets = ", ".join(found.short_targets)
    return f"rank {found.r}, alpha {found.lora_alpha:g}, no bias, no further modules, {targets}"


def _type(export: _Export) -> str:
    wanted = export.record.dtype
    if wanted not in _TYPES:
        raise CheckpointError(f"expected {', '.join(_TYPES)}, which servers read, got {wanted}")
    for name, tensor in export.tensors.items():
        if str(tensor.dtype) != f"torch.{wanted}":
            raise CheckpointError(f"expected {wanted}, got {str(tensor.dtype).removeprefix('torch.')} for {name!r}")
    return wanted


def _finite(export: _Export) -> str:
    check_finite(Path(WEIGHTS), export.tensors)
    return f"largest value {max(float(tensor.abs().max()) for tensor in export.tensors.values()):.3g}"


def _not_zero(export: _Export) -> str:
    zero = [name for name, tensor in export.tensors.items() if not tensor.any()]
    if zero:
        found = f"{len(zero)} of {len(export.tensors)} that are all zero, such as {zero[0]!r}"
        raise CheckpointError(f"expected tensors that are not all zero, got {found}")
    return f"{len(export.tensors)} tensors"


def _digest(export: _Export) -> str:
    found, wanted = content_digest(export.tensors, typed=True), export.record.tensors
    if found != wanted:
        raise CheckpointError(f"expected the tensors that were exported ({wanted}), got others ({found})")
    return found


def _base(export: _Export) -> str:
    return str(export.backbone.identity)


def _keys(export: _Export) -> str:
    check_names(Path(WEIGHTS), export.tensors, export.shapes.keys())
    return f"A and B of {len(export.shapes) // 2} layers"


def _shapes(export: _Export) -> str:
    check_shapes(Path(WEIGHTS), export.tensors, export.shapes)
    return f"rank {export.configuration.r} on every layer"


def _peft(export: _Export) -> str:
    """Check that PEFT loads exactly the file's tensors, and that its logits are those of our bank."""
    from peft import PeftModel, get_peft_model_state_dict

    backbone, bank = export.backbone, read_peft(export.folder)
    layers = {layer: backbone.model.get_submodule(layer) for layer in bank.factors}
    bare = _logits(backbone.model, export)
    with Attachment(bank.hooks(layers)).active():
        attached = _logits(backbone.model, export)
    with warnings.catch_warnings(record=True):  # checked here, so that PEFT need not warn
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(backbone.model, str(export.folder)).eval()
        held = get_peft_model_state_dict(model, save_embedding_layers=False)  # otherwise it asks the hub
    odd = sorted(held.keys() ^ export.tensors.keys())
    changed = [name for name in held if name in export.tensors and not torch.equal(held[name], export.tensors[name])]
    if odd or changed:
        raise CheckpointError(f"expected PEFT to load every tensor as it is, got another {[*odd, *changed][0]!r}")
    loaded = _logits(model, export)
    apart, effect = _largest(attached, loaded), _largest(loaded, bare)
    size = max(float(logits.abs().max()) for logits in loaded)
    if not apart <= _ROUNDING * size:
        raise CheckpointError(
            f"expected logits within {_ROUNDING * size:.2g} of TAGI's, got a difference of {apart:.2g}"
        )
    if not effect > _ROUNDING * size:
        found = f"{effect:.2g} of {size:.3g}, which is rounding"
        raise CheckpointError(f"expected an adapter that changes logits, got {found}")
    return f"on {len(export.inputs)} inputs logits within {apart:.2g} of TAGI's, {effect:.3g} from the base model's"


@torch.no_grad()
def _logits(model: Any, export: _Export) -> list[Tensor]:
    """Logits of every input by itself, as transformers gives them; an encoder-decoder writes its input."""
    found = []
    for text in export.inputs:
        ids = torch.tensor([export.backbone.tokenizer(text)["input_ids"]])
        asked = {"labels": ids} if export.backbone.encoder_decoder else {}
        found.append(model(input_ids=ids, use_cache=False, **asked).logits)
    return found


def _largest(logits: list[Tensor], others: list[Tensor]) -> float:
    """Return the largest difference between logits."""
    return max(float((a - b).abs().max()) for a, b in zip(logits, others, strict=True))


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
"""Checks in order, with the checks that they depend on."""
