"""T5 and its relatives (v1.0, v1.1, LM-adapt, T0, Flan-T5, mT5) as a backbone."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from tagi.adapters.attach import Attached, AttentionPrefix
from tagi.adapters.protocol import Bank
from tagi.backbones import shapes
from tagi.backbones.decoding import decode
from tagi.backbones.kv_cache import join
from tagi.backbones.prefix_attention import take_prefixes, takes_prefixes
from tagi.backbones.protocol import (
    Backbone,
    BaseModel,
    Decoding,
    Instructions,
    KeysValues,
    Memory,
    Reduction,
    find_target_modules,
)
from tagi.backbones.scores import choice_scores


class T5Backbone(Backbone):
    """A `T5ForConditionalGeneration` (or `MT5ForConditionalGeneration`) with its tokenizer."""

    encoder_decoder = True

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__(model, tokenizer, identity)
        self.target_modules = find_target_modules(model, query="q", key="k", value="v")
        config = model.config
        self.d_model: int = config.d_model
        self.width: int = config.d_model
        self.heads: int = config.num_heads
        self.d_kv: int = config.d_kv
        self.dropout: float = config.dropout_rate
        self.norm_epsilon: float = config.layer_norm_epsilon
        self.activation = config.dense_act_fn
        stacks = (("encoder", model.encoder), ("decoder", model.decoder))
        blocks = [
            (f"{name}.block.{at}.layer", len(block.layer)) for name, s in stacks for at, block in enumerate(s.block)
        ]
        self.depth = len(blocks)
        self.attentions = tuple(dict.fromkeys(module.path.rpartition(".")[0] for module in self.target_modules))
        self.self_attention_outputs = tuple(f"{layers}.0.dropout" for layers, _ in blocks)
        self.feed_forwards = tuple(f"{layers}.{count - 1}.DenseReluDense" for layers, count in blocks)

    @property
    def instruction_reader(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.model.encoder
        return encoder

    @property
    def fusion_places(self) -> list[nn.Module]:
        """The module of each encoder layer whose output is S_l: self-attention with its residual connection."""
        return [block.layer[0] for block in self.model.encoder.block]

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The cross-attention of each decoder layer."""
        return [block.layer[1].EncDecAttention for block in self.model.decoder.block]

    @property
    def places(self) -> Mapping[str, nn.Module]:
        """All modules that a bank can change, by path: target modules, attention, and places of bottleneck adapters.

        A self-attention's output is taken after dropout and before the residual connection. A feed-forward layer is
        the module whose input is the normalised state.
        """
        others = (*self.attentions, *self.self_attention_outputs, *self.feed_forwards)
        return {**self.target_layers, **{path: self.model.get_submodule(path) for path in others}}

    def hooks(self, bank: Bank, rows: shapes.TaskRows | None = None) -> dict[nn.Module, Attached]:
        """Like `Backbone.hooks`. Raises `ValueError` for prefixes without `take_prefixes`: they have no effect."""
        hooks = super().hooks(bank, rows)
        prefixed = any(isinstance(attached, AttentionPrefix) for attached in hooks.values())
        if prefixed and not takes_prefixes(self.model.encoder, self.model.decoder):
            raise ValueError("this backbone's attention takes no prefixes: call take_prefixes() first")
        return hooks

    def take_prefixes(self) -> None:
        """Make attention modules use prefixes. Without a prefix the results are identical to before."""
        take_prefixes(self.model)

    def encode(self, ids: shapes.TokenIds, mask: shapes.TokenMask) -> shapes.TokenStates:
        """Return the encoder's output after its final norm, under the active attachment."""
        states: Tensor = self.model.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states

    def read_instructions(
        self, ids: shapes.InstructionIds, mask: shapes.InstructionMask, *, keep: bool
    ) -> Instructions:
        """Return the encoder's states."""
        return Instructions(self.encode(ids, mask), mask)

    def memory(self, read: Instructions) -> KeysValues:
        """Return the decoder's keys and values over `I_x`."""
        return self.cross_keys_values(read.states)

    def memory_shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """Return heads, tokens and head width for every decoder layer."""
        return [(self.heads, tokens, self.d_kv)] * len(self.cross_attentions)

    def forced_logits(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, labels: shapes.Labels, before: Instructions | None = None
    ) -> shapes.Logits:
        """Compute the decoder's logits over `(I_x; Enc(b))`, or over the encoded input only."""
        encoded = self.encode(ids, mask)
        if before is not None:
            encoded, mask = torch.cat([before.states, encoded], dim=1), torch.cat([before.mask, mask], dim=1)
        return self.logits(encoded, mask, labels)

    def read_inputs(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, before: Memory | None = None
    ) -> tuple[KeysValues, shapes.MemoryMask]:
        """Return the decoder's keys and values over (I_x; inputs), and the joint mask."""
        cross = self.cross_keys_values(self.encode(ids, mask))
        return (cross, mask) if before is None else join(*before, cross, mask)

    @torch.no_grad()
    def generate(
        self, read: KeysValues, mask: shapes.MemoryMask, *, processors: Sequence[Any] = (), **decoding: Unpack[Decoding]
    ) -> shapes.AnswerIds:
        """Generate one answer per row from the decoder's keys and values.

        `processors` are transformers' logits processors.
        """
        # transformers repeats masks and states for beams, but not a given cache.
        beams, config = decoding.get("num_beams", 1), self.model.config
        special = {key: getattr(config, key) for key in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
        given = {
            "encoder_outputs": _states_in_cache(mask, read),
            "attention_mask": mask.long(),
            "past_key_values": _cross_cache(_repeated(read, beams)),
            "logits_processor": list(processors),
        }
        return decode(self.model, special, given, **decoding)

    def scores(
        self, read: KeysValues, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction = "sum"
    ) -> shapes.ChoiceScores:
        """Compute the log-probability of every choice of every row from the decoder's keys and values."""
        choices = labels.shape[1]
        spread, wide = _repeated(read, choices), mask.repeat_interleave(choices, 0)
        return choice_scores(self.logits_from_cache(spread, wide, labels.flatten(0, 1)), labels, reduction)

    def cross_keys_values(self, states: shapes.TokenStates) -> KeysValues:
        """Compute the cross-attention's keys and values over `states` for every decoder layer.

        The value projection is a target module, so the rows' bank must be attached.
        """

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.d_kv)).transpose(1, 2)

        attentions = cast(list[Any], self.cross_attentions)
        return [(heads(attention.k(states)), heads(attention.v(states))) for attention in attentions]

    def logits(self, states: shapes.TokenStates, mask: shapes.TokenMask, labels: shapes.Labels) -> shapes.Logits:
        """Compute teacher-forced logits at each target position. Labels of -100 are padding."""
        output: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=self.model._shift_right(labels),
            use_cache=False,
        ).logits
        return output

    def logits_from_cache(self, cross: KeysValues, mask: shapes.TokenMask, labels: shapes.Labels) -> shapes.Logits:
        """Compute teacher-forced logits from the decoder's keys and values."""
        output: Tensor = self.model(
            encoder_outputs=_states_in_cache(mask, cross),
            attention_mask=mask.long(),
            decoder_input_ids=self.model._shift_right(labels),
            past_key_values=_cross_cache(cross),
            use_cache=True,
        ).logits
        return output


def _repeated(layers: KeysValues, times: int) -> KeysValues:
    """Repeat every row `times` times, with copies next to each other."""
    return [(keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)) for keys, values in layers]


def _cross_cache(cross: KeysValues) -> EncoderDecoderCache:
    # EncoderDecoderCache marks layers with keys as ready, so that the model does not project states itself.
    filled = DynamicCache()
    for layer, (keys, values) in enumerate(cross):
        filled.update(keys, values, layer)
    return EncoderDecoderCache(DynamicCache(), filled)


def _states_in_cache(mask: Tensor, cross: KeysValues) -> BaseModelOutput:
    # Only the length of these states is used (for the mask); keys and values come from the cache.
    placeholder = torch.zeros(*mask.shape, 1, dtype=cross[0][0].dtype, device=mask.device)
    return BaseModelOutput(last_hidden_state=placeholder)
