"""What a method's arithmetic amounts to: lengths in tokens in, floating-point operations out.

Matrix products are counted, m x k by k x n as 2mkn; norms, softmax, activations, masks and look-ups are not. Every
text is counted at its own length, without padding, its special tokens included.
"""

import math
from dataclasses import dataclass, fields

from tagi.errors import InputError

_LONGEST = 1e9
"""Beyond it numbers of operations are no longer worth their digits."""
Number = int | float
"""Tokens and FLOPs: whole for one text, a fraction for a mean."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a task's instruction, input and output, and how many inputs are answered; means may be fractions.

    `concatenated` is instruction and input in one text: their sum, unless it was measured (one end of sequence instead
    of two, one limit for both). `shots` demonstrations of `demonstration` tokens each are what methods read that learn
    in context. Raises `InputError` for what is no length.
    """

    instruction: Number
    input: Number
    output: Number
    examples: int = 100
    concatenated: Number | None = None
    shots: int = 0
    demonstration: Number = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name in ("output", "examples") else 0
            if value is not None and math.isfinite(value) and value > _LONGEST:
                raise InputError(f"{field.name}: expected at most {_LONGEST:g}, got {value:g}")
            if value is not None and not (math.isfinite(value) and value >= least):
                raise InputError(f"{field.name}: expected a finite length of at least {least}, got {value}")

    @property
    def prompt(self) -> Number:
        """Tokens of what a method that concatenates reads for every input."""
        return self.instruction + self.input if self.concatenated is None else self.concatenated


@dataclass(frozen=True, slots=True)
class Components:
    """FLOPs by what they are for.

    `instruction`: reading the instruction, or demonstrations, alone. `generation`: the hypernetwork. `adapter`:
    products of what was generated, LoRA's and bottlenecks', and the pairs that a prefix adds to attentions. `fusion`:
    attention of the input over the instruction inside the encoder, its keys and values included. `encoder`: the
    backbone's encoder over what is read for every input. `decoder`: all of the decoder, its keys and values over the
    encoder's output included. `head`: the vocabulary's scores. A decoder-only model reads in its decoder.
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
        """All of them."""
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, Number]:
        """By name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: "Components") -> "Components":
        return Components(**{name: own + getattr(other, name) for name, own in self.as_dict().items()})

    def __mul__(self, times: Number) -> "Components":
        return Components(**{name: own * times for name, own in self.as_dict().items()})


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of one task: what is done `once` for it, and for `each` of its `examples`."""

    once: Components
    each: Components
    examples: int

    @property
    def components(self) -> Components:
        """All of the task's examples together."""
        return self.once + self.each * self.examples

    @property
    def total(self) -> Number:
        """All of the task's examples and all components together."""
        return self.components.total

    @property
    def per_example(self) -> Number:
        """The total shared out over the examples."""
        return self.total / self.examples
