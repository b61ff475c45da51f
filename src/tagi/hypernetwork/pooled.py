"""The `pooled` generator: one vector per instruction, told apart per row by learned ids."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.backbones.protocol import Site
from tagi.hypernetwork.heads import row_heads
from tagi.hypernetwork.instruction_norm import InstructionNorm
from tagi.hypernetwork.targets import Target, as_targets

Pooling = Literal["mean", "attention"]


class PooledGenerator(nn.Module):
    """Instruction states -> pooled vector -> MLP_l per layer -> bank (eq. 2). Sites, rank and alpha stand for LoRA.

    `pooling="mean"` averages the states that are not padding; `"attention"` weighs them by a learned score.
    """

    def __init__(
        self,
        target: Target | Sequence[Target] | Sequence[Site],
        d_model: int,
        *,
        rank: int | None = None,
        alpha: float | None = None,
        hidden: int,
        pooling: Pooling = "mean",
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.norm = InstructionNorm(d_model, standardize=standardize)
        self.score = nn.Linear(d_model, 1, bias=False) if pooling == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)  # begins as the mean
        self.heads = row_heads(as_targets(target, rank, alpha), width=d_model, hidden=hidden, seed=seed)

    def pool(
        self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]
    ) -> Float[Tensor, "task d_model"]:
        """Weighted mean over the tokens that are not padding."""
        states = states.to(self.norm.weight.dtype)  # the backbone may be of a narrower type
        wide = torch.promote_types(states.dtype, torch.float32)
        if self.score is None:
            scores = torch.zeros(mask.shape, dtype=wide, device=mask.device)
        else:
            scores = self.score(states).squeeze(-1).to(wide)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(states.dtype)
        return torch.einsum("ts,tsd->td", weights, states)

    def forward(self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]) -> Bank:
        """A bank of one task per instruction; every instruction needs a token that is not padding."""
        pooled = self.pool(states, mask)
        pooled = self.norm(pooled.to(self.norm.weight.dtype))
        bank: Bank = self.heads(pooled.unflatten(0, (-1, *(1 for _ in self.heads.shape))))
        return bank
