"""FLOPs of generating, merging and applying a LoRA, whatever the backbone's architecture."""

from collections.abc import Sequence

from tagi.backbones import Site
from tagi.hypernetwork import GeneratorSettings
from tagi.methods.costs import Number


def generation_flops(sites: Sequence[Site], d_model: int, settings: GeneratorSettings, tokens: Number) -> Number:
    """The hypernetwork's work on the states of an instruction of `tokens`: one LoRA for every site.

    As `PooledGenerator`, `QueryGenerator` and `RowHeads` do it: the second layer of the MLPs writes every row of A and
    of B, the first reads one vector per layer (pooled), or per layer, projection, factor and rank row (query).
    """
    layers = 1 + max(site.layer for site in sites)
    if settings.kind == "pooled":
        reading = 2 * tokens * d_model * (2 if settings.pooling == "attention" else 1)
        first = 2 * layers * d_model * settings.hidden
    else:
        rows = layers * 2 * 2 * settings.rank
        projections = 2 * 2 * tokens * d_model * settings.width
        reading = projections + 2 * 2 * rows * tokens * settings.width
        first = 2 * rows * settings.width * settings.hidden
    second = sum(2 * settings.rank * settings.hidden * (site.d_in + site.d_out) for site in sites)
    return reading + first + second


def merging_flops(sites: Sequence[Site], rank: int) -> Number:
    """B A of every site: what it takes to add a LoRA to the weights, once per task."""
    return sum(2 * site.d_out * rank * site.d_in for site in sites)


def applying_flops(d_in: int, d_out: int, rank: int, tokens: Number) -> Number:
    """B(Ax) beside one site's own product, for `tokens` x."""
    return 2 * rank * (d_in + d_out) * tokens
