"""What both generators share: a two-layer MLP per layer that turns features into rows of A and B (eq. 2)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.adapters import LoraBank
from tagi.backbones import Site, initial_factors

Part = Literal["A", "B"]
_PARTS: tuple[Part, Part] = ("A", "B")
_PROJECTIONS = ("q", "v")


class RowHeads(nn.Module):
    """Features of every row of every factor -> a LoRA bank.

    Rows are addressed by (layer, projection, part, rank row); a layer's MLP is shared by its query and value
    and not between layers. Its second layer, the head, gives a row of A `(d_in,)` or of B transposed
    `(d_out,)`; query and value have heads of their own only where their widths differ. A = A0 + dA with A0 a
    saved buffer (the teachers' common start) and B = 0 at the start, so that Delta W = 0.
    """

    def __init__(
        self, sites: Sequence[Site], *, width: int, hidden: int, rank: int, alpha: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.rank = rank
        self.scale = alpha / rank
        self.layers = 1 + max(site.layer for site in sites)
        random = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(_normal((self.layers, hidden, width), width**-0.5, random))
        ids = (self.layers, len(_PROJECTIONS), len(_PARTS), rank, hidden)
        self.id_embedding = nn.Parameter(_normal(ids, 1.0, random))
        self.heads = nn.ParameterDict()
        self._groups = self._group_by_width()
        for key, (part, width_out, layers, _) in self._groups.items():
            std = 0.1 * (hidden * width_out) ** -0.5 if part == "A" else 0.0
            self.heads[key] = nn.Parameter(_normal((len(layers), width_out, hidden), std, random))
        for path, start in initial_factors(self.sites, rank, seed).items():
            self.register_buffer(_buffer_name(path), start)

    def _group_by_width(self) -> dict[str, tuple[Part, int, list[int], list[int]]]:
        """Heads of equal shape stacked: key -> (part, width, layers, projections)."""
        by_layer: dict[int, dict[str, Site]] = {}
        for site in self.sites:
            by_layer.setdefault(site.layer, {})[site.projection] = site
        groups: dict[str, tuple[Part, int, list[int], list[int]]] = {}
        for layer, members in sorted(by_layer.items()):
            for part in _PARTS:
                widths: dict[int, list[int]] = {}
                for index, projection in enumerate(_PROJECTIONS):
                    if projection in members:
                        site = members[projection]
                        widths.setdefault(site.d_in if part == "A" else site.d_out, []).append(index)
                for width, projections in widths.items():
                    key = f"{part}_{''.join(_PROJECTIONS[i] for i in projections)}_{width}"
                    groups.setdefault(key, (part, width, [], projections))[2].append(layer)
        return groups

    def start(self, site: str) -> Float[Tensor, "rank d_in"]:
        """A0 of a site."""
        return self.get_buffer(_buffer_name(site))

    def forward(self, features: Float[Tensor, " task #layer #projection #part #rank width"]) -> LoraBank:
        """Features may be the same for all rows (size 1 along an axis): the id embedding tells rows apart."""
        mixed = torch.einsum("tlpxrw,lhw->tlpxrh", features.expand(-1, self.layers, -1, -1, -1, -1), self.first)
        hidden = nn.functional.gelu(mixed + self.id_embedding)
        rows: dict[tuple[int, int, Part], Tensor] = {}
        for key, (part, _, layers, projections) in self._groups.items():
            chosen = hidden[:, layers][:, :, projections, _PARTS.index(part)]
            produced = torch.einsum("tlprh,lwh->tlprw", chosen, self.heads[key])
            for i, layer in enumerate(layers):
                for j, projection in enumerate(projections):
                    rows[layer, projection, part] = produced[:, i, j]
        factors = {}
        for site in self.sites:
            address = (site.layer, _PROJECTIONS.index(site.projection))
            a = self.start(site.path) + rows[*address, "A"]
            factors[site.path] = (a, rows[*address, "B"].transpose(1, 2))
        return LoraBank(factors, self.scale)


def _buffer_name(site: str) -> str:
    return "start_" + site.replace(".", "_")


def _normal(shape: tuple[int, ...], std: float, random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random) * std
