"""Base class of hypernetworks."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.backbones.shapes import InstructionMask, InstructionStates
from tagi.hypernetwork.heads import Heads
from tagi.hypernetwork.instruction_norm import InstructionNorm


class Hypernetwork(nn.Module, ABC):
    """Maps instruction states to features of the generated rows, and these to a bank (eq. 2).

    The constructor of subclasses takes the targets, `d_model` and the generator's settings.

    Args:
        d_model: Width of instruction states.
        standardize: Whether to standardise states per channel.
    """

    heads: Heads

    def __init__(self, d_model: int, *, standardize: bool) -> None:
        super().__init__()
        self.norm = InstructionNorm(d_model, standardize=standardize)

    @abstractmethod
    def features(self, states: InstructionStates, mask: InstructionMask) -> Float[Tensor, "task *row width"]:
        """Return the features of the rows, on the axes that `heads` expects. Padding is ignored."""

    def forward(self, states: InstructionStates, mask: InstructionMask) -> Bank:
        """Generate a bank with one task per instruction. Every instruction must have a token that is not padding."""
        states = states.to(self.norm.weight.dtype)  # the backbone may have a lower precision
        bank: Bank = self.heads(self.features(states, mask))
        return bank
