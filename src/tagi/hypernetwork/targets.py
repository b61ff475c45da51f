"""What a hypernetwork writes, as rows: of a LoRA's factors, of a bottleneck's matrices and biases, of a prefix."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.adapters.bottleneck import Bottleneck, BottleneckBank
from tagi.adapters.prefix_bank import PrefixBank
from tagi.adapters.protocol import Bank, JointBank
from tagi.adapters.residual import ResidualBank
from tagi.backbones.protocol import Backbone, Site, initial_factors
from tagi.backbones.t5 import T5Backbone
from tagi.errors import ConfigError
from tagi.settings.generator import GeneratorSettings, Placement

Start = Literal["zero", "small", "unit"]
"""How rows begin: all 0; a tenth as long as a row of a LoRA's A0, to be added to it; of about unit length."""
_PROJECTIONS = ("q", "v")


@dataclass(frozen=True, slots=True)
class Slot:
    """Rows of equal width that are written for one place.

    `layer` numbers the MLP that writes them where layers have MLPs of their own, `first` the first row among that
    layer's. `tag` tells places of one layer apart.
    """

    place: str
    part: str
    layer: int
    first: int
    rows: int
    width: int
    start: Start
    tag: str = ""


Rows: TypeAlias = Mapping[tuple[str, str], Float[Tensor, "task _row _width"]]
"""What was written, by place and part."""


class Target(ABC):
    """A kind of module that is generated, and where."""

    address: tuple[int, ...]
    """Axes by which a layer's rows are numbered."""

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """All that is written, in the bank's order."""

    @abstractmethod
    def bank(self, rows: Rows) -> Bank:
        """The bank that these rows make."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is generated, for a person to read."""

    def starts(self, seed: int) -> Mapping[str, Float[Tensor, "_row _width"]]:
        """By place, what is added to its first part: a start that is drawn from the seed and saved."""
        return {}

    @property
    def layers(self) -> int:
        """How many MLPs there are where every layer has its own."""
        return 1 + max(slot.layer for slot in self.slots)

    @property
    def parameters(self) -> int:
        """Numbers written for one task."""
        return sum(slot.rows * slot.width for slot in self.slots)


@dataclass(frozen=True)
class LoraTarget(Target):
    """LoRA on every site; a layer's query and value share their MLP (eq. 2). A = A0 + dA and B = 0 at the start."""

    sites: tuple[Site, ...]
    rank: int
    alpha: float

    @property
    def address(self) -> tuple[int, ...]:  # type: ignore[override]
        """Projection, factor, rank row."""
        return (len(_PROJECTIONS), 2, self.rank)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A's rows and B's columns of every site."""
        rank, slots = self.rank, []
        for site in self.sites:
            first = 2 * rank * _PROJECTIONS.index(site.projection)
            slots += [
                Slot(site.path, "A", site.layer, first, rank, site.d_in, "small", site.projection),
                Slot(site.path, "B", site.layer, first + rank, rank, site.d_out, "zero", site.projection),
            ]
        return tuple(slots)

    def bank(self, rows: Rows) -> LoraBank:
        """B is written by its columns."""
        factors = {site.path: (rows[site.path, "A"], rows[site.path, "B"].transpose(1, 2)) for site in self.sites}
        return LoraBank(factors, self.alpha / self.rank)

    @property
    def words(self) -> str:
        """Rank, alpha and number of target modules."""
        return f"LoRA of rank {self.rank} (alpha {self.alpha:g}) for {len(self.sites)} sites"

    def starts(self, seed: int) -> Mapping[str, Float[Tensor, "_row _width"]]:
        """A0 of every site: what the teachers' A start from too."""
        return initial_factors(self.sites, self.rank, seed)


@dataclass(frozen=True)
class ResidualTarget(Target):
    """What is generated on top of a shared LoRA: factors, scales of its ranks, or both; all zero at the start.

    Args:
        sites: The target modules.
        rank: Rank of the generated factors, 0 for none.
        alpha: Their alpha: the update is `alpha / rank * B A`.
        shared_rank: Scales generated per target module, one for each rank of the shared LoRA; 0 for none.
    """

    sites: tuple[Site, ...]
    rank: int
    alpha: float
    shared_rank: int

    @property
    def address(self) -> tuple[int, ...]:  # type: ignore[override]
        """Projection; then A's rows, B's columns and the row of scales."""
        return (len(_PROJECTIONS), self._rows)

    @property
    def _rows(self) -> int:
        return 2 * self.rank + (1 if self.shared_rank else 0)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A's rows, B's columns and the scales of every target module."""
        rank, slots = self.rank, []
        for site in self.sites:
            first, tag = self._rows * _PROJECTIONS.index(site.projection), site.projection
            if rank:
                slots += [
                    Slot(site.path, "A", site.layer, first, rank, site.d_in, "small", tag),
                    Slot(site.path, "B", site.layer, first + rank, rank, site.d_out, "zero", tag),
                ]
            if self.shared_rank:
                slots.append(Slot(site.path, "scale", site.layer, first + 2 * rank, 1, self.shared_rank, "zero", tag))
        return tuple(slots)

    def bank(self, rows: Rows) -> ResidualBank:
        """B is generated by its columns."""
        factors, scales = {}, {}
        for site in self.sites:
            if self.rank:
                factors[site.path] = (rows[site.path, "A"], rows[site.path, "B"].transpose(1, 2))
            if self.shared_rank:
                scales[site.path] = rows[site.path, "scale"].squeeze(1)
        return ResidualBank(factors, scales, self.alpha / self.rank if self.rank else 1.0)

    @property
    def words(self) -> str:
        """What is generated and for how many target modules."""
        parts = [f"LoRA of rank {self.rank} (alpha {self.alpha:g})"] if self.rank else []
        parts += [f"scales of a shared LoRA of rank {self.shared_rank}"] if self.shared_rank else []
        return f"{' and '.join(parts)} on top of a shared LoRA, for {len(self.sites)} target modules"

    def starts(self, seed: int) -> Mapping[str, Float[Tensor, "_row _width"]]:
        """A0 of the factors of every target module."""
        return initial_factors(self.sites, self.rank, seed) if self.rank else {}


@dataclass(frozen=True)
class BottleneckTarget(Target):
    """A bottleneck adapter per place. `up` and both biases are 0 at the start, so that nothing changes."""

    places: tuple[str, ...]
    d_model: int
    width: int
    activation: str
    placement: Placement

    @property
    def address(self) -> tuple[int, ...]:  # type: ignore[override]
        """Rows of `down`, columns of `up`, a row for each bias."""
        return (2 * self.width + 2,)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Four parts per place."""
        width, slots = self.width, []
        for layer, place in enumerate(self.places):
            slots += [
                Slot(place, "down", layer, 0, width, self.d_model, "unit"),
                Slot(place, "up", layer, width, width, self.d_model, "zero"),
                Slot(place, "down_bias", layer, 2 * width, 1, width, "zero"),
                Slot(place, "up_bias", layer, 2 * width + 1, 1, self.d_model, "zero"),
            ]
        return tuple(slots)

    def bank(self, rows: Rows) -> BottleneckBank:
        """`up` is written by its columns."""
        factors = {
            place: Bottleneck(
                down=rows[place, "down"],
                down_bias=rows[place, "down_bias"].squeeze(1),
                up=rows[place, "up"].transpose(1, 2),
                up_bias=rows[place, "up_bias"].squeeze(1),
            )
            for place in self.places
        }
        return BottleneckBank(factors, self.activation, parallel=self.placement == "ffn")

    @property
    def words(self) -> str:
        """Width, where and how many."""
        where = "beside feed-forwards" if self.placement == "ffn" else "after self-attentions"
        return f"bottleneck adapters {self.width} wide {where}, {len(self.places)} in all"


@dataclass(frozen=True)
class PrefixTarget(Target):
    """Keys and values for every attention.

    No prefix of a given length leaves attention as it was, since it takes a share of every softmax. At the start keys
    and values are small instead, vectors of about unit length over all heads: scores near 0, and little to read.
    """

    places: tuple[str, ...]
    heads: int
    d_kv: int
    tokens: int

    @property
    def address(self) -> tuple[int, ...]:  # type: ignore[override]
        """Keys, then values."""
        return (2 * self.tokens,)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Two parts per attention, a row per token over all heads."""
        inner, slots = self.heads * self.d_kv, []
        for layer, place in enumerate(self.places):
            slots += [
                Slot(place, "keys", layer, 0, self.tokens, inner, "unit"),
                Slot(place, "values", layer, self.tokens, self.tokens, inner, "unit"),
            ]
        return tuple(slots)

    def bank(self, rows: Rows) -> PrefixBank:
        """Rows are split among the heads."""

        def split(part: Tensor) -> Tensor:
            return part.unflatten(-1, (self.heads, self.d_kv)).transpose(1, 2)

        return PrefixBank({place: (split(rows[place, "keys"]), split(rows[place, "values"])) for place in self.places})

    @property
    def words(self) -> str:
        """Tokens and how many attentions."""
        return f"prefixes of {self.tokens} tokens for {len(self.places)} attentions"


Targets: TypeAlias = tuple[Target, ...]
"""What is generated together."""


def targets_of(backbone: Backbone, settings: GeneratorSettings) -> Targets:
    """What a generator of these settings writes for a backbone.

    Raises `ConfigError` for what is not LoRA on a decoder-only one, where the other modules have no places.
    """
    if settings.shared_rank or settings.module == "lora":
        return (lora_target(backbone.sites, settings),)
    if not isinstance(backbone, T5Backbone):
        raise ConfigError(
            f"generator.module: expected 'lora' on the decoder-only {backbone.identity.name}, got {settings.module!r}"
        )
    targets: list[Target] = []
    if settings.makes_bottlenecks:
        beside = settings.placement == "ffn"
        places = backbone.feed_forwards if beside else backbone.self_attention_outputs
        targets.append(
            BottleneckTarget(places, backbone.d_model, settings.bottleneck, backbone.activation, settings.placement)
        )
    if settings.makes_prefixes:
        targets.append(PrefixTarget(backbone.attentions, backbone.heads, backbone.d_kv, settings.prefix))
    return tuple(targets)


def lora_target(sites: tuple[Site, ...], settings: GeneratorSettings) -> LoraTarget | ResidualTarget:
    """What a generator of LoRA generates: the whole LoRA, or a residual on top of its shared LoRA."""
    if not settings.shared_rank:
        return LoraTarget(sites, settings.rank, settings.alpha)
    rank = settings.rank if settings.generates_factors else 0
    scales = settings.shared_rank if settings.residual != "low-rank" else 0
    return ResidualTarget(sites, rank, settings.alpha, scales)


def as_targets(
    target: Target | Sequence[Target] | Sequence[Site], rank: int | None = None, alpha: float | None = None
) -> Targets:
    """Targets as they are; sites, with rank and alpha, stand for LoRA on them."""
    if isinstance(target, Target):
        return (target,)
    sites = tuple(one for one in target if isinstance(one, Site))
    if not sites:
        return tuple(one for one in target if isinstance(one, Target))
    if rank is None or alpha is None:
        raise ValueError("sites of LoRA need a rank and an alpha")
    return (LoraTarget(sites, rank, alpha),)


def bank_of(targets: Targets, rows: Rows) -> Bank:
    """The bank of all that was written."""
    banks = [target.bank(rows) for target in targets]
    return banks[0] if len(banks) == 1 else JointBank(banks)


def blank_bank(targets: Targets) -> Bank:
    """A bank of one task without numbers, on torch's meta device: what shapes there are."""
    slots = [slot for target in targets for slot in target.slots]
    rows = {(slot.place, slot.part): torch.empty(1, slot.rows, slot.width, device="meta") for slot in slots}
    return bank_of(targets, rows)


def words_of(targets: Targets) -> str:
    """All that is generated, for a person to read."""
    return "; ".join(target.words for target in targets)


def rows_in(target: Target) -> int:
    """Rows of all of a target's layers."""
    return target.layers * math.prod(target.address)
