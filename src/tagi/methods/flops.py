"""FLOPs of every method, computed from the shapes of its backbone and the lengths of a task's texts.

Matrix products are counted, m x k by k x n as 2mkn. Norms, softmax, activations, masks and look-ups are not. Texts are
counted without padding, including special tokens.

Answers are decoded greedily with a cache, one token per step. A causal attention that reads several tokens at once
computes all pairs, masked ones included; one that decodes step by step computes only the pairs it needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tagi.backbones.protocol import Backbone
from tagi.errors import ConfigError, InputError
from tagi.hypernetwork.targets import Target, rows_in
from tagi.settings.generator import GeneratorSettings

_MAX_LENGTH = 1e9
"""Maximum length, beyond which FLOPs exceed the precision of floats."""
Number = int | float
"""Tokens or FLOPs: an integer for one text, a fraction for a mean."""
_D_FF = ("d_ff", "intermediate_size", "ffn_dim", "n_inner")
"""Names of the feed-forward width in configurations; without one it is four times the model's width."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of a task's texts in tokens. Means may be fractions. Raises `InputError` for an impossible length.

    Args:
        instruction: Tokens of the instruction.
        input: Tokens of an input.
        output: Tokens of an answer, including the end of sequence.
        examples: Number of inputs that are answered.
        concatenated: Tokens of instruction and input in one text; by default the sum of both.
        shots: Number of demonstrations, for in-context methods.
        demonstration: Tokens of one demonstration.
        rendered: Tokens of a prompt with the template's text and the input, for methods that read no instruction; by
            default those of an input.
    """

    instruction: Number
    input: Number
    output: Number
    examples: int = 100
    concatenated: Number | None = None
    shots: int = 0
    demonstration: Number = 0
    rendered: Number | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name in ("output", "examples") else 0
            if value is not None and math.isfinite(value) and value > _MAX_LENGTH:
                raise InputError(f"{field.name}: expected at most {_MAX_LENGTH:g}, got {value:g}")
            if value is not None and not (math.isfinite(value) and value >= least):
                raise InputError(f"{field.name}: expected a finite length of at least {least}, got {value}")

    @property
    def prompt(self) -> Number:
        """Tokens of instruction and input in one text."""
        return self.instruction + self.input if self.concatenated is None else self.concatenated

    @property
    def whole_input(self) -> Number:
        """Tokens of an input for methods that read no instruction."""
        return self.input if self.rendered is None else self.rendered

    def with_shots(self, shots: int, query: Number, limit: int) -> "Lengths":
        """Return lengths for prompts with demonstrations and a query of `query` tokens.

        The prompt has as many of the first `shots` demonstrations as fit within `limit` tokens.
        """
        if self.demonstration:
            shots = min(shots, max(0, int((limit - query) // self.demonstration)))
        return replace(self, concatenated=shots * self.demonstration + query)


@dataclass(frozen=True, slots=True)
class Components:
    """FLOPs by purpose.

    Args:
        instruction: Encoding the instruction or demonstrations.
        generation: The hypernetwork.
        adapter: Products of LoRA and bottleneck adapters, merging a LoRA, and attention to a generated prefix.
        fusion: Attention of the input over the instruction states, including their keys and values.
        encoder: The backbone's encoder over the text of every input.
        decoder: The decoder, including its keys and values over the encoder's output. A decoder-only model reads its
            inputs here.
        head: Scores of the vocabulary.
    """

    instruction: Number = 0
    generation: Number = 0
    adapter: Number = 0
    fusion: Number = 0
    encoder: Number = 0
    decoder: Number = 0
    head: Number = 0

    @property
    def total(self) -> Number:
        """Sum of all components."""
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, Number]:
        """Components by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: "Components") -> "Components":
        return Components(**{name: value + getattr(other, name) for name, value in self.as_dict().items()})

    def __mul__(self, times: Number) -> "Components":
        return Components(**{name: value * times for name, value in self.as_dict().items()})


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of one task: those spent `once`, and those of `each` of its `examples`."""

    once: Components
    each: Components
    examples: int

    @property
    def components(self) -> Components:
        """FLOPs of the whole task, by component."""
        return self.once + self.each * self.examples

    @property
    def total(self) -> Number:
        """FLOPs of the whole task."""
        return self.components.total


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a backbone's matrices.

    Args:
        encoder_layers: Layers of the encoder; 0 for a decoder-only model, whose decoder reads the prompt.
        decoder_layers: Layers of the decoder; in an encoder-decoder each has a cross-attention.
        d_model: Width of the layers.
        inner: Width of all query heads together.
        key_value: Width of all key heads together, and of all value heads; less than `inner` where queries share them.
        d_ff: Width of the feed-forward.
        matrices: Matrices of the feed-forward: 3 if it is gated, else 2.
        vocabulary: Tokens that the head scores.
        fused: Whether one matrix projects query, key and value. LoRA then covers all of its columns, with the sum of
            the ranks of query and value.
    """

    encoder_layers: int
    decoder_layers: int
    d_model: int
    inner: int
    key_value: int
    d_ff: int
    matrices: int
    vocabulary: int
    fused: bool = False

    @classmethod
    def of(cls, backbone: Backbone) -> "Shapes":
        """Shapes of a backbone, from its configuration and its linear layers; a LoRA inside it is left out.

        Raises `ConfigError` if the linear layers are not those of attentions and feed-forwards of 2 or 3 matrices.
        """
        model: Any = backbone.model
        config = model.config
        width, inner = backbone.width, backbone.heads * backbone.d_kv
        key_value = (getattr(config, "num_key_value_heads", None) or backbone.heads) * backbone.d_kv
        d_ff = next((size for name in _D_FF if (size := getattr(config, name, None))), 4 * width)
        decoder = config.num_decoder_layers if config.is_encoder_decoder else config.num_hidden_layers
        encoder = backbone.depth - decoder
        attentions = encoder + decoder * (2 if encoder else 1)
        head = model.get_output_embeddings()
        linear = sum(
            part.weight.numel()
            for path, part in model.named_modules()
            if isinstance(part, nn.Linear | Conv1D) and part is not head and "lora_" not in path
        )
        matrices = (linear - attentions * width * (2 * inner + 2 * key_value)) / (backbone.depth * width * d_ff)
        if matrices not in (2, 3):
            raise ConfigError(
                "FLOPs: expected layers of attention and a feed-forward of 2 or 3 matrices, got "
                f"{config.model_type!r} with {matrices:.2f}"
            )
        rows = head.weight.shape[0]
        return cls(encoder, decoder, width, inner, key_value, d_ff, int(matrices), rows, backbone.fused)

    @property
    def cross_layers(self) -> int:
        """Number of cross-attentions."""
        return self.decoder_layers if self.encoder_layers else 0

    def read(self, tokens: Number, before: Number = 0) -> Number:
        """Process a text in one pass, after `before` cached tokens."""
        return (self.encoder_layers or self.decoder_layers) * self._layer(tokens, tokens * (before + tokens))

    def cross_keys_values(self, tokens: Number) -> Number:
        """Keys and values of all cross-attentions over the encoder's output."""
        return self.cross_layers * self._projections(2, tokens)

    def decode(self, steps: Number, before: Number = 0, memory: Number = 0) -> Number:
        """Decode step by step, after `before` cached tokens, with cross-attention over `memory` tokens."""
        layer = self._layer(steps, steps * before + steps * (steps + 1) / 2)
        cross = self._projections(2, steps) + self._attention(steps * memory)
        return self.decoder_layers * layer + self.cross_layers * cross

    def head(self, tokens: Number) -> Number:
        """Scores of the whole vocabulary for every token."""
        return 2 * tokens * self.d_model * self.vocabulary

    def passing(self, read: Number, output: Number) -> tuple[Number, Number]:
        """Tokens that pass the encoder and the decoder when an input of `read` tokens is answered."""
        return (read, output) if self.encoder_layers else (0, read + output - 1)

    def answer(
        self, read: Number, output: Number, before: Number = 0, *, rank: int = 0, last_apart: bool = False
    ) -> Components:
        """Process an input and generate its answer.

        Args:
            read: Tokens of the input.
            output: Tokens of the answer.
            before: Cached tokens before the input.
            rank: Rank of an unmerged LoRA.
            last_apart: Whether a decoder-only model processes the last token of the input in the first decoding step.
        """
        encoder, decoder = self.passing(read, output)
        adapter, head = self.lora(rank, encoder, decoder, memory=encoder), self.head(output)
        if self.encoder_layers:
            writing = self.cross_keys_values(read) + self.decode(output, memory=before + read)
            return Components(adapter=adapter, encoder=self.read(read), decoder=writing, head=head)
        at_once = read - 1 if last_apart else read
        working = self.read(at_once, before) + self.decode(decoder - at_once, before + at_once)
        return Components(adapter=adapter, decoder=working, head=head)

    def lora(self, rank: int, encoder: Number, decoder: Number, memory: Number = 0) -> Number:
        """Unmerged LoRA on queries and values.

        `encoder` and `decoder` are the tokens that pass them, `memory` those whose values the cross-attentions project.
        """
        query, value = 2 * rank * (self.d_model + self.inner), 2 * rank * (self.d_model + self.key_value)
        both = 4 * rank * (self.d_model + self.inner + 2 * self.key_value) if self.fused else query + value
        own = (self.encoder_layers * encoder + self.decoder_layers * decoder) * both
        return own + self.cross_layers * (query * decoder + value * memory)

    def merging(self, rank: int) -> Number:
        """Compute BA of every target module, to add it to the weights."""
        columns = 2 * (self.inner + 2 * self.key_value) if self.fused else self.inner + self.key_value
        attentions = self.encoder_layers + self.decoder_layers + self.cross_layers
        return attentions * 2 * rank * self.d_model * columns

    def bottlenecks(self, width: int, encoder: Number, decoder: Number) -> Number:
        """One bottleneck adapter in every layer, over the tokens that pass encoder and decoder."""
        return 2 * 2 * self.d_model * width * (self.encoder_layers * encoder + self.decoder_layers * decoder)

    def prefixes(self, tokens: int, encoder: Number, decoder: Number) -> Number:
        """Attention to a prefix of `tokens` tokens in every attention."""
        queries = self.encoder_layers * encoder + (self.decoder_layers + self.cross_layers) * decoder
        return self._attention(queries * tokens)

    def fusion(self, every: int, tokens: Number, memory: Number) -> tuple[Number, Number]:
        """Fusion in every `every`-th layer that reads: of `tokens` tokens over `memory` tokens of the instruction.

        Returns the FLOPs of keys and values, spent once, and those of queries, attention and output.
        """
        layers = (self.encoder_layers or self.decoder_layers) // every
        keys_values = layers * self._projections(2, memory)
        return keys_values, layers * (self._projections(2, tokens) + self._attention(tokens * memory))

    def _layer(self, tokens: Number, pairs: Number) -> Number:
        """Self-attention and feed-forward of one layer; `pairs` are those of queries and keys."""
        projections = 2 * tokens * self.d_model * (2 * self.inner + 2 * self.key_value)
        feed_forward = self.matrices * 2 * tokens * self.d_model * self.d_ff
        return projections + self._attention(pairs) + feed_forward

    def _projections(self, count: int, tokens: Number) -> Number:
        """`count` projections between the model's width and that of all heads."""
        return count * 2 * tokens * self.d_model * self.inner

    def _attention(self, pairs: Number) -> Number:
        """Scores of all pairs, and the weighted sums of values."""
        return 2 * 2 * pairs * self.inner


def generation_flops(targets: Sequence[Target], shapes: Shapes, settings: GeneratorSettings, tokens: Number) -> Number:
    """FLOPs of the hypernetwork on the states of an instruction of `tokens` tokens.

    The second layers of its MLPs generate every row. The first layers have one input per layer ("pooled") or per row
    ("query" and "component", whose rows attend to the instruction).
    """
    rows = sum(rows_in(target) for target in targets)
    second = sum(2 * settings.hidden * target.parameters for target in targets)
    width = shapes.d_model
    if settings.kind == "pooled":
        reading = 2 * tokens * width * (2 if settings.pooling == "attention" else 1)
        first = sum(2 * target.layers for target in targets) * width * settings.hidden
    elif settings.kind == "query":
        reading = 2 * 2 * tokens * width * settings.width + 2 * 2 * rows * tokens * settings.width
        first = 2 * rows * settings.width * settings.hidden
    else:  # queries and outputs of components, keys and values of tokens
        reading = 2 * 2 * (rows + tokens) * width * shapes.inner + 2 * 2 * rows * tokens * shapes.inner
        first = 2 * rows * width * settings.hidden
    return reading + first + second


def prompted_cost(shapes: Shapes, lengths: Lengths, *, rank: int = 0, prefix_cached: bool = False) -> Cost:
    """Cost of a task with the whole prompt in one text.

    Args:
        shapes: Shapes of the backbone.
        lengths: Tokens; `lengths.prompt` are read for every input.
        rank: Rank of an unmerged LoRA.
        prefix_cached: Whether the instruction's KV prefix is computed once per task (decoder-only).
    """
    kept = min(lengths.instruction, lengths.prompt) if prefix_cached else 0
    once = Components(instruction=shapes.read(kept), adapter=shapes.lora(rank, 0, kept))
    each = shapes.answer(lengths.prompt - kept, lengths.output, before=kept, rank=rank)
    return Cost(once, each, lengths.examples)


def fid_icl_cost(shapes: Shapes, lengths: Lengths, query: Number, *, rank: int = 0) -> Cost:
    """Cost of a task whose demonstrations are encoded separately, once per task; the decoder attends to all of them.

    `query` is the number of tokens of a query, `rank` that of an unmerged LoRA.
    """
    shown = lengths.shots * lengths.demonstration
    once = Components(
        instruction=lengths.shots * shapes.read(lengths.demonstration),
        adapter=shapes.lora(rank, shown, 0, memory=shown),
        decoder=shapes.cross_keys_values(shown),
    )
    return Cost(once, shapes.answer(query, lengths.output, before=shown, rank=rank), lengths.examples)


def tagi_cost(
    shapes: Shapes,
    targets: Sequence[Target],
    settings: GeneratorSettings,
    lengths: Lengths,
    *,
    merged: bool = True,
    alone: bool = False,
) -> Cost:
    """Cost of a task with a generated adapter.

    The instruction is encoded, the adapter generated, and keys and values over the instruction computed once. With
    `instruction_cache` "adapted" the instruction is processed twice: without LoRA for the hypernetwork, and under the
    task's LoRA for the KV prefix. The LoRA is always counted as unmerged for the instruction.

    Args:
        shapes: Shapes of the backbone.
        targets: Kinds of generated modules.
        settings: Settings of the generator.
        lengths: Tokens of instruction, input and output.
        merged: Whether a LoRA is merged into the weights. Bottleneck adapters and prefixes cannot be merged.
        alone: Whether inputs are answered with the adapter alone, without KV prefix and fusion.
    """
    if alone:
        settings = replace(settings, fusion="none", instruction_cache=None)
    seen = lengths.instruction
    again = seen if settings.adapts_prefix else 0
    kept = seen if settings.concatenates else again
    rank = settings.adapter_rank if settings.module == "lora" else 0
    encoder, decoder = shapes.passing(lengths.input, lengths.output)
    adapter: Number = 0
    fusion: tuple[Number, Number] = (0, 0)
    if settings.fuses:
        fusion = shapes.fusion(settings.fusion_every, encoder or decoder, seen)
    if settings.makes_bottlenecks:
        adapter += shapes.bottlenecks(settings.bottleneck, encoder, decoder)
    if settings.makes_prefixes:
        adapter += shapes.prefixes(settings.prefix, encoder, decoder)
    once = Components(
        instruction=shapes.read(seen) + shapes.read(again),
        generation=generation_flops(targets, shapes, settings, seen),
        adapter=shapes.lora(rank, 0, again, memory=kept) + (shapes.merging(rank) if merged else 0),
        fusion=fusion[0],
        decoder=shapes.cross_keys_values(kept),
    )
    answer = shapes.answer(lengths.input, lengths.output, before=kept, rank=0 if merged else rank, last_apart=True)
    return Cost(once, answer + Components(adapter=adapter, fusion=fusion[1]), lengths.examples)
