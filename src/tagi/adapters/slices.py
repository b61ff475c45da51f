"""Target modules that are slices of a layer's output: query or value of a fused projection.

The name of such a target module has its layer and columns, `path[start:stop/period]`: columns start to stop of every
`period` of the layer's output. GPT-2's value is `...c_attn[48:72/72]`. Where each head has its query, key and value
next to each other, as in GPT-NeoX, the period is that of a head.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_SLICE = re.compile(r"(?P<layer>.+)\[(?P<start>\d+):(?P<stop>\d+)/(?P<period>\d+)\]")


def slice_name(layer: str, start: int, stop: int, period: int) -> str:
    """Return the name of the target module that is columns `start` to `stop` of every `period` of a layer's output."""
    return f"{layer}[{start}:{stop}/{period}]"


def layer_of(module: str) -> str:
    """Return the module path of a target module's layer, which is its name unless it is a slice."""
    found = _SLICE.fullmatch(module)
    return module if found is None else found["layer"]


def spread(module: str, b: Float[Tensor, "task d_out rank"]) -> Float[Tensor, "task d_layer rank"]:
    """Return B of the whole layer: the slice's rows in their positions, and zero elsewhere."""
    found = _SLICE.fullmatch(module)
    if found is None:
        return b
    start, stop, period = (int(found[name]) for name in ("start", "stop", "period"))
    parts = b.unflatten(1, (-1, stop - start))
    wide = b.new_zeros(parts.shape[0], parts.shape[1], period, parts.shape[3])
    wide[:, :, start:stop] = parts
    return wide.flatten(1, 2)


def sliced_layers(
    target_modules: Sequence[str],
    factors: Mapping[str, tuple[Float[Tensor, "task _rank _d_in"], Float[Tensor, "task _d _r"]]],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Invert `whole_layers` for target modules of equal rank: return the factors of every slice, in the given order."""
    sharing = Counter(map(layer_of, target_modules))
    seen: Counter[str] = Counter()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for module in target_modules:
        layer = layer_of(module)
        a, b = factors[layer]
        rank = a.shape[1] // sharing[layer]
        own = slice(seen[layer] * rank, (seen[layer] + 1) * rank)
        seen[layer] += 1
        found[module] = (a[:, own], _gathered(module, b[:, :, own]))
    return found


def _gathered(module: str, b: Float[Tensor, "task d_layer rank"]) -> Float[Tensor, "task d_out rank"]:
    """Return a slice's rows of B of the whole layer."""
    found = _SLICE.fullmatch(module)
    if found is None:
        return b
    start, stop, period = (int(found[name]) for name in ("start", "stop", "period"))
    return b.unflatten(1, (-1, period))[:, :, start:stop].flatten(1, 2)


def whole_layers(
    factors: Mapping[str, tuple[Float[Tensor, "task _rank _d_in"], Float[Tensor, "task _d_out _rank"]]],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return factors by module path. Slices of a layer are joined into one update with the sum of their ranks."""
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    for module, (a, b) in factors.items():
        layer, wide = layer_of(module), spread(module, b)
        if layer in layers:
            known_a, known_b = layers[layer]
            layers[layer] = (torch.cat([known_a, a], 1), torch.cat([known_b, wide], 2))
        else:
            layers[layer] = (a, wide)
    return layers
