"""FLOPs of methods on a T5, from its shapes alone.

Answers are decoded greedily with a cache, one token a step: step j attends to j positions of its own and to all of the
encoder's output, so that o tokens make o(o + 1)/2 pairs in self-attention (o^2 where a target is teacher-forced at
once). The encoder attends both ways: L^2 pairs for L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tagi.backbones.protocol import Site
from tagi.methods.flops.costs import Components, Cost, Lengths, Number
from tagi.methods.flops.generation import (
    Written,
    applying_flops,
    bottleneck_flops,
    generation_flops,
    merging_flops,
    written_lora,
)
from tagi.settings.generator import GeneratorSettings


@dataclass(frozen=True, slots=True)
class T5Shapes:
    """What a T5's arithmetic depends on; `inner` is heads x d_kv, `gated` a feed-forward of three matrices, not two."""

    d_model: int
    inner: int
    d_ff: int
    gated: bool
    encoder_layers: int
    decoder_layers: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "T5Shapes":
        """The shapes of a transformers `T5Config` or `MT5Config`."""
        return cls(
            d_model=config.d_model,
            inner=config.num_heads * config.d_kv,
            d_ff=config.d_ff,
            gated=config.is_gated_act,
            encoder_layers=config.num_layers,
            decoder_layers=config.num_decoder_layers,
            vocabulary=config.vocab_size,
        )

    def encoder(self, tokens: Number) -> Number:
        """All encoder layers over one text."""
        layer = self.projections(4, tokens) + self.attention(tokens, tokens) + self._feed_forward(tokens)
        return self.encoder_layers * layer

    def fusion_memory(self, tokens: Number) -> Number:
        """Keys and values of all fusion layers over an instruction."""
        return self.encoder_layers * self.projections(2, tokens)

    def fusion(self, tokens: Number, memory: Number) -> Number:
        """Queries, attention and output of all fusion layers: a text of `tokens` over an instruction of `memory`."""
        return self.encoder_layers * (self.projections(2, tokens) + self.attention(tokens, memory))

    def decoder_memory(self, tokens: Number) -> Number:
        """Keys and values of all cross-attentions over `tokens` of what the decoder reads."""
        return self.decoder_layers * self.projections(2, tokens)

    def decoder(self, tokens: Number, memory: Number) -> Number:
        """All decoder layers, step by step for `tokens`, over `memory` whose keys and values are there."""
        own = self.projections(4, tokens) + self.attention((tokens + 1) / 2, tokens)
        cross = self.projections(2, tokens) + self.attention(tokens, memory)
        return self.decoder_layers * (own + cross + self._feed_forward(tokens))

    def head(self, tokens: Number) -> Number:
        """Scores of the whole vocabulary for every token."""
        return 2 * tokens * self.d_model * self.vocabulary

    def lora(self, rank: int, read: Number, written: Number) -> Number:
        """Unmerged LoRA on every query and value projection: over `read` tokens encoded, `written` tokens decoded.

        The decoder's cross-attention projects queries of what is written and values of what is read.
        """
        positions = self.encoder_layers * 2 * read + self.decoder_layers * (3 * written + read)
        return applying_flops(self.d_model, self.inner, rank, positions)

    def lora_memory(self, rank: int, tokens: Number) -> Number:
        """Unmerged LoRA on the values of all cross-attentions over an instruction."""
        return self.decoder_layers * applying_flops(self.d_model, self.inner, rank, tokens)

    def bottlenecks(self, width: int, read: Number, written: Number) -> Number:
        """One bottleneck adapter in every layer, at either placement: `read` tokens encoded, `written` decoded."""
        positions = self.encoder_layers * read + self.decoder_layers * written
        return bottleneck_flops(self.d_model, width, positions)

    def prefixes(self, tokens: int, read: Number, written: Number) -> Number:
        """What a prefix adds to all attentions: its pairs with tokens `read` once, with tokens `written` twice."""
        positions = self.encoder_layers * read + self.decoder_layers * 2 * written
        return self.attention(positions, tokens)

    def written(self, sites: Sequence[Site], settings: GeneratorSettings) -> list[Written]:
        """What a generator of these settings writes for such a T5."""
        found = [written_lora(sites, settings)] if settings.module == "lora" else []
        if settings.makes_bottlenecks:
            layers, width = self.encoder_layers + self.decoder_layers, settings.bottleneck
            found.append(Written(layers, 2 * width + 2, layers * (2 * width * self.d_model + width + self.d_model)))
        if settings.makes_prefixes:
            attentions, rows = self.encoder_layers + 2 * self.decoder_layers, 2 * settings.prefix
            found.append(Written(attentions, rows, attentions * rows * self.inner))
        return found

    def projections(self, count: int, tokens: Number) -> Number:
        """`count` of query, key, value and output."""
        return count * 2 * tokens * self.d_model * self.inner

    def attention(self, queries: Number, keys: Number) -> Number:
        """Scores of every pair, and the sums of values that they weigh."""
        return 2 * 2 * queries * keys * self.inner

    def _feed_forward(self, tokens: Number) -> Number:
        return (3 if self.gated else 2) * 2 * tokens * self.d_model * self.d_ff


def concatenation_cost(shapes: T5Shapes, lengths: Lengths, lora_rank: int | None = None) -> Cost:
    """Instruction and input encoded together for every example (Tk-Instruct, No FT); `lora_rank` of one not merged."""
    read, written = lengths.prompt, lengths.output
    each = Components(
        adapter=0 if lora_rank is None else shapes.lora(lora_rank, read, written),
        encoder=shapes.encoder(read),
        decoder=shapes.decoder_memory(read) + shapes.decoder(written, read),
        head=shapes.head(written),
    )
    return Cost(Components(), each, lengths.examples)


def tagi_cost(
    shapes: T5Shapes,
    sites: Sequence[Site],
    settings: GeneratorSettings,
    lengths: Lengths,
    *,
    merged: bool = True,
    alone: bool = False,
) -> Cost:
    """The instruction encoded once and its adapter generated once, then the input alone for every example.

    Keys and values over the instruction, of fusion and of the decoder, are computed once. With `merged` a LoRA is
    added to the weights once, as `TaskAdapter` does, and costs nothing more; else its products run beside the sites',
    as `TAGI.predict` does, whose batches may mix tasks. The decoder's values over the instruction are made before
    merging, in either case by LoRA's own products. Bottlenecks and prefixes cannot be merged: their products, and the
    pairs that a prefix adds to attentions, are spent on every example. With `alone` there are no keys and values over
    the instruction, neither of fusion nor of the decoder: what is generated carries the task alone.
    """
    if alone:
        settings = replace(settings, fusion="none")
    seen, read, written = lengths.instruction, lengths.input, lengths.output
    kept = seen if settings.concatenates else 0
    generation = generation_flops(shapes.written(sites, settings), shapes.d_model, shapes.inner, settings, seen)
    adapter_once, adapter_each = _applying(shapes, sites, settings, lengths, merged)
    once = Components(
        instruction=shapes.encoder(seen),
        generation=generation,
        adapter=adapter_once,
        fusion=shapes.fusion_memory(seen) if settings.fuses else 0,
        decoder=shapes.decoder_memory(kept),
    )
    each = Components(
        adapter=adapter_each,
        fusion=shapes.fusion(read, seen) if settings.fuses else 0,
        encoder=shapes.encoder(read),
        decoder=shapes.decoder_memory(read) + shapes.decoder(written, kept + read),
        head=shapes.head(written),
    )
    return Cost(once, each, lengths.examples)


def _applying(
    shapes: T5Shapes, sites: Sequence[Site], settings: GeneratorSettings, lengths: Lengths, merged: bool
) -> tuple[Number, Number]:
    """What was generated at work: once per task and for each of its examples."""
    read, written = lengths.input, lengths.output
    if settings.module == "lora":
        rank = settings.adapter_rank
        memory = shapes.lora_memory(rank, lengths.instruction if settings.concatenates else 0)
        if merged:
            return memory + merging_flops(sites, rank), 0
        return memory, shapes.lora(rank, read, written)
    each: Number = 0
    if settings.makes_bottlenecks:
        each += shapes.bottlenecks(settings.bottleneck, read, written)
    if settings.makes_prefixes:
        each += shapes.prefixes(settings.prefix, read, written)
    return 0, each
