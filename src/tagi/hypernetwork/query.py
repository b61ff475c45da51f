"""The `query` generator: every row that is generated looks at the instruction's tokens for itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.backbones.protocol import Site
from tagi.hypernetwork.heads import row_heads
from tagi.hypernetwork.instruction_norm import InstructionNorm
from tagi.hypernetwork.targets import Target, as_targets


class QueryGenerator(nn.Module):
    """Learned queries, one per row, attend to `I_x`; MLP_l maps each to its row.

    Sites, `rank` and `alpha` stand for LoRA.
    """

    def __init__(
        self,
        target: Target | Sequence[Target] | Sequence[Site],
        d_model: int,
        *,
        rank: int | None = None,
        alpha: float | None = None,
        hidden: int,
        width: int,
        heads: int,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        self.attention_heads = heads
        self.norm = InstructionNorm(d_model, standardize=standardize)
        self.heads = row_heads(as_targets(target, rank, alpha), width=width, hidden=hidden, seed=seed)
        random = torch.Generator().manual_seed(seed + 1)
        self.queries = nn.Parameter(torch.randn(*self.heads.shape, width, generator=random))
        self.key = nn.Linear(d_model, width, bias=False)
        self.value = nn.Linear(d_model, width, bias=False)
        self.norm_out = nn.RMSNorm(width, eps=1e-6)
        for linear in (self.key, self.value):
            nn.init.normal_(linear.weight, std=d_model**-0.5, generator=random)

    def forward(self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]) -> Bank:
        """A bank of one task per instruction; every instruction needs a token that is not padding."""
        states = self.norm(states.to(self.norm.weight.dtype))  # the backbone may be of a narrower type
        split = (self.attention_heads, -1)
        keys = self.key(states).unflatten(-1, split).transpose(1, 2)
        values = self.value(states).unflatten(-1, split).transpose(1, 2)
        queries = self.queries.flatten(0, -2).unflatten(-1, split).transpose(0, 1)
        queries = queries.to(keys.dtype).expand(states.shape[0], -1, -1, -1)
        read = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :])
        read = self.norm_out(read.transpose(1, 2).flatten(2).to(self.norm_out.weight.dtype))
        bank: Bank = self.heads(read.unflatten(1, self.heads.shape))
        return bank
