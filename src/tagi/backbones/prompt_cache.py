"""Starts of texts that a decoder-only model has read once, and the texts of a batch that go on from them."""

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
    """Keys and values of several texts, a text a row from its first token on; `ids` are -1 after a text's end.

    What a token's keys and values are depends on no later token, so the first of a text serve whatever follows them.
    """

    ids: Int[Tensor, "text token"]
    layers: KeysValues


@torch.no_grad()
def keep_starts(backbone: CausalBackbone, texts: Sequence[Sequence[int]]) -> CachedPrefixes:
    """Read every text once, all in one pass."""
    rows = [torch.tensor(list(text), dtype=torch.long, device=backbone.device) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=-1)
    # A cache that is told nothing of the model keeps every token, also those that a sliding window has left behind.
    cache = backbone.read(ids.clamp(min=0), ids >= 0, DynamicCache()).cache
    return CachedPrefixes(ids, [(layer.keys, layer.values) for layer in cache.layers])


@torch.no_grad()
def cached_part(kept: CachedPrefixes, owners: TaskRows, ids: TokenIds, mask: TokenMask) -> Cache | None:
    """The first columns of a batch of prompts padded on the left, after which `CausalBackbone.read` goes on; None if
    none is known.

    A prompt's first tokens are known as far as they are those of its text, `owners[i]`. The last token is always left
    to be read, and of every row as much as of the row that has most to read: so the batch is laid out as if nothing
    was known, without a gap between what is known and what is read, which models with sliding windows would feel.
    """
    lengths = mask.sum(1)
    common = _common(kept.ids[owners], ids, lengths)
    known = ids.shape[1] - int((lengths - common).max())
    if known <= 0:
        return None
    # Column c of a row holds its prompt's token c - (columns - length); before the first stands padding.
    places = torch.arange(known, device=ids.device) - (ids.shape[1] - lengths).unsqueeze(1)
    places, rows = places.clamp(min=0), owners.unsqueeze(1)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(kept.layers):
        cache.update(*(part.transpose(1, 2)[rows, places].transpose(1, 2) for part in (keys, values)), layer)
    return cache


def _common(starts: Int[Tensor, "row start"], ids: TokenIds, lengths: TaskRows) -> TaskRows:
    """Return the number of first tokens that each prompt shares with its text, at most all but its last."""
    width = min(starts.shape[1], ids.shape[1])
    places = torch.arange(width, device=ids.device) + (ids.shape[1] - lengths).unsqueeze(1)
    inside = places < ids.shape[1] - 1
    own = ids.gather(1, places.clamp(max=ids.shape[1] - 1))
    return ((own == starts[:, :width]) & inside).long().cumprod(1).sum(1)
