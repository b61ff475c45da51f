"""The rows of a running batch: each with its own adapter or none, computed in one forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Cache

from tagi.adapters.attach import Attached, Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import view_with_weights
from tagi.backbones.causal import CausalBackbone, Prefix, cache_of
from tagi.backbones.protocol import KeysValues
from tagi.hypernetwork.model import GeneratorModel
from tagi.serving.adapter_memory import LoadedAdapter
from tagi.serving.row_cache import RowCache

RowLogits = Float[Tensor, "row vocabulary"]


@dataclass(frozen=True)
class Prompt:
    """A prompt that is to be processed.

    Args:
        ids: Its tokens that have not been processed.
        adapter: The row's adapter; None for the base model.
        known: Cached keys and values of the tokens before `ids`: of the instruction, and of the start of the prompt if
            that has been processed.
    """

    ids: list[int]
    adapter: LoadedAdapter | None = None
    known: KeysValues | None = None

    @property
    def known_tokens(self) -> int:
        """Number of tokens with cached keys and values."""
        return self.known[0][0].shape[2] if self.known else 0


class RowBatch:
    """Rows that join, leave and grow by one token at a time, on a view of the generator's base model.

    When a row is removed, the last row takes its index.

    Args:
        generator: The generator, of a decoder-only base model.
        capacity: Maximum number of rows.
    """

    def __init__(self, generator: GeneratorModel, capacity: int) -> None:
        backbone = generator.backbone
        # A view has its own hooks and modes: other threads use the generator at the same time.
        view = backbone.viewed(view_with_weights(backbone.model, {}))
        assert isinstance(view, CausalBackbone)
        self.backbone = view
        self._text = generator.text
        self._fusion = generator.fusion and view_with_weights(generator.fusion, {})
        self._cache = RowCache(len(self.backbone.memory_shapes(0)), backbone.device)
        self._adapters: list[LoadedAdapter | None] = []
        blank = generator.blank_bank
        self._blank = blank.whole() if isinstance(blank, LoraBank) else blank
        dtype, device = backbone.model.dtype, backbone.device
        self._generated = {
            name: torch.zeros(capacity, *part.shape[1:], dtype=dtype, device=device)
            for name, part in self._blank.tensors().items()
        }
        """What was generated for the adapter of every row, in the type in which it acts."""

    @property
    def rows(self) -> int:
        """Rows in use."""
        return self._cache.rows

    @property
    def lengths(self) -> Sequence[int]:
        """Number of processed tokens of every row."""
        return self._cache.lengths

    @torch.no_grad()
    def read(self, prompts: Sequence[Prompt]) -> RowLogits:
        """Process whole prompts as new rows after the last one, and return their logits for the next token.

        Prompts of a model with sliding windows must be processed one at a time: if another prompt is longer, there is
        padding between a prompt's cached tokens and its new ones, which would count in the window. If the pass fails,
        the batch does not change.
        """
        first = self.rows
        found = self._read(prompts)
        known = found.mask.shape[1] - max(len(prompt.ids) for prompt in prompts)
        try:
            for row, prompt in enumerate(prompts):
                self._cache.add(_without_padding(found.cache, row, known, prompt))
        except BaseException:
            while self.rows > first:
                self._cache.remove(self.rows - 1)
            raise
        self._adapters += [prompt.adapter for prompt in prompts]
        return found.logits

    @torch.no_grad()
    def read_start(self, prompt: Prompt, tokens: int) -> Prompt:
        """Process the first tokens of a prompt that is not a row yet, and return the rest of the prompt."""
        found = self._read([replace(prompt, ids=prompt.ids[:tokens])])
        known = [(layer.keys, layer.values) for layer in found.cache.layers]
        return replace(prompt, ids=prompt.ids[tokens:], known=known)

    def _read(self, prompts: Sequence[Prompt]) -> Prefix:
        """Process prompts after their cached tokens, at the indices of the next rows."""
        first, device = self.rows, self.backbone.device
        adapters = [prompt.adapter for prompt in prompts]
        for row, adapter in enumerate(adapters, start=first):
            tensors = adapter.bank.tensors() if adapter else None
            for name, part in self._generated.items():
                part[row] = tensors[name][0] if tensors else 0  # zeros change nothing
        known, seen = _side_by_side([prompt.known for prompt in prompts], device)
        ids, mask = (part.to(device) for part in self._text.batch([prompt.ids for prompt in prompts]))
        with Attachment(*self._hooks(first, adapters)).active():
            return self.backbone.read(ids, torch.cat([seen, mask], dim=1), cache_of(known))

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> RowLogits:
        """Process one token of every row and return the logits for the next. If the pass fails, it can be repeated."""
        self._cache.make_room()
        ids = torch.tensor(tokens, device=self.backbone.device).unsqueeze(1)
        with Attachment(*self._hooks(0, self._adapters)).active():
            logits = self.backbone.run(self.backbone.model, ids, self._cache.mask(), self._cache).logits
        self._cache.advance()
        return logits[:, -1]

    def remove(self, row: int) -> None:
        """Remove a row. The last row takes its index."""
        last = self.rows - 1
        self._cache.remove(row)
        self._adapters[row] = self._adapters[last]
        self._adapters.pop()
        if row != last:
            for part in self._generated.values():
                part[row] = part[last]

    def _hooks(self, first: int, adapters: Sequence[LoadedAdapter | None]) -> list[Mapping[nn.Module, Attached]]:
        """Return the hooks that apply these adapters to the rows from `first` on."""
        if not any(adapters):
            return []
        rows, places = slice(first, first + len(adapters)), self.backbone.places
        bank = self._blank.like({name: part[rows] for name, part in self._generated.items()})
        hooks: list[Mapping[nn.Module, Attached]] = [
            {places[place]: bank.acting(place, shared=False) for place in bank.places}
        ]
        if self._fusion is not None:
            fused = [adapter.fusion if adapter else None for adapter in adapters]
            keys_values, mask = _side_by_side(fused, self.backbone.device)
            # Zero values contribute nothing, because fusion has no biases.
            mask |= ~mask.any(1, keepdim=True)
            if keys_values:
                hooks.append(self._fusion.hooks(self.backbone, keys_values, mask))
        return hooks


def _side_by_side(
    prefixes: Sequence[KeysValues | None], device: torch.device
) -> tuple[KeysValues, Bool[Tensor, "row token"]]:
    """Return keys and values of several rows, padded on the left with zeros, and their mask.

    A row may have none. If no row has any, the result has no layers.
    """
    lengths = torch.tensor([prefix[0][0].shape[2] if prefix else 0 for prefix in prefixes], device=device)
    width = int(lengths.max())
    mask = torch.arange(width, device=device) >= (width - lengths).unsqueeze(1)
    some = next(filter(None, prefixes), [])

    def joined(layer: int, side: int) -> Tensor:
        empty = some[layer][side][:, :, :0]
        parts = [prefix[layer][side] if prefix else empty for prefix in prefixes]
        return torch.cat([nn.functional.pad(part, (0, 0, width - part.shape[2], 0)) for part in parts])

    return [(joined(layer, 0), joined(layer, 1)) for layer in range(len(some))], mask


def _without_padding(read: Cache, row: int, known: int, prompt: Prompt) -> KeysValues:
    """Return the keys and values of one prompt, without the padding for longer prompts of the same pass.

    Args:
        read: Keys and values after the pass: cached ones, then new ones.
        row: Index of the prompt in the pass.
        known: Number of cached columns.
        prompt: The prompt.
    """

    def packed(part: Tensor) -> Tensor:
        before = part[row : row + 1, :, known - prompt.known_tokens : known]
        return torch.cat([before, part[row : row + 1, :, -len(prompt.ids) :]], dim=2)

    return [(packed(layer.keys), packed(layer.values)) for layer in read.layers]
