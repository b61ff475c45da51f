"""Fusion: cross-attention from the input's hidden states to the instruction states (eq. 1)."""

from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tagi.adapters.attach import OutputHook
from tagi.backbones.protocol import Backbone, KeysValues
from tagi.backbones.shapes import InstructionStates, TokenStates
from tagi.hypernetwork.attention import attend, split_heads
from tagi.settings.generator import GeneratorSettings


class FusionLayer(nn.Module):
    """`F = S + gate * Attn(LN(S), I_x)`; with `norm="post"` the paper's literal `F = LN(S + Attn(S, I_x))`.

    As in T5: RMSNorm, no biases, unscaled scores (the query's initialisation is scaled), no position bias.
    """

    def __init__(self, backbone: Backbone, norm: Literal["pre", "post"]) -> None:
        super().__init__()
        d_model, d_states, heads = backbone.width, backbone.d_model, backbone.heads
        inner = heads * backbone.d_kv
        self.heads = heads
        self.post_norm = norm == "post"
        self.norm = nn.RMSNorm(d_model, eps=backbone.norm_epsilon)
        self.q = nn.Linear(d_model, inner, bias=False)
        self.k = nn.Linear(d_states, inner, bias=False)
        self.v = nn.Linear(d_states, inner, bias=False)
        self.o = nn.Linear(inner, d_model, bias=False)
        self.gate = None if self.post_norm else nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(backbone.dropout)
        nn.init.normal_(self.q.weight, std=(d_model * backbone.d_kv) ** -0.5)
        nn.init.normal_(self.k.weight, std=d_states**-0.5)
        nn.init.normal_(self.v.weight, std=d_states**-0.5)
        nn.init.normal_(self.o.weight, std=inner**-0.5)

    def keys_values(
        self, states: Float[Tensor, "task token d_states"]
    ) -> tuple[Float[Tensor, "task heads token d_kv"], Float[Tensor, "task heads token d_kv"]]:
        """Compute the keys and values over instruction states, once per task."""
        states = states.to(self.k.weight.dtype)  # the backbone may have a lower precision
        return split_heads(self.k(states), self.heads), split_heads(self.v(states), self.heads)

    def forward(
        self,
        states: TokenStates,
        keys: Float[Tensor, "#row heads instruction_token d_kv"],
        values: Float[Tensor, "#row heads instruction_token d_kv"],
        mask: Bool[Tensor, "#row instruction_token"],
    ) -> TokenStates:
        """Compute F_l from S_l and the keys and values of one task for all rows, or of one task per row."""
        wide = states.to(self.norm.weight.dtype)
        queries = split_heads(self.q(wide if self.post_norm else self.norm(wide)), self.heads)
        keys, values = (part.expand(states.shape[0], -1, -1, -1).to(queries.dtype) for part in (keys, values))
        read = self.dropout(self.o(attend(queries, keys, values, mask, scale=1.0)))
        if self.gate is None:
            return cast(Tensor, self.norm(wide + read)).to(states.dtype)
        return states + (self.gate * read).to(states.dtype)


class Fusion(nn.Module):
    """One fusion layer for every `settings.fusion_every`-th layer of the backbone (of the encoder, for T5).

    With `settings.fusion_init = "cross"`, fusion layer i copies the weights of the cross-attention in decoder layer
    i * decoder layers / fusion layers.
    """

    def __init__(self, backbone: Backbone, settings: GeneratorSettings) -> None:
        super().__init__()
        self.every = settings.fusion_every
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.layers = nn.ModuleList(FusionLayer(backbone, settings.fusion_norm) for _ in self._places(backbone))
        if settings.fusion_init == "cross":
            self._copy_cross_attention(backbone)

    def _places(self, backbone: Backbone) -> list[nn.Module]:
        return backbone.fusion_places[self.every - 1 :: self.every]

    @torch.no_grad()
    def _copy_cross_attention(self, backbone: Backbone) -> None:
        sources = backbone.cross_attentions
        for index, layer in enumerate(self.layers):
            source = cast(Any, sources[index * len(sources) // len(self.layers)])
            for name in ("q", "k", "v", "o"):
                getattr(layer, name).weight.copy_(getattr(source, name).weight)

    def keys_values(self, states: InstructionStates) -> KeysValues:
        """Compute keys and values over the instruction states for every fusion layer."""
        return [cast(FusionLayer, layer).keys_values(states) for layer in self.layers]

    def hooks(
        self, backbone: Backbone, keys_values: KeysValues, mask: Bool[Tensor, "#row token"]
    ) -> dict[nn.Module, OutputHook]:
        """Return the hooks that add fusion to the layers of `backbone`, or of a merged view of it."""
        return {
            place: _fuse(cast(FusionLayer, layer), *layer_keys_values, mask)
            for place, layer, layer_keys_values in zip(self._places(backbone), self.layers, keys_values, strict=True)
        }


def _fuse(layer: FusionLayer, keys: Tensor, values: Tensor, mask: Tensor) -> OutputHook:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):  # most decoder-only layers return a tuple
            return layer(output, keys, values, mask)
        return layer(output[0], keys, values, mask), *output[1:]

    return hook
