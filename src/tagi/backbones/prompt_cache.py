"""Prefix caching: encoding common starts of texts once, and continuing from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.protocol import KeysValues
from tagi.backbones.shapes import TaskRows, TokenIds, TokenMask


@dataclass(frozen=True)
class CachedPrefixes:
    """Keys and values of several texts, one per row, starting at the first token. `ids` are -1 after a text's end.

    Keys and values do not depend on later tokens, so any prefix of a text can be reused.
    """

    ids: Int[Tensor, "text token"]
    layers: KeysValues


@torch.no_grad()
def keep_starts(backbone: CausalBackbone, texts: Sequence[Sequence[int]]) -> CachedPrefixes:
    """Encode all texts in one forward pass."""
    rows = [torch.tensor(list(text), dtype=torch.long, device=backbone.device) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=-1)
    # A cache without the model's configuration also keeps tokens outside of sliding windows.
    cache = backbone.read(ids.clamp(min=0), ids >= 0, DynamicCache()).cache
    return CachedPrefixes(ids, [(layer.keys, layer.values) for layer in cache.layers])


@torch.no_grad()
def cached_part(kept: CachedPrefixes, owners: TaskRows, ids: TokenIds, mask: TokenMask) -> Cache | None:
    """Return the cached first columns of a batch of prompts that are padded on the left, or None.

    The cached part of prompt i is what it has in common with text `owners[i]`, without its last token. All rows
    continue from the same column, determined by the row with the most tokens to process. So the layout is the same as
    without a cache, with no padding between cached and new tokens, which would affect models with sliding windows.
    """
    lengths = mask.sum(1)
    common = _common(kept.ids[owners], ids, lengths)
    known = ids.shape[1] - int((lengths - common).max())
    if known <= 0:
        return None
    # Column c of a row has its prompt's token c - (columns - length); before the first is padding.
    places = torch.arange(known, device=ids.device) - (ids.shape[1] - lengths).unsqueeze(1)
    places, rows = places.clamp(min=0), owners.unsqueeze(1)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(kept.layers):
        cache.update(*(part.transpose(1, 2)[rows, places].transpose(1, 2) for part in (keys, values)), layer)
    return cache


def _common(starts: Int[Tensor, "row start"], ids: TokenIds, lengths: TaskRows) -> TaskRows:
    """Return the number of tokens that each prompt shares with its text, excluding the prompt's last token."""
    width = min(starts.shape[1], ids.shape[1])
    places = torch.arange(width, device=ids.device) + (ids.shape[1] - lengths).unsqueeze(1)
    inside = places < ids.shape[1] - 1
    own = ids.gather(1, places.clamp(max=ids.shape[1] - 1))
    return ((own == starts[:, :width]) & inside).long().cumprod(1).sum(1)
