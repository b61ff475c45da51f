"""Decoder-only models (the Llama family, Mistral, Qwen, Gemma, Phi, GPT-2, OPT and others) as a backbone."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from tagi.backbones.decoding import decode
from tagi.backbones.fused import fused_sites
from tagi.backbones.protocol import IGNORED, Backbone, BaseModel, Reduction, find_sites
from tagi.backbones.scores import choice_scores
from tagi.errors import InputError


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
        """A cache that may grow: transformers replaces a layer's tensors and never writes into them."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return cache


class CausalBackbone(Backbone):
    """Any of transformers' causal language models with its tokenizer.

    Sites are the layers named `q_proj` and `v_proj`; with grouped queries the value is narrower. Where one layer
    projects query, key and value (GPT-2, GPT-NeoX, Phi-3) they are its query's and its value's columns.

    Prompts are padded on the left. A token's position counts the tokens before it that are not padding, so that
    padding changes nothing.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__(model, tokenizer, identity)
        config = model.config
        self.sites = find_sites(model, query="q_proj", key="k_proj", value="v_proj") or fused_sites(model)
        # OPT projects its last states to the width of its embeddings, which may be another.
        self.d_model: int = getattr(config, "word_embed_proj_dim", config.hidden_size)
        self.max_tokens: int = config.max_position_embeddings

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

    def logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        """Teacher-forced logits at each target position after prompts padded on the left.

        Labels of -100 are padding.
        """
        known = labels[:, :-1]
        joined = torch.cat([mask, known != IGNORED], dim=1)
        output: Tensor = self.model(
            input_ids=torch.cat([ids, known.clamp(min=0)], dim=1),
            attention_mask=joined.long(),
            position_ids=_positions(joined),
            use_cache=False,
            logits_to_keep=labels.shape[1],
        ).logits
        return output

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


def _positions(mask: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """How many tokens that are not padding stand before each; padding at the start gets 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
