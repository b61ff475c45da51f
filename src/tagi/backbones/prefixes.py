"""Beginnings of prompts that a decoder-only model reads once: kept as keys and values, put before what follows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from tagi.backbones.causal import CausalBackbone


@dataclass(frozen=True)
class KeptPrefix:
    """A text's tokens, and per layer its keys and values: of its first tokens, too, since none sees a later one."""

    ids: tuple[int, ...]
    layers: tuple[tuple[Float[Tensor, "heads _token d_kv"], Float[Tensor, "heads _token d_kv"]], ...]

    def common(self, ids: Sequence[int]) -> int:
        """How many first tokens of `ids` are this one's, the last of `ids` apart: something is left to be read."""
        most = min(len(self.ids), len(ids) - 1)
        return next((at for at in range(most) if self.ids[at] != ids[at]), most)


def has_windows(backbone: CausalBackbone) -> bool:
    """Whether a layer attends to a window of its last tokens alone: it no longer has a long text's first ones."""
    config = backbone.model.config
    sliding = any(getattr(layer, "is_sliding", False) for layer in DynamicCache(config=config).layers)
    return sliding or "local" in getattr(config, "attention_layers", ())


@torch.no_grad()
def keep_prefix(backbone: CausalBackbone, ids: Sequence[int]) -> KeptPrefix:
    """Read a text alone and keep its keys and values."""
    read = torch.tensor([list(ids)], device=backbone.device)
    cache = backbone.read(read, torch.ones_like(read, dtype=torch.bool)).cache
    return KeptPrefix(tuple(ids), tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))


def join_prefixes(
    backbone: CausalBackbone, prefixes: Sequence[KeptPrefix], lengths: Sequence[int]
) -> tuple[DynamicCache, Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
    """A cache of the first `lengths[i]` tokens of every row's prefix, padded on the left, its token ids and mask."""
    most = max(lengths)
    cache = DynamicCache(config=backbone.model.config)
    for layer in range(len(prefixes[0].layers)):
        cache.update(*(_padded(prefixes, lengths, layer, side, most) for side in (0, 1)), layer)
    ids = torch.zeros(len(prefixes), most, dtype=torch.long, device=backbone.device)
    mask = torch.zeros(len(prefixes), most, dtype=torch.bool, device=backbone.device)
    for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
        ids[row, most - length :] = torch.tensor(prefix.ids[:length], dtype=torch.long)
        mask[row, most - length :] = True
    return cache, ids, mask


def _padded(
    prefixes: Sequence[KeptPrefix], lengths: Sequence[int], layer: int, side: int, most: int
) -> Float[Tensor, "row heads token d_kv"]:
    first = prefixes[0].layers[layer][side]
    joined = first.new_zeros(len(prefixes), first.shape[0], most, first.shape[2])
    for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
        joined[row, :, most - length :] = prefix.layers[layer][side][:, :length]
    return joined
