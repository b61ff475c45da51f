"""The norm of the hypernetwork's input, with optional standardisation of instruction states."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.backbones.shapes import InstructionMask, InstructionStates

_LEAST = 1e-4
"""Minimum standard deviation of a channel relative to the largest, so that constant channels are not amplified."""


class InstructionNorm(nn.RMSNorm):
    """RMS norm over channels; with `standardize`, after standardising each channel.

    Hidden states of language models have a large common part that carries no information about the task: on SmolLM2 the
    features of two instructions in an untrained hypernetwork have a cosine of 0.85, standardised 0.07. Means and
    deviations are measured once on training instructions; until then they are 0 and 1.
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
        """Normalise the states to length sqrt(d_model), and multiply them by the learned weights."""
        if self.standardize:
            states = (states - self.mean) / self.deviation
        return super().forward(states)

    @property
    def measured(self) -> bool:
        """Whether means and deviations have been measured."""
        return not (self.deviation == 1).all()

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[InstructionStates, InstructionMask]]) -> None:
        """Measure means and deviations over the tokens of `(states, mask)` that are not padding."""
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
