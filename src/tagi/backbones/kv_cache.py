"""Operations on cached keys and values: selecting rows, trimming, concatenation."""

from jaxtyping import Bool
from torch import Tensor, cat

from tagi.backbones.protocol import KeysValues
from tagi.backbones.shapes import TaskRows, TokenMask


def select_rows(layers: KeysValues, rows: TaskRows, length: int) -> KeysValues:
    """Select row `rows[i]` as row i, and the first `length` tokens."""
    return [(keys[rows][:, :, :length], values[rows][:, :, :length]) for keys, values in layers]


def longest(mask: TokenMask) -> int:
    """Return the number of tokens up to the last one that is not padding in some row."""
    return int(mask.any(0).nonzero().max()) + 1 if mask.numel() else 0


def join(
    first: KeysValues,
    first_mask: Bool[Tensor, "known first_token"],
    second: KeysValues,
    second_mask: Bool[Tensor, "row second_token"],
) -> tuple[KeysValues, TokenMask]:
    """Concatenate two caches and their masks. A single row of the first is used for all rows."""
    rows = second_mask.shape[0]

    def after(known: Tensor, new: Tensor) -> Tensor:
        return cat([known.expand(rows, -1, -1, -1), new], dim=2)

    joined = [(after(known[0], new[0]), after(known[1], new[1])) for known, new in zip(first, second, strict=True)]
    return joined, cat([first_mask.expand(rows, -1), second_mask], dim=1)
