"""PEFT's adapter folder: its names and keys live in this module alone, readable in both directions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.errors import CheckpointError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_NOT_PLAIN = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
    "modules_to_save",
)


def write_peft(
    folder: Path,
    bank: LoraBank,
    *,
    base: str,
    revision: str | None,
    task_type: str,
    linears: Sequence[str],
    transposed: bool = False,
) -> None:
    """Write a bank of one task as a PEFT adapter into an existing folder; the same bank gives the same bytes.

    `linears` are the module paths of all of the model's linear layers: the sites are named by their last
    parts where that names nothing else, else in full. Tensors keep their type. PEFT adapts whole layers, so slices of
    one are joined (`LoraBank.whole`), which gives them the sum of their ranks. `transposed`: the sites' layers are
    `Conv1D`.
    """
    bank = bank.whole()
    if bank.tasks != 1:
        raise ValueError(f"a PEFT adapter holds one task, the bank has {bank.tasks}")
    tensors = {}
    for site, (a, b) in bank.factors.items():
        for name, factor in zip(tensor_names(site), (a, b), strict=True):
            tensors[name] = factor[0].detach().cpu().contiguous()
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "revision": revision,
        "r": bank.rank,
        "lora_alpha": _alpha(bank),
        "target_modules": _targets(list(bank.factors), linears),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_peft(folder: Path) -> LoraBank:
    """Read a plain LoRA adapter in PEFT's format as a bank of one task.

    Raises `CheckpointError` for a missing or damaged file and for anything that a bank cannot hold.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: expected a PEFT adapter ({CONFIG}, {WEIGHTS}), got: {error}") from error
    scale, rank = _scale_and_rank(config, folder / CONFIG)
    factors = {}
    for site in sorted({_site(key, folder) for key in tensors}):
        a, b = (tensors.get(name) for name in tensor_names(site))
        if a is None or b is None:
            raise CheckpointError(f"{folder / WEIGHTS}: expected A and B for {site!r}, got one of them")
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{folder / WEIGHTS}: expected A ({rank}, d_in) and B (d_out, {rank}) for {site!r}, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        factors[site] = (a.unsqueeze(0), b.unsqueeze(0))
    if not factors:
        raise CheckpointError(f"{folder / WEIGHTS}: expected LoRA factors, got no tensor")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"{folder / WEIGHTS}: expected finite numbers, got NaN or infinity")
    return LoraBank(factors, scale)


@dataclass(frozen=True)
class LoraConfiguration:
    """What an adapter's configuration says: of what base model and commit, how large, of which modules."""

    base: str
    revision: str | None
    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def short_targets(self) -> list[str]:
        """The last parts of their names, each once."""
        return sorted({name.rsplit(".", 1)[-1] for name in self.targets})


def read_configuration(folder: Path) -> LoraConfiguration:
    """A plain LoRA's configuration; `CheckpointError` if it is damaged or says what a bank cannot hold."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a PEFT adapter's configuration, got: {error}") from error
    scale, rank = _scale_and_rank(config, path)
    base, revision, targets = (config.get(key) for key in ("base_model_name_or_path", "revision", "target_modules"))
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise CheckpointError(f"{path}: expected a base model's name and commit, got {base!r} and {revision!r}")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise CheckpointError(f"{path}: expected a list 'target_modules', got {targets!r}")
    return LoraConfiguration(base, revision, rank, scale * rank, tuple(targets))


def tensor_names(layer: str) -> tuple[str, str]:
    """What A and B of a layer are called in an adapter's file."""
    return f"{_PREFIX}{layer}{_A}", f"{_PREFIX}{layer}{_B}"


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """`sha256:` and 16 digits over tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _alpha(bank: LoraBank) -> int | float:
    """Alpha of a bank, as an integer if an integer gives exactly its scale: some readers take no other number."""
    whole = round(bank.scale * bank.rank)
    return whole if whole / bank.rank == bank.scale else bank.scale * bank.rank


def _scale_and_rank(config: Any, path: Path) -> tuple[float, int]:
    """Alpha / r and r of a configuration that says nothing a bank cannot hold."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path}: expected a plain LoRA adapter, got {found!r}")
    changed = [name for name in _NOT_PLAIN if config.get(name) not in (None, False, "none", {}, [])]
    if changed:
        raise CheckpointError(f"{path}: expected a plain LoRA adapter, got {changed[0]} = {config[changed[0]]!r}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: expected numbers 'r' and 'lora_alpha', got {rank!r} and {alpha!r}")
    return alpha / rank, rank


def _site(key: str, folder: Path) -> str:
    for suffix in (_A, _B):
        if key.startswith(_PREFIX) and key.endswith(suffix):
            return key[len(_PREFIX) : -len(suffix)]
    raise CheckpointError(f"{folder / WEIGHTS}: expected LoRA factors alone, got {key!r}")


def _targets(sites: list[str], linears: Sequence[str]) -> list[str]:
    # PEFT matches a short name anywhere in the model: safe only where it matches the sites and no more.
    names = sorted({site.rsplit(".", 1)[-1] for site in sites})
    matched = {path for path in linears if path.rsplit(".", 1)[-1] in names}
    return names if matched == set(sites) else sorted(sites)
