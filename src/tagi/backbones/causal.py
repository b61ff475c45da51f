"""Decoder-only models (the Llama family, Mistral, Qwen, Gemma, Phi, GPT-2, OPT and others) as a backbone."""

import copy
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from tagi.backbones import shapes
from tagi.backbones.decoding import decode
from tagi.backbones.fused import fused_target_modules
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
from tagi.errors import InputError
from tagi.settings.text import IGNORED

_EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
"""Names of the epsilon of norms in configurations."""


@dataclass(frozen=True)
class Prefix:
    """Encoded texts, one per row, for scoring any number of continuations.

    Args:
        cache: Keys and values of every layer over the texts.
        mask: Which tokens of the texts are not padding.
        logits: Logits of the next token.
    """

    cache: Cache
    mask: shapes.TokenMask
    logits: Float[Tensor, "row vocabulary"]


@dataclass(frozen=True)
class Reading:
    """Texts of which a prefix may have been encoded.

    Args:
        ids: Ids of all tokens. Columns of a KV prefix have placeholder ids.
        known: Keys and values of the first columns, if they were computed.
    """

    ids: shapes.TokenIds
    known: Cache | None


class CausalBackbone(Backbone):
    """A causal language model of transformers with its tokenizer.

    Target modules are the layers `q_proj` and `v_proj`; with grouped-query attention the value is narrower. Where one
    layer projects query, key and value (GPT-2, GPT-NeoX, Phi-3), they are the columns of query and value.

    Prompts are padded on the left. Positions do not count padding, so padding does not change results.
    """

    encoder_decoder = False

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__(model, tokenizer, identity)
        config = model.config
        self.target_modules = find_target_modules(
            model, query="q_proj", key="k_proj", value="v_proj"
        ) or fused_target_modules(model)
        # OPT projects its last states to the width of its embeddings, which may differ.
        self.d_model: int = getattr(config, "word_embed_proj_dim", config.hidden_size)
        self.max_tokens = config.max_position_embeddings
        if getattr(config, "use_sliding_window", True):
            self.window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.d_kv: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.depth: int = config.num_hidden_layers
        self.dropout = 0.0
        self.norm_epsilon: float = next((getattr(config, name) for name in _EPSILONS if hasattr(config, name)), 1e-6)

    @property
    def instruction_reader(self) -> nn.Module:
        """The model without its head."""
        reader: nn.Module = self.model.base_model
        return reader

    @property
    def fusion_places(self) -> list[nn.Module]:
        """All layers."""
        count = self.model.config.num_hidden_layers
        parts = self.model.base_model.modules()
        return list(next(part for part in parts if isinstance(part, nn.ModuleList) and len(part) == count))

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's end of sequence and those of the generation configuration."""
        own = self.model.generation_config.eos_token_id
        return sorted({self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def encode(self, ids: shapes.TokenIds, mask: shapes.TokenMask) -> shapes.TokenStates:
        """Return the last layer's states after the final norm, under the active attachment."""
        states: Tensor = self.run(self.model.base_model, ids, mask).last_hidden_state
        return states

    def run(self, model: Any, ids: Tensor, mask: Tensor, known: Cache | None = None, **options: Any) -> Any:
        """Run the model, or a part of it, on tokens that may follow cached ones.

        Args:
            model: The module to run.
            ids: Token ids.
            mask: Which tokens are not padding, starting with those of `known`.
            known: KV cache of the preceding tokens, which is extended.
            **options: Further arguments of the model.
        """
        given = {"use_cache": known is not None, "past_key_values": known, **options}
        positions = _positions(mask)[:, -ids.shape[1] :]
        return model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, **given)

    def read_instructions(
        self, ids: shapes.InstructionIds, mask: shapes.InstructionMask, *, keep: bool
    ) -> Instructions:
        """Return the last layer's states, and with `keep` also every layer's keys and values."""
        if not keep:
            return Instructions(self.encode(ids, mask), mask)
        self._refuse_checkpointing()
        # A cache without the model's configuration also keeps tokens outside of sliding windows.
        output = self.run(self.model.base_model, ids, mask, DynamicCache())
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return Instructions(output.last_hidden_state, mask, layers)

    def memory(self, read: Instructions) -> KeysValues:
        """Return the keys and values from the encoding pass, without LoRA."""
        assert read.layers is not None
        return read.layers

    def memory_shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """Return key-value heads, tokens and head width for every layer."""
        config = self.model.config
        heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        return [(heads, tokens, self.d_kv)] * int(config.num_hidden_layers)

    def forced_logits(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, labels: shapes.Labels, before: Instructions | None = None
    ) -> shapes.Logits:
        """Compute teacher-forced logits at each target position after prompts that are padded on the left.

        With `before`, each row continues from its instruction. Labels of -100 are padding.
        """
        known, cache = labels[:, :-1], None
        joined = torch.cat([mask, known != IGNORED], dim=1)
        if before is not None:
            self._refuse_checkpointing()
            cache = cache_of(self.memory(before))
            joined = torch.cat([before.mask, joined], dim=1)
        given = torch.cat([ids, known.clamp(min=0)], dim=1)
        # Slicing would give a view, for which each row's product copies all weights of the head.
        kept = torch.arange(given.shape[1] - labels.shape[1], given.shape[1], device=given.device)
        output: Tensor = self.run(self.model, given, joined, cache, logits_to_keep=kept).logits
        return output

    logits = forced_logits

    def _refuse_checkpointing(self) -> None:
        """Raise `ValueError` with gradient checkpointing, under which layers drop their caches silently."""
        model = self.model  # renamed in transformers 5.23, which warns of the old name
        recomputes = getattr(model, "is_activation_checkpointing", None)
        if model.training and (model.is_gradient_checkpointing if recomputes is None else recomputes):
            raise ValueError("a decoder-only model that checkpoints gradients cannot go on from what was read before")

    def read_inputs(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, before: Memory | None = None
    ) -> tuple[Reading, shapes.MemoryMask]:
        """Return all tokens except the last, which is processed with its continuation."""
        known = DynamicCache()
        if before is not None:
            rows, (layers, seen) = ids.shape[0], before
            known = cache_of(
                [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in layers]
            )
            mask = torch.cat([seen.expand(rows, -1), mask], dim=1)
        if ids.shape[1] > 1:
            self.run(self.model.base_model, ids[:, :-1], mask[:, :-1], known)
        columns = ids.new_zeros(ids.shape[0], mask.shape[1] - ids.shape[1])
        return Reading(torch.cat([columns, ids], dim=1), known if known.get_seq_length() else None), mask

    def scores(
        self, read: Reading, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction = "sum"
    ) -> shapes.ChoiceScores:
        """Return the choices of all rows, each after the last token of its row."""
        choices, flat = labels.shape[1], labels.flatten(0, 1)
        targets = flat[:, :-1]
        ids = torch.cat([read.ids[:, -1:].repeat_interleave(choices, 0), targets.clamp(min=0)], dim=1)
        joined = torch.cat([mask.repeat_interleave(choices, 0), targets != IGNORED], dim=1)
        known = DynamicCache() if read.known is None else _fork(read.known, choices)
        return choice_scores(self.run(self.model, ids, joined, known).logits, labels, reduction)

    def read(
        self, ids: shapes.TokenIds, mask: Bool[Tensor, "row known_and_token"], known: Cache | None = None
    ) -> Prefix:
        """Encode prompts that are padded on the left, for any number of continuations.

        With `known`, which is extended, the prompts follow the cached tokens; `mask` is then that of both.
        """
        output = self.run(self.model, ids, mask, known, use_cache=True, logits_to_keep=1)
        return Prefix(output.past_key_values, mask, output.logits[:, -1])

    @torch.no_grad()
    def generate(
        self, read: Reading | shapes.TokenIds, mask: shapes.TokenMask, **decoding: Unpack[Decoding]
    ) -> shapes.AnswerIds:
        """Generate one answer per row after prompts that are padded on the left. The result excludes the prompt.

        Args:
            read: The prompts' token ids, or the result of `read_inputs`.
            mask: Which tokens are not padding.
            **decoding: Decoding settings.

        Raises:
            InputError: Prompt and answer together exceed the model's context length.
        """
        ids, known = (read.ids, read.known) if isinstance(read, Reading) else (read, None)
        if ids.shape[1] + decoding["max_new_tokens"] > self.max_tokens:
            raise InputError(
                f"expected at most {self.max_tokens} tokens of prompt and answer together (the model's positions), "
                f"got {ids.shape[1]} and {decoding['max_new_tokens']}"
            )
        pad = self.tokenizer.pad_token_id
        special = {"pad_token_id": self.tokenizer.eos_token_id if pad is None else pad, "eos_token_id": self.end_tokens}
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
        if known is not None:
            # transformers repeats ids and masks for beams, but not a cache.
            given["past_key_values"] = _fork(known, decoding.get("num_beams", 1))
        return decode(self.model, special, given, **decoding)[:, ids.shape[1] :]


def score_after(
    backbone: CausalBackbone, prefix: Prefix, labels: shapes.ChoiceLabels, reduction: Reduction = "sum"
) -> shapes.ChoiceScores:
    """Compute the log-probability of every choice of every row after the encoded texts.

    Includes the end of sequence; sum or mean over tokens. Every row has the same number of choices; a choice with
    labels of -100 only scores 0. The active attachment must be laid out for `row * choice` rows, with the choices of a
    row next to each other.
    """
    choices, known = labels.shape[1], labels.flatten(0, 1)[:, :-1]
    logits = prefix.logits.repeat_interleave(choices, 0).unsqueeze(1)
    if known.shape[1]:
        mask = torch.cat([prefix.mask.repeat_interleave(choices, 0), known != IGNORED], dim=1)
        cache = _fork(prefix.cache, choices)
        rest = backbone.run(backbone.model, known.clamp(min=0), mask, cache).logits
        logits = torch.cat([logits, rest], dim=1)
    return choice_scores(logits, labels, reduction)


def cache_of(layers: KeysValues) -> DynamicCache:
    """Return a cache with the given keys and values."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys, values, layer)
    return cache


def _fork(cache: Cache, times: int = 1) -> Cache:
    """Return a copy of a cache, with every row repeated `times` times, that can be extended independently.

    transformers replaces the tensors of a layer and does not write into them.
    """
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    if times > 1:
        fork.batch_repeat_interleave(times)
    return fork


def _positions(mask: shapes.TokenMask) -> shapes.TokenIds:
    """Return the positions of tokens: the number of preceding tokens that are not padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
