"""Sampling of the next token of every row of a batch."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tagi.serving.protocol import Sampling

_COLDEST = 1e-5
"""Lower temperatures are treated as greedy, because logits divided by them may overflow."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Sampling state of one row. Its random numbers do not depend on other rows in the batch.

    Args:
        sampling: Temperature, top_p and seed.
        random: The row's random number generator.
    """

    sampling: Sampling
    random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = secrets.randbits(63) if self.sampling.seed is None else self.sampling.seed % 2**63
        object.__setattr__(self, "random", torch.Generator().manual_seed(seed))

    @property
    def greedy(self) -> bool:
        """Whether decoding is greedy."""
        return self.sampling.temperature < _COLDEST

    def uniform(self) -> float:
        """Return the next random number of [0, 1)."""
        return float(torch.rand((), generator=self.random, dtype=torch.float64))


def choose(logits: Float[Tensor, "row vocabulary"], samplers: Sequence[Sampler]) -> list[int]:
    """Choose one token per row. The choice depends on the row's own logits and random numbers only."""
    chosen: list[int] = logits.argmax(-1).tolist()
    for nucleus in (False, True):
        rows = [
            row
            for row, sampler in enumerate(samplers)
            if not sampler.greedy and (sampler.sampling.top_p < 1) is nucleus
        ]
        if rows:
            picked = _sample(logits[rows], [samplers[row] for row in rows], nucleus=nucleus)
            for row, token in zip(rows, picked.tolist(), strict=True):
                chosen[row] = token
    return chosen


def most_probable(
    logits: Float[Tensor, " vocabulary"], chosen: int, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Return a token's log-probability in nats, and the `count` most probable tokens with their log-probabilities."""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    return float(logprobs[chosen]), list(zip(tokens.tolist(), values.tolist(), strict=True))


def _sample(
    logits: Float[Tensor, "row vocabulary"], samplers: Sequence[Sampler], *, nucleus: bool
) -> Int[Tensor, " row"]:
    """Sample by inverting the cumulative distribution; with `nucleus`, only among the tokens that make up `top_p`."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=logits.device).unsqueeze(1)

    temperatures = column([sampler.sampling.temperature for sampler in samplers])
    weights = (logits.float() / temperatures).softmax(-1)
    order = None
    if nucleus:
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        beyond = weights.cumsum(-1) - weights >= column([sampler.sampling.top_p for sampler in samplers])
        beyond[:, 0] = False
        weights = weights.masked_fill(beyond, 0)
    reached = weights.cumsum(-1)
    points = column([sampler.uniform() for sampler in samplers]) * reached[:, -1:]
    # Strictly below the total, searched from the right: a token with probability 0 is never chosen.
    points = points.minimum(reached[:, -1:].nextafter(torch.zeros_like(points)))
    places = torch.searchsorted(reached, points, right=True)
    return (places if order is None else order.gather(1, places)).squeeze(1)
