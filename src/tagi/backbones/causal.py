"""Decoder-only models (the Llama family, Mistral, Qwen, Gemma, Phi, GPT-2, OPT and others) as a backbone."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from tagi.backbones.decoding import decode
from tagi.backbones.fused import fused_sites
from tagi.backbones.protocol import (
    Backbone,
    BaseModel,
    Instructions,
    KeysValues,
    Reduction,
    find_sites,
)
from tagi.backbones.scores import choice_scores
from tagi.errors import InputError
from tagi.settings.text import IGNORED

_EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
"""What configurations call the epsilon of their norms."""


@dataclass(frozen=True)
class Prefix:
    """Texts that a model has read, one a row: what may follow is scored from here, as often as one likes.

    `cache` holds every layer's keys and values over the texts, `mask` says which of its tokens are not padding,
    `logits` are of the token that comes next.
    """

    cache: Cache
    mask: Bool[Tensor, "row token"]
    logits: Float[Tensor, "row vocabulary"]

    def repeat(self, times: int) -> "Prefix":
        """Every row `times` times, its copies together."""
        cache = self.fork()
        cache.batch_repeat_interleave(times)
        return Prefix(cache, self.mask.repeat_interleave(times, 0), self.logits.repeat_interleave(times, 0))

    def fork(self) -> Cache:
        """A cache that may grow."""
        return _fork(self.cache)


@dataclass(frozen=True)
class Reading:
    """Texts of which all but the last token may have been read: ids of all, keys and values of the first columns.

    What stands before a text in its own right, such as an instruction's cache, has columns too; their ids say nothing.
    """

    ids: Int[Tensor, "row token"]
    known: Cache | None


class CausalBackbone(Backbone):
    """Any of transformers' causal language models with its tokenizer.

    Sites are the layers named `q_proj` and `v_proj`; with grouped queries the value is narrower. Where one layer
    projects query, key and value (GPT-2, GPT-NeoX, Phi-3) they are its query's and its value's columns.

    Prompts are padded on the left. A token's position counts the tokens before it that are not padding, so that
    padding changes nothing.
    """

    fuses_answers = True

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__(model, tokenizer, identity)
        config = model.config
        self.sites = find_sites(model, query="q_proj", key="k_proj", value="v_proj") or fused_sites(model)
        # OPT projects its last states to the width of its embeddings, which may be another.
        self.d_model: int = getattr(config, "word_embed_proj_dim", config.hidden_size)
        self.max_tokens: int = config.max_position_embeddings
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.d_kv: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.depth: int = config.num_hidden_layers
        self.dropout = 0.0
        self.norm_epsilon: float = next((getattr(config, name) for name in _EPSILONS if hasattr(config, name)), 1e-6)

    @property
    def window(self) -> int | None:
        """How many tokens the layer sees that sees least of what was before; None if all see everything."""
        config = self.model.config
        if not getattr(config, "use_sliding_window", True):
            return None
        size: int | None = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
        return size

    @property
    def instruction_reader(self) -> nn.Module:
        """All but the head."""
        reader: nn.Module = self.model.base_model
        return reader

    @property
    def fusion_places(self) -> list[nn.Module]:
        """All layers, whose output goes into the next."""
        count = self.model.config.num_hidden_layers
        parts = self.model.base_model.modules()
        return list(next(part for part in parts if isinstance(part, nn.ModuleList) and len(part) == count))

    @property
    def end_tokens(self) -> list[int]:
        """What ends an answer: the tokenizer's end-of-sequence, and whatever else the model itself ends with."""
        own = self.model.generation_config.eos_token_id
        return sorted({self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})

    def encode(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"]
    ) -> Float[Tensor, "row token d_model"]:
        """The last layer's states after the final norm, under whatever attachment is in force."""
        states: Tensor = self.model.base_model(
            input_ids=ids, attention_mask=mask.long(), position_ids=_positions(mask), use_cache=False
        ).last_hidden_state
        return states

    def read_instructions(
        self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"], *, keep: bool
    ) -> Instructions:
        """The last layer's states, and with `keep` every layer's keys and values of the same pass."""
        if not keep:
            return Instructions(self.encode(ids, mask), mask)
        self._refuse_checkpointing()
        output = self.model.base_model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            past_key_values=DynamicCache(),  # told nothing of the model it keeps what sliding windows leave behind
            use_cache=True,
        )
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return Instructions(output.last_hidden_state, mask, layers)

    def memory(self, read: Instructions) -> KeysValues:
        """Keys and values as they were read: without LoRA."""
        assert read.layers is not None
        return read.layers

    def memory_shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """Heads, which queries may share, tokens and their width in every layer."""
        config = self.model.config
        heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        return [(heads, tokens, self.d_kv)] * int(config.num_hidden_layers)

    def logits(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row target"],
        before: Instructions | None = None,
    ) -> Float[Tensor, "row target vocabulary"]:
        """Teacher-forced logits at each target position after prompts padded on the left.

        With `before`, padded as it likes, these go on from each row's instruction. Labels of -100 are padding.
        """
        known, cache = labels[:, :-1], None
        joined = torch.cat([mask, known != IGNORED], dim=1)
        if before is not None:
            self._refuse_checkpointing()
            cache = _cache_of(self.memory(before))
            joined = torch.cat([before.mask, joined], dim=1)
        given = torch.cat([ids, known.clamp(min=0)], dim=1)
        output: Tensor = self.model(
            input_ids=given,
            attention_mask=joined.long(),
            position_ids=_positions(joined)[:, -given.shape[1] :],
            past_key_values=cache,
            use_cache=cache is not None,
            # By number it would be a view, of which each row's product copies all of the head's weights.
            logits_to_keep=torch.arange(given.shape[1] - labels.shape[1], given.shape[1], device=given.device),
        ).logits
        return output

    def forced_logits(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row target"],
        before: Instructions | None = None,
    ) -> Float[Tensor, "row target vocabulary"]:
        """As `logits`."""
        return self.logits(ids, mask, labels, before)

    def _refuse_checkpointing(self) -> None:
        """Layers that are recomputed drop their caches without a word."""
        model = self.model  # transformers renamed it in 5.23 and warns of the old name
        recomputes = getattr(model, "is_activation_checkpointing", None)
        if model.training and (model.is_gradient_checkpointing if recomputes is None else recomputes):
            raise ValueError("a decoder-only model that checkpoints gradients cannot go on from what was read before")

    def read_inputs(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        before: tuple[KeysValues, Bool[Tensor, "#row known"]] | None = None,
    ) -> tuple[Reading, Bool[Tensor, "row memory"]]:
        """All tokens but the last, which is read with what follows it."""
        known = DynamicCache()
        if before is not None:
            rows, (layers, seen) = ids.shape[0], before
            known = _cache_of(
                [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in layers]
            )
            mask = torch.cat([seen.expand(rows, -1), mask], dim=1)
        if ids.shape[1] > 1:
            self.model.base_model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1].long(),
                position_ids=_positions(mask)[:, -ids.shape[1] : -1],
                past_key_values=known,
                use_cache=True,
            )
        columns = ids.new_zeros(ids.shape[0], mask.shape[1] - ids.shape[1])
        return Reading(torch.cat([columns, ids], dim=1), known if known.get_seq_length() else None), mask

    def answers(
        self,
        read: Reading,
        mask: Bool[Tensor, "row memory"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
        num_beams: int = 1,
    ) -> Int[Tensor, "row answer"]:
        """As `generate`."""
        return self.generate(
            read.ids,
            mask,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            known=None if read.known is None else _fork(read.known),
        )

    def scores(
        self,
        read: Reading,
        mask: Bool[Tensor, "row memory"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction = "sum",
    ) -> Float[Tensor, "row choice"]:
        """Choices side by side, each after the last token of its row."""
        choices, flat = labels.shape[1], labels.flatten(0, 1)
        targets = flat[:, :-1]
        ids = torch.cat([read.ids[:, -1:].repeat_interleave(choices, 0), targets.clamp(min=0)], dim=1)
        joined = torch.cat([mask.repeat_interleave(choices, 0), targets != IGNORED], dim=1)
        known = DynamicCache() if read.known is None else _fork(read.known)
        if read.known is not None:
            known.batch_repeat_interleave(choices)
        logits = self.model(
            input_ids=ids,
            attention_mask=joined.long(),
            position_ids=_positions(joined)[:, -ids.shape[1] :],
            past_key_values=known,
            use_cache=True,
        ).logits
        return choice_scores(logits, labels, reduction)

    def read(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row known_and_token"],
        known: Cache | None = None,
    ) -> Prefix:
        """Read prompts padded on the left, once for all that may follow.

        With `known`, which grows, after what it holds; `mask` is then of both, with padding before each.
        """
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask)[:, -ids.shape[1] :],
            past_key_values=known,
            use_cache=True,
            logits_to_keep=1,
        )
        return Prefix(output.past_key_values, mask, output.logits[:, -1])

    def logits_after(self, prefix: Prefix, labels: Int[Tensor, "row target"]) -> Float[Tensor, "row target vocabulary"]:
        """As `logits`, after what has been read; the prefix stays as it was."""
        first, known = prefix.logits.unsqueeze(1), labels[:, :-1]
        if not known.shape[1]:
            return first
        joined = torch.cat([prefix.mask, known != IGNORED], dim=1)
        rest: Tensor = self.model(
            input_ids=known.clamp(min=0),
            attention_mask=joined.long(),
            position_ids=_positions(joined)[:, -known.shape[1] :],
            past_key_values=prefix.fork(),
            use_cache=True,
        ).logits
        return torch.cat([first, rest], dim=1)

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
        num_beams: int = 1,
        known: Cache | None = None,
    ) -> Int[Tensor, "row answer"]:
        """Greedy or beam decoding after prompts padded on the left, one answer a row, without its prompt.

        `known`, which grows, holds keys and values of the prompts' first tokens, where they have been read before.
        No answer ends before `min_new_tokens`. With beams, an attachment in force must be laid out for
        `row * num_beams` rows, each row's together.
        Raises `InputError` where prompt and answer would be longer than the model can read.
        """
        if ids.shape[1] + max_new_tokens > self.max_tokens:
            raise InputError(
                f"expected at most {self.max_tokens} tokens of prompt and answer together (the model's positions), "
                f"got {ids.shape[1]} and {max_new_tokens}"
            )
        pad = self.tokenizer.pad_token_id
        if known is not None and num_beams > 1:  # transformers repeats ids and masks for the beams, not a cache
            known.batch_repeat_interleave(num_beams)
        answer = decode(
            self.model,
            {"pad_token_id": self.tokenizer.eos_token_id if pad is None else pad, "eos_token_id": self.end_tokens},
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            input_ids=ids,
            attention_mask=mask.long(),
            **({} if known is None else {"past_key_values": known}),
        )
        return answer[:, ids.shape[1] :]


def score_after(
    backbone: CausalBackbone,
    prefix: Prefix,
    labels: Int[Tensor, "row choice target"],
    reduction: Reduction = "sum",
) -> Float[Tensor, "row choice"]:
    """Log-probability of every choice of every row after what has been read.

    End of sequence included; summed over tokens, or their mean. Every row has the same number of choices; one
    whose labels are all -100 scores 0. An attachment in force must be laid out for `row * choice` rows, a
    row's choices together.
    """
    logits = backbone.logits_after(prefix.repeat(labels.shape[1]), labels.flatten(0, 1))
    return choice_scores(logits, labels, reduction)


def _cache_of(layers: KeysValues) -> DynamicCache:
    """A cache that holds keys and values already computed."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys, values, layer)
    return cache


def _fork(cache: Cache) -> Cache:
    """A cache that may grow beside the given one: transformers replaces a layer's tensors, never writes into them."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def _positions(mask: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """How many tokens that are not padding stand before each; padding at the start gets 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
