"""The heads of a hypernetwork: two-layer MLPs that map features of every row to the generated rows (eq. 2)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.hypernetwork.targets import Rows, Slot, Start, Target, Targets, bank_of, rows_in


class _Group(NamedTuple):
    """Heads of equal shape, stacked over `layers`. In each layer they generate rows from each of `firsts` on."""

    part: str
    width: int
    start: Start
    rows: int
    layers: list[int]
    slots: list[list[Slot]]


class Heads(nn.Module):
    """Map features of rows to a bank. `shape` has the axes of features between the task axis and the last."""

    shape: tuple[int, ...]

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self.targets = targets
        slots = [slot for target in targets for slot in target.slots]
        self._starting = {(slot.place, slot.part) for slot in slots if slot.start == "small"}

    def keep_starts(self, seed: int) -> None:
        """Register offsets of the generated rows as buffers: A0 of LoRA, from which the teachers also start."""
        for target in self.targets:
            for path, start in target.starts(seed).items():
                self.register_buffer(_buffer_name(path), start)

    def start(self, place: str) -> Float[Tensor, "row width"]:
        """Return the offset of a place's first part: A0 of a target module."""
        return self.get_buffer(_buffer_name(place))

    def with_starts(self, rows: dict[tuple[str, str], Tensor]) -> Rows:
        """Return the generated rows with their offsets added."""
        return {key: self.start(key[0]) + part if key in self._starting else part for key, part in rows.items()}


class RowHeads(Heads):
    """Map the features of every row of one target to its bank.

    Rows are indexed by layer and the target's own axes. Each layer has one MLP for all its rows (for LoRA: for query
    and value). The MLP's second linear layer, the head, generates a row. Parts have separate heads, and so have places
    of one layer with different widths.
    """

    def __init__(self, target: Target, *, width: int, hidden: int, seed: int = 0) -> None:
        super().__init__((target,))
        self.target = target
        self.layers = self.target.layers
        self.shape = (self.layers, *self.target.address)
        random = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(_normal((self.layers, hidden, width), width**-0.5, random))
        self.id_embedding = nn.Parameter(_normal((*self.shape, hidden), 1.0, random))
        self.heads = nn.ParameterDict()
        self._groups = _group_by_width(self.target.slots)
        for key, group in self._groups.items():
            std = start_std(group.start, hidden, group.width)
            self.heads[key] = nn.Parameter(_normal((len(group.layers), group.width, hidden), std, random))
        self.keep_starts(seed)

    def forward(self, features: Float[Tensor, " task #layer #*address width"]) -> Bank:
        """Generate a bank. Features may be shared by all rows (size 1 along an axis): each row has an id embedding."""
        return bank_of(self.targets, self.rows(features))

    def rows(self, features: Float[Tensor, " task #layer #*address width"]) -> Rows:
        """Return the generated rows by place and part."""
        if math.prod(features.shape[2:-1]) == 1:
            features = features.flatten(2, -2)
        else:
            features = features.expand(-1, -1, *self.target.address, -1).flatten(2, -2)
        mixed = torch.einsum("tlrw,lhw->tlrh", features.expand(-1, self.layers, -1, -1), self.first)
        hidden = nn.functional.gelu(mixed + self.id_embedding.flatten(1, -2))
        rows: dict[tuple[str, str], Tensor] = {}
        for key, group in self._groups.items():
            at = [slot.first + row for slot in group.slots[0] for row in range(group.rows)]
            produced = torch.einsum("tlrh,lwh->tlrw", hidden[:, group.layers][:, :, at], self.heads[key])
            for i, slots in enumerate(group.slots):
                for slot, part in zip(slots, produced[:, i].split(group.rows, dim=1), strict=True):
                    rows[slot.place, slot.part] = part
        return self.with_starts(rows)


class JointHeads(Heads):
    """Heads of several targets, whose features are concatenated along one axis."""

    def __init__(self, targets: Targets, *, width: int, hidden: int, seed: int = 0) -> None:
        super().__init__(targets)
        # Use every second seed: `QueryHypernetwork` uses those in between.
        self.parts = nn.ModuleList(
            RowHeads(target, width=width, hidden=hidden, seed=seed + 2 * at) for at, target in enumerate(targets)
        )
        self._sizes = [rows_in(target) for target in targets]
        self.shape = (sum(self._sizes),)

    def forward(self, features: Float[Tensor, " task #row width"]) -> Bank:
        """Generate a bank. Features may be equal for all rows."""
        same = features.shape[1] == 1
        shares = [features] * len(self.parts) if same else features.split(self._sizes, dim=1)
        rows: dict[tuple[str, str], Tensor] = {}
        for part, share in zip(self.parts, shares, strict=True):
            assert isinstance(part, RowHeads)
            shape = (1,) * len(part.shape) if same else part.shape
            rows.update(part.rows(share.unflatten(1, shape)))
        return bank_of(self.targets, rows)


def row_heads(targets: Targets, *, width: int, hidden: int, seed: int) -> Heads:
    """Heads with a separate MLP per layer."""
    if len(targets) == 1:
        return RowHeads(targets[0], width=width, hidden=hidden, seed=seed)
    return JointHeads(targets, width=width, hidden=hidden, seed=seed)


def start_std(start: Start, hidden: int, width: int) -> float:
    """Return the standard deviation of initial weights that map `hidden` unit-variance values to a row of `width`."""
    length = {"zero": 0.0, "small": 0.1, "unit": 1.0}[start]
    return length * (hidden * width) ** -0.5


def _group_by_width(slots: Sequence[Slot]) -> dict[str, _Group]:
    """Group heads of equal shape, named by part, tags and width."""
    by_layer: dict[int, dict[str, dict[int, list[Slot]]]] = {}
    for slot in slots:
        by_layer.setdefault(slot.layer, {}).setdefault(slot.part, {}).setdefault(slot.width, []).append(slot)
    groups: dict[str, _Group] = {}
    for layer, parts in sorted(by_layer.items()):
        for part, widths in parts.items():
            for width, members in widths.items():
                members.sort(key=lambda slot: slot.first)
                tags = "".join(slot.tag for slot in members)
                key = "_".join(filter(None, (part, tags, str(width))))
                fresh = _Group(part, width, members[0].start, members[0].rows, [], [])
                group = groups.setdefault(key, fresh)
                group.layers.append(layer)
                group.slots.append(members)
    return groups


def _buffer_name(place: str) -> str:
    return "start_" + place.replace(".", "_")


def _normal(shape: tuple[int, ...], std: float, random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random) * std
