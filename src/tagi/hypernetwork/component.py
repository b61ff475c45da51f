"""The `component` hypernetwork (HINT): learned embeddings attend to the instruction; one network per part."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tagi.adapters.protocol import Bank
from tagi.backbones.shapes import InstructionMask, InstructionStates
from tagi.hypernetwork.attention import attend, split_heads
from tagi.hypernetwork.heads import Heads, start_std
from tagi.hypernetwork.hypernetwork import Hypernetwork
from tagi.hypernetwork.targets import Slot, Targets, bank_of
from tagi.settings.generator import GeneratorSettings


class SharedHeads(Heads):
    """Map one vector per generated row to a bank, with one two-layer MLP per part for all places and layers.

    The rows are on one axis, grouped by part. The output of an MLP is divided by sqrt(d_model). A part whose width
    differs between places has one MLP per width.
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


class ComponentHypernetwork(Hypernetwork):
    """One learned embedding per generated row attends to `I_x`; an MLP maps the result to the row.

    The attention follows T5: no biases, unscaled scores, no position bias, and a norm before each MLP.

    Args:
        targets: Kinds of modules to generate.
        d_model: Width of instruction states and embeddings.
        settings: Settings of the generator.
        heads: Number of attention heads.
        d_kv: Width of a head.
    """

    def __init__(self, targets: Targets, d_model: int, settings: GeneratorSettings, *, heads: int, d_kv: int) -> None:
        super().__init__(d_model, standardize=settings.standardize)
        inner = heads * d_kv
        self.attention_heads = heads
        self.heads = SharedHeads(targets, d_model=d_model, hidden=settings.hidden, seed=settings.seed)
        random = torch.Generator().manual_seed(settings.seed + 1)
        self.components = nn.Parameter(torch.randn(*self.heads.shape, d_model, generator=random))
        self.query = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)
        self.norm_out = nn.RMSNorm(d_model, eps=1e-6)
        stds = ((self.query, (d_model * d_kv) ** -0.5), (self.key, d_model**-0.5), (self.value, d_model**-0.5))
        for linear, std in (*stds, (self.output, inner**-0.5)):
            nn.init.normal_(linear.weight, std=std, generator=random)

    def features(self, states: InstructionStates, mask: InstructionMask) -> Float[Tensor, "task row d_model"]:
        """Return the attention output for every row's embedding."""
        states, heads = self.norm(states), self.attention_heads
        queries = split_heads(self.query(self.components), heads).expand(states.shape[0], -1, -1, -1)
        keys, values = split_heads(self.key(states), heads), split_heads(self.value(states), heads)
        read = self.output(attend(queries, keys, values, mask, scale=1.0))
        normed: Tensor = self.norm_out(read.to(self.norm_out.weight.dtype))
        return normed
