"""Attention over instruction states, split into heads."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def split_heads(
    projected: Float[Tensor, "*batch token inner"], heads: int
) -> Float[Tensor, "*batch heads token d_head"]:
    """Split projected states into heads."""
    return projected.unflatten(-1, (heads, -1)).transpose(-2, -3)


def attend(
    queries: Float[Tensor, "row heads query d_head"],
    keys: Float[Tensor, "row heads token d_head"],
    values: Float[Tensor, "row heads token d_head"],
    mask: Bool[Tensor, "#row token"],
    scale: float | None = None,
) -> Float[Tensor, "row query inner"]:
    """Compute attention over the tokens that are not padding, and concatenate the heads.

    `scale` multiplies the scores. None means 1 / sqrt(d_head); T5 uses 1.
    """
    read = scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :], scale=scale)
    return read.transpose(1, 2).flatten(2)
