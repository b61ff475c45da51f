"""Scores of choices from logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from tagi.backbones.protocol import Reduction
from tagi.backbones.shapes import ChoiceLabels, ChoiceScores
from tagi.settings.text import IGNORED


def choice_scores(
    logits: Float[Tensor, "row_choice target vocabulary"], labels: ChoiceLabels, reduction: Reduction
) -> ChoiceScores:
    """Compute the log-probability of every choice of every row in nats, as sum or mean over its tokens.

    The choices of a row are next to each other in `logits`. Labels of -100 are padding; a choice without other labels
    scores 0. Computed in fp32 or higher precision.
    """
    flat = labels.flatten(0, 1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = wide.log_softmax(-1).gather(-1, flat.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    counted = flat != IGNORED
    total = chosen.masked_fill(~counted, 0).sum(-1)
    if reduction == "mean":
        total = total / counted.sum(-1).clamp(min=1)
    return total.unflatten(0, labels.shape[:2])
