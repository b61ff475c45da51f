"""Losses, each one equation."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def prediction_loss(
    logits: Float[Tensor, "row target vocabulary"], labels: Int[Tensor, "row target"]
) -> Float[Tensor, ""]:
    """`L_pred = -mean log P(c | b; generator(a))` over target tokens, in nats (eq. 3, with its missing sign).

    Labels of -100 are padding and count for nothing.
    """
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
