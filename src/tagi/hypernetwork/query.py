"""The `query` hypernetwork: every generated row attends to the instruction's tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.backbones.shapes import InstructionMask, InstructionStates
from tagi.hypernetwork.attention import attend, split_heads
from tagi.hypernetwork.heads import row_heads
from tagi.hypernetwork.hypernetwork import Hypernetwork
from tagi.hypernetwork.targets import Targets
from tagi.settings.generator import GeneratorSettings


class QueryHypernetwork(Hypernetwork):
    """One learned query per generated row attends to `I_x`; one MLP per layer maps the result to the row.

    Args:
        targets: Kinds of modules to generate.
        d_model: Width of instruction states.
        settings: Settings of the generator. `width` is the width of queries, keys and values.
    """

    def __init__(self, targets: Targets, d_model: int, settings: GeneratorSettings) -> None:
        super().__init__(d_model, standardize=settings.standardize)
        width = settings.width
        self.attention_heads = settings.heads
        self.heads = row_heads(targets, width=width, hidden=settings.hidden, seed=settings.seed)
        random = torch.Generator().manual_seed(settings.seed + 1)
        self.queries = nn.Parameter(torch.randn(*self.heads.shape, width, generator=random))
        self.key = nn.Linear(d_model, width, bias=False)
        self.value = nn.Linear(d_model, width, bias=False)
        self.norm_out = nn.RMSNorm(width, eps=1e-6)
        for linear in (self.key, self.value):
            nn.init.normal_(linear.weight, std=d_model**-0.5, generator=random)

    def features(self, states: InstructionStates, mask: InstructionMask) -> Float[Tensor, "task *row width"]:
        """Return the attention output for every row's query."""
        states = self.norm(states)
        keys, values = (split_heads(linear(states), self.attention_heads) for linear in (self.key, self.value))
        queries = split_heads(self.queries.flatten(0, -2), self.attention_heads).to(keys.dtype)
        read = attend(queries.expand(states.shape[0], -1, -1, -1), keys, values, mask)
        normed: Tensor = self.norm_out(read.to(self.norm_out.weight.dtype))
        return normed.unflatten(1, self.heads.shape)
