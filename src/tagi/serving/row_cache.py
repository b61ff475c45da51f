"""KV cache of a running batch, in buffers that are rarely reallocated."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from tagi.backbones.protocol import KeysValues

_FREE_COLUMNS = 128
"""Free columns in new buffers: the number of decoding steps between two reallocations."""


class RowCache(Cache):
    """KV cache of a batch whose rows are added, removed and extended by one token at a time.

    Rows are right-aligned: the last token of every row is in the same column, as in a batch padded on the left. All
    rows therefore grow by the same column, and models with sliding windows see the right tokens. Rows 0 to `rows` - 1
    are in use. When a row is removed, the last row takes its index.

    Args:
        depth: Number of attention layers.
        device: Device of the buffers.
    """

    def __init__(self, depth: int, device: torch.device) -> None:
        self.lengths: list[int] = []
        """Tokens of every row."""
        self._device = device
        super().__init__(layers=[_RowLayer(self.lengths) for _ in range(depth)])

    @property
    def rows(self) -> int:
        """Number of rows in use."""
        return len(self.lengths)

    def add(self, layers: KeysValues) -> None:
        """Add a row: its keys and values per attention layer, `(1, heads, token, d_kv)`."""
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.put(keys, values)
        self.lengths.append(layers[0][0].shape[2])

    def remove(self, row: int) -> None:
        """Remove a row. The last row takes its index. The buffers are freed with the last row."""
        last = self.rows - 1
        for layer in self.layers:
            layer.move(last, row)
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            for layer in self.layers:
                layer.free()

    def make_room(self) -> None:
        """Make room for one more token of every row."""
        for layer in self.layers:
            layer.fit(self.rows, max(self.lengths))

    def mask(self) -> Bool[Tensor, "row known_and_token"]:
        """Return which columns each row sees in the next step: its own tokens and the new one."""
        lengths = torch.tensor(self.lengths, device=self._device)
        width = max(self.lengths) + 1
        return torch.arange(width, device=self._device) >= (width - 1 - lengths).unsqueeze(1)

    def advance(self) -> None:
        """Accept what a complete forward pass has written: every row becomes one token longer."""
        for layer in self.layers:
            layer.end += 1
        self.lengths[:] = [length + 1 for length in self.lengths]


class _RowLayer(DynamicLayer):
    """One attention layer of a `RowCache`, whose `lengths` it reads.

    Buffers are `(row, head, column, d_kv)`. Column `end` is written next. A pass that fails does not change `end`, so
    it can be repeated.
    """

    keys: Float[Tensor, "capacity heads column d_kv"] | None
    values: Float[Tensor, "capacity heads column d_kv"] | None

    def __init__(self, lengths: list[int]) -> None:
        super().__init__()
        self.lengths = lengths
        self.end = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "row heads known_and_token d_kv"], Float[Tensor, "row heads known_and_token d_kv"]]:
        """Write one token of every row, and return views of all keys and values."""
        rows, start = key_states.shape[0], self.end - self.get_seq_length()
        assert self.keys is not None
        assert self.values is not None
        self.keys[:rows, :, self.end] = key_states[:, :, 0]
        self.values[:rows, :, self.end] = value_states[:, :, 0]
        columns = slice(start, self.end + 1)
        return self.keys[:rows, :, columns], self.values[:rows, :, columns]

    def get_seq_length(self) -> int:
        """Number of columns in use: the length of the longest row."""
        return max(self.lengths, default=0)

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Write a whole row after the last one. Remains of an earlier row are overwritten with zeros."""
        row, length = len(self.lengths), keys.shape[2]
        if self.keys is None:
            self.keys, self.values = (part.new_zeros(0, part.shape[1], 0, part.shape[3]) for part in (keys, values))
        self.fit(row + 1, max(self.get_seq_length(), length))
        for buffer, part in ((self.keys, keys), (self.values, values)):
            assert buffer is not None
            buffer[row] = 0
            buffer[row, :, self.end - length : self.end] = part[0]

    def move(self, source: int, target: int) -> None:
        """Overwrite a row with another one."""
        for buffer in (self.keys, self.values):
            assert buffer is not None
            if source != target:
                buffer[target] = buffer[source]

    def fit(self, rows: int, width: int) -> None:
        """Ensure room for `rows` rows of `width` tokens and one more token each."""
        assert self.keys is not None
        assert self.values is not None
        capacity, columns = self.keys.shape[0], self.keys.shape[2]
        if rows <= capacity and width <= self.end < columns:
            return
        capacity = rows if rows <= capacity else max(rows, 2 * capacity)
        used, known = len(self.lengths), self.get_seq_length()
        fitted = []
        for buffer in (self.keys, self.values):
            wider = buffer.new_zeros(capacity, buffer.shape[1], width + _FREE_COLUMNS, buffer.shape[3])
            wider[:used, :, width - known : width] = buffer[:used, :, self.end - known : self.end]
            fitted.append(wider)
        self.keys, self.values = fitted
        self.end = width

    def free(self) -> None:
        """Free the buffers."""
        self.keys = self.values = None
        self.end = 0
