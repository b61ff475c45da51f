"""The norm of a hypernetwork's input, which can standardise instruction states."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.backbones.shapes import InstructionMask, InstructionStates

_LEAST = 1e-4
"""Least deviation of a channel, as a share of the largest, so that constant channels are not blown up."""


class InstructionNorm(nn.RMSNorm):
    """RMS norm over channels, with `standardize` after each channel's mean is taken off and its deviation divided out.

    States of language models have a large part in common: of SmolLM2 two instructions' features in a fresh hypernetwork
    have a cosine of 0.85, standardized 0.07. What they share says nothing of a task, and hides what does. Means and
    deviations are measured once over training instructions and stay; until then they are 0 and 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, d_model: int, *, standardize: bool = False) -> None:
        super().__init__(d_model, eps=1e-6)
        self.standardize = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(d_model))
            self.register_buffer("deviation", torch.ones(d_model))

    def forward(self, states: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The states, each of length sqrt(d_model) times the learned weights."""
        if self.standardize:
            states = (states - self.mean) / self.deviation
        return super().forward(states)

    @property
    def measured(self) -> bool:
        """Whether means and deviations are known."""
        return not (self.deviation == 1).all()

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[InstructionStates, InstructionMask]]) -> None:
        """Take means and deviations over all tokens of `(states, mask)` that are not padding."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for states, mask in batches:
            tokens = states[mask].double()
            count, total, squares = count + len(tokens), total + tokens.sum(0), squares + tokens.square().sum(0)
        if not count:
            raise ValueError("expected instructions to measure, got none")
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=_LEAST * float(deviation.max())))
