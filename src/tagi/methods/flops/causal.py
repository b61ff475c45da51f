"""FLOPs of decoder-only models that read an instruction and an input, from their shapes alone.

A prompt of L tokens is read at once: L^2 pairs in self-attention, as masked products are computed whole. It gives
the first token; o - 1 steps, each attending to all before it and to itself, give the others. The head scores one
position per token given.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.bank import as_lora
from tagi.errors import ConfigError
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.flops.costs import Components, Cost, Lengths, Number
from tagi.methods.flops.generation import applying_flops, generation_flops, written

_D_FF = ("intermediate_size", "ffn_dim", "n_inner")
"""How configurations name the feed-forward's width; without one it is four times the model's."""
_MATRICES = (nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True)
class CausalShapes:
    """What a decoder-only model's arithmetic depends on.

    `inner` is heads x their width, `key_value` that of keys and of values (less than `inner` where heads share them);
    `gated`: a feed-forward of three matrices, not two.
    """

    d_model: int
    inner: int
    key_value: int
    d_ff: int
    gated: bool
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, model: nn.Module) -> "CausalShapes":
        """The shapes of a transformers causal model, from its matrices: families name their sizes each in its own way.

        Raises `ConfigError` where the matrices are not those of an attention and a feed-forward in every layer.
        """
        causal = cast(Any, model)
        config = causal.config
        heads: int = config.num_attention_heads
        width: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared: int = getattr(config, "num_key_value_heads", None) or heads
        d_ff: int = next((size for name in _D_FF if (size := getattr(config, name, None))), 4 * config.hidden_size)
        layers, inner, key_value = config.num_hidden_layers, heads * width, shared * width
        attention = config.hidden_size * (2 * inner + 2 * key_value)
        in_layers = sum(
            part.weight.numel()
            for path, part in causal.base_model.named_modules()
            if isinstance(part, _MATRICES) and "lora_" not in path  # a LoRA's own are another component
        )
        matrices = (in_layers / layers - attention) / (config.hidden_size * d_ff)
        if matrices not in (2, 3):
            raise ConfigError(
                "FLOPs: expected layers of an attention and a feed-forward of 2 or 3 matrices, got "
                f"{config.model_type!r} with {matrices:.2f}"
            )
        vocabulary: int = causal.get_output_embeddings().weight.shape[0]
        return cls(config.hidden_size, inner, key_value, d_ff, matrices == 3, layers, vocabulary)

    def read(self, tokens: Number, before: Number = 0) -> Number:
        """All layers over `tokens` at once, after `before` whose keys and values are there."""
        return self._layers(tokens, tokens * (before + tokens))

    def write(self, steps: Number, before: Number) -> Number:
        """All layers over `steps` tokens, one at a time, after `before`."""
        return self._layers(steps, steps * before + steps * (steps + 1) / 2)

    def head(self, tokens: Number) -> Number:
        """Scores of the whole vocabulary for every token."""
        return 2 * tokens * self.d_model * self.vocabulary

    def _layers(self, tokens: Number, pairs: Number) -> Number:
        projections = 2 * tokens * self.d_model * (2 * self.inner + 2 * self.key_value)
        attention = 2 * 2 * pairs * self.inner
        feed_forward = (3 if self.gated else 2) * 2 * tokens * self.d_model * self.d_ff
        return self.layers * (projections + attention + feed_forward)


def causal_concatenation_cost(
    shapes: CausalShapes, lengths: Lengths, *, prefix_cached: bool, per_token: Number = 0
) -> Cost:
    """Instruction and input in one prompt: read anew for every example, or the instruction's keys and values kept.

    `per_token` are the FLOPs of a LoRA that is not merged, for each token that passes.
    """
    steps = shapes.write(lengths.output - 1, lengths.prompt)
    head = shapes.head(lengths.output)
    if not prefix_cached:
        adapter = per_token * (lengths.prompt + lengths.output - 1)
        decoder = shapes.read(lengths.prompt) + steps
        return Cost(Components(), Components(adapter=adapter, decoder=decoder, head=head), lengths.examples)
    own = lengths.prompt - min(lengths.instruction, lengths.prompt)
    kept = lengths.prompt - own
    adapter = per_token * (own + lengths.output - 1)
    each = Components(adapter=adapter, decoder=shapes.read(own, before=kept) + steps, head=head)
    return Cost(Components(instruction=shapes.read(kept), adapter=per_token * kept), each, lengths.examples)


def causal_tagi_cost(generator: GeneratorModel, lengths: Lengths, *, merged: bool = True, alone: bool = False) -> Cost:
    """Cost of a task on a decoder-only model: the instruction is read and its LoRA is generated once, then the inputs
    are answered, each after what is kept of the instruction.

    An input's tokens but the last are read at once, the last with what is written. Of a layer that fuses query and
    value the LoRA is one of all its columns, with the ranks of both. Fusion acts on every token that passes.

    With `instruction_cache = "adapted"` the instruction is read twice: without LoRA for the hypernetwork, and under the
    task's own LoRA for the keys and values that inputs go on from. The second reading always applies the LoRA beside
    the weights, since several tasks are prepared together.

    Args:
        generator: The generator; with a shared LoRA, the LoRA that acts has the ranks of both.
        lengths: Tokens of instruction, input and output.
        merged: Whether the LoRA is added to the weights once per task. Otherwise its products run beside the weights
            for every token.
        alone: Whether inputs are answered with the adapter alone: no keys and values of the instruction are made, and
            there is no fusion.
    """
    backbone, settings = generator.backbone, generator.settings
    if alone:
        settings = replace(settings, fusion="none", instruction_cache=None)
    shapes = CausalShapes.of(backbone.model)
    seen, read = lengths.instruction, lengths.input
    kept = seen if settings.concatenates or settings.adapts_prefix else 0
    again = seen if settings.adapts_prefix else 0
    passing = read + lengths.output - 1
    whole = as_lora(generator.blank_bank, "costs").whole()
    sizes = [(a.shape[1], a.shape[2], b.shape[1]) for a, b in whole.factors.values()]
    per_token = sum(applying_flops(d_in, d_out, rank, 1) for rank, d_in, d_out in sizes)
    merging = sum(2 * d_out * rank * d_in for rank, d_in, d_out in sizes) if merged else 0
    generated = [written(target) for target in generator.targets]
    fused = shapes.layers // settings.fusion_every if settings.fuses else 0
    memory = 2 * 2 * seen * backbone.d_model * shapes.inner
    attending = 2 * 2 * passing * shapes.inner * (shapes.d_model + seen)  # query and output; pairs, scored and summed
    once = Components(
        instruction=shapes.read(seen) + shapes.read(again),
        generation=generation_flops(generated, backbone.d_model, shapes.inner, settings, seen),
        adapter=merging + per_token * again,
        fusion=fused * memory,
    )
    first = shapes.read(read - 1, before=kept) + shapes.read(1, before=kept + read - 1)
    each = Components(
        adapter=0 if merged else per_token * passing,
        fusion=fused * attending,
        decoder=first + shapes.write(lengths.output - 1, before=kept + read),
        head=shapes.head(lengths.output),
    )
    return Cost(once, each, lengths.examples)
