"""FLOPs of generating modules, of merging and applying a LoRA and of applying a bottleneck, whatever the backbone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tagi.backbones.protocol import Site
from tagi.hypernetwork.targets import Target, lora_target
from tagi.methods.flops.costs import Number
from tagi.settings.generator import GeneratorSettings


@dataclass(frozen=True, slots=True)
class Written:
    """What a hypernetwork writes of one kind: `rows` in each of `layers`, and `numbers` in them all together."""

    layers: int
    rows: int
    numbers: int


def written_lora(sites: Sequence[Site], settings: GeneratorSettings) -> Written:
    """What a generator of LoRA writes for all sites: A and B, or what comes on top of its shared LoRA."""
    return written(lora_target(tuple(sites), settings))


def written(target: Target) -> Written:
    """What a hypernetwork writes of one target."""
    return Written(target.layers, math.prod(target.address), target.parameters)


def generation_flops(
    written: Sequence[Written], d_model: int, inner: int, settings: GeneratorSettings, tokens: Number
) -> Number:
    """The hypernetwork's work on the states of an instruction of `tokens`: everything for one task.

    As `PooledGenerator`, `QueryGenerator`, `ComponentGenerator` and their heads do it: the second layer of the MLPs
    writes every row, the first reads one vector per layer (pooled) or per row (query, component). `inner` is the width
    of the backbone's attention, which components share.
    """
    rows = sum(one.layers * one.rows for one in written)
    second = sum(2 * settings.hidden * one.numbers for one in written)
    if settings.kind == "pooled":
        reading = 2 * tokens * d_model * (2 if settings.pooling == "attention" else 1)
        first = sum(2 * one.layers for one in written) * d_model * settings.hidden
    elif settings.kind == "query":
        reading = 2 * 2 * tokens * d_model * settings.width + 2 * 2 * rows * tokens * settings.width
        first = 2 * rows * settings.width * settings.hidden
    else:
        # Queries and outputs of components, keys and values of tokens.
        reading = 2 * 2 * (rows + tokens) * d_model * inner + 2 * 2 * rows * tokens * inner
        first = 2 * rows * d_model * settings.hidden
    return reading + first + second


def merging_flops(sites: Sequence[Site], rank: int) -> Number:
    """B A of every site: what it takes to add a LoRA to the weights, once per task."""
    return sum(2 * site.d_out * rank * site.d_in for site in sites)


def applying_flops(d_in: int, d_out: int, rank: int, tokens: Number) -> Number:
    """B(Ax) beside one site's own product, for `tokens` x."""
    return 2 * rank * (d_in + d_out) * tokens


def bottleneck_flops(d_model: int, width: int, tokens: Number) -> Number:
    """up(act(down(x))) at one place, for `tokens` x."""
    return 2 * 2 * d_model * width * tokens
