"""The `pooled` hypernetwork: one vector per instruction, and a learned id embedding per generated row."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.backbones.shapes import InstructionMask, InstructionStates
from tagi.hypernetwork.heads import row_heads
from tagi.hypernetwork.hypernetwork import Hypernetwork
from tagi.hypernetwork.targets import Targets
from tagi.settings.generator import GeneratorSettings


class PooledHypernetwork(Hypernetwork):
    """Maps the pooled instruction states to a bank with one MLP per layer (eq. 2).

    Args:
        targets: Kinds of modules to generate.
        d_model: Width of instruction states.
        settings: Settings of the generator. `pooling` is "mean", or "attention" for weights from a learned score.
    """

    def __init__(self, targets: Targets, d_model: int, settings: GeneratorSettings) -> None:
        super().__init__(d_model, standardize=settings.standardize)
        self.score = nn.Linear(d_model, 1, bias=False) if settings.pooling == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)  # starts as the mean
        self.heads = row_heads(targets, width=d_model, hidden=settings.hidden, seed=settings.seed)

    def pool(self, states: InstructionStates, mask: InstructionMask) -> Float[Tensor, "task d_model"]:
        """Compute the weighted mean over the tokens that are not padding."""
        states = states.to(self.norm.weight.dtype)
        wide = torch.promote_types(states.dtype, torch.float32)
        if self.score is None:
            scores = torch.zeros(mask.shape, dtype=wide, device=mask.device)
        else:
            scores = self.score(states).squeeze(-1).to(wide)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(states.dtype)
        return torch.einsum("ts,tsd->td", weights, states)

    def features(self, states: InstructionStates, mask: InstructionMask) -> Float[Tensor, "task *row d_model"]:
        """Return the pooled vector, the same for all rows."""
        pooled: Tensor = self.norm(self.pool(states, mask).to(self.norm.weight.dtype))
        return pooled.unflatten(0, (-1, *(1 for _ in self.heads.shape)))
