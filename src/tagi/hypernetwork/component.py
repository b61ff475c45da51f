"""The `component` generator (HINT): learned components read the instruction, one network per part writes their rows."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.hypernetwork.heads import Heads, start_std
from tagi.hypernetwork.instruction_norm import InstructionNorm
from tagi.hypernetwork.targets import Slot, Target, Targets, bank_of


class SharedHeads(Heads):
    """A vector per row -> a bank, by one two-layer MLP per part, shared by all places and layers.

    Rows stand along one axis, those of a part together. What an MLP gives is divided by sqrt(d_model). Of a part whose
    width differs between places there is an MLP for each width.
    """

    def __init__(self, targets: Targets, *, d_model: int, hidden: int, seed: int = 0) -> None:
        super().__init__(targets)
        self._slots: dict[str, list[Slot]] = {}
        for target in targets:
            for slot in target.slots:
                self._slots.setdefault(f"{slot.part}_{slot.width}", []).append(slot)
        self._sizes = [sum(slot.rows for slot in slots) for slots in self._slots.values()]
        self.shape = (sum(self._sizes),)
        self._divisor = d_model**0.5
        random = torch.Generator().manual_seed(seed)
        self.first, self.heads = nn.ParameterDict(), nn.ParameterDict()
        for key, slots in self._slots.items():
            width = slots[0].width
            std = start_std(slots[0].start, hidden, width) * self._divisor
            self.first[key] = nn.Parameter(torch.randn(hidden, d_model, generator=random) * d_model**-0.5)
            self.heads[key] = nn.Parameter(torch.randn(width, hidden, generator=random) * std)
        self.keep_starts(seed)

    def forward(self, features: Float[Tensor, "task row d_model"]) -> Bank:
        """Rows in the order of `shape`."""
        rows: dict[tuple[str, str], Tensor] = {}
        for (key, slots), share in zip(self._slots.items(), features.split(self._sizes, dim=1), strict=True):
            hidden = nn.functional.gelu(nn.functional.linear(share, self.first[key]))
            produced = nn.functional.linear(hidden, self.heads[key]) / self._divisor
            for slot, part in zip(slots, produced.split([slot.rows for slot in slots], dim=1), strict=True):
                rows[slot.place, slot.part] = part
        return bank_of(self.targets, self.with_starts(rows))


class ComponentGenerator(nn.Module):
    """A learned embedding per row attends to `I_x` with T5's attention; the row's network maps what it read to the row.

    T5's conventions: no biases, scores not scaled, no position bias, a norm before each network. Nothing but what was
    read of the instruction reaches the networks.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        d_model: int,
        *,
        heads: int,
        d_kv: int,
        hidden: int,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        inner = heads * d_kv
        self.attention_heads = heads
        self.norm = InstructionNorm(d_model, standardize=standardize)
        self.heads = SharedHeads(tuple(targets), d_model=d_model, hidden=hidden, seed=seed)
        random = torch.Generator().manual_seed(seed + 1)
        self.components = nn.Parameter(torch.randn(*self.heads.shape, d_model, generator=random))
        self.query = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)
        self.norm_out = nn.RMSNorm(d_model, eps=1e-6)
        stds = ((self.query, (d_model * d_kv) ** -0.5), (self.key, d_model**-0.5), (self.value, d_model**-0.5))
        for linear, std in (*stds, (self.output, inner**-0.5)):
            nn.init.normal_(linear.weight, std=std, generator=random)

    def forward(self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]) -> Bank:
        """A bank of one task per instruction; every instruction needs a token that is not padding."""
        states = self.norm(states.to(self.norm.weight.dtype))  # the backbone may be of a narrower type
        queries = self._split(self.query(self.components).unsqueeze(0)).expand(states.shape[0], -1, -1, -1)
        keys, values = self._split(self.key(states)), self._split(self.value(states))
        read = nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask[:, None, None, :], scale=1.0
        )
        read = self.output(read.transpose(1, 2).flatten(2))
        bank: Bank = self.heads(self.norm_out(read.to(self.norm_out.weight.dtype)))
        return bank

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.attention_heads, -1)).transpose(1, 2)
