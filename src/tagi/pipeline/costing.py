"""The FLOPs column of the paper's Table 2: every method's cost of a task, as a ratio to Tk-Instruct's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tagi.backbones import T5Backbone, load_tokenizer
from tagi.config import Recipe
from tagi.data.text import TextEncoder, TextSettings
from tagi.errors import ConfigError
from tagi.evaluation.lengths import task_lengths
from tagi.hypernetwork import Generator
from tagi.methods import TAGI, Components, Concatenation, Cost, Lengths
from tagi.methods.causal_costs import CausalShapes, causal_concatenation_cost
from tagi.pipeline.building import data_record, generator_settings, text_settings
from tagi.pipeline.describing import shapes_of
from tagi.pipeline.records import RECORD, write_record
from tagi.pipeline.tasks import load_tasks

GPT2_XL = CausalShapes(d_model=1600, inner=1600, key_value=1600, d_ff=6400, gated=False, layers=48, vocabulary=50257)
OPT_13B = CausalShapes(d_model=5120, inner=5120, key_value=5120, d_ff=20480, gated=False, layers=40, vocabulary=50272)
"""Dimensions of the two decoder-only models of Table 2, as their configurations on the hub give them."""

Costing = Callable[[Lengths], Cost]
_REFERENCE = "Tk-Instruct"


@dataclass(frozen=True)
class Row:
    """A row of Table 2's column: the paper's ratio, and what costs the method here, if it exists.

    `own_model`: the method is a model of its own and costs the same whatever the backbone.
    """

    method: str
    paper: float
    costing: Callable[[T5Backbone, Recipe, bool], Costing] | None = None
    own_model: bool = False


def _concatenation(backbone: T5Backbone, _recipe: Recipe, _merged: bool) -> Costing:
    return Concatenation(backbone, TextSettings()).cost


def _tagi(backbone: T5Backbone, recipe: Recipe, merged: bool) -> Costing:
    with torch.device("meta"):
        method = TAGI(Generator(backbone, generator_settings(recipe), TextSettings()))
    return lambda lengths: method.cost(lengths, merged=merged)


def _causal(shapes: CausalShapes, prefix_cached: bool) -> Callable[[T5Backbone, Recipe, bool], Costing]:
    def cost(lengths: Lengths) -> Cost:
        return causal_concatenation_cost(shapes, lengths, prefix_cached=prefix_cached)

    return lambda _backbone, _recipe, _merged: cost


ROWS = (
    Row("No FT", 1.0, _concatenation),
    Row(_REFERENCE, 1.0, _concatenation),
    Row("GPT-2 XL", 0.33, _causal(GPT2_XL, prefix_cached=False), own_model=True),
    Row("GPT-2 XL cached", 0.33, _causal(GPT2_XL, prefix_cached=True), own_model=True),
    Row("OPT 13B", 0.36, _causal(OPT_13B, prefix_cached=False), own_model=True),
    Row("OPT 13B cached", 0.36, _causal(OPT_13B, prefix_cached=True), own_model=True),
    Row("Hypter", 0.35),
    Row("HyperTuning", 0.34),
    Row("HINT", 0.37),
    Row("TAGI", 0.39, _tagi),
)
"""In the paper's order. It has one figure for each decoder-only model, here read in two ways: every prompt anew, or the
instruction's keys and values kept for all examples of its task."""


def flops(
    names: Sequence[str],
    recipe: Recipe,
    given: Lengths | None = None,
    *,
    examples: int = 100,
    merged: bool = True,
    out: Path | None = None,
) -> dict[str, Any]:
    """Every method's FLOPs on the backbones `names`, under the recipe's generator.

    Lengths are `given`, or measured over the recipe's test tasks by its encoding, limits and tokenizer: means over a
    task's instances, for `examples` of each task. With `out`, writes `record.json` there.
    """
    tasks, data = ({"given": given}, None) if given is not None else _measured(recipe, examples)
    content = {
        "kind": "flops",
        "examples": examples,
        "merged": merged,
        "data": data,
        "lengths": _mean_lengths(tasks),
        "methods": table(names, recipe, tasks, merged=merged),
        "tasks": {name: asdict(lengths) for name, lengths in tasks.items()},
    }
    return content if out is None else write_record(out / RECORD, recipe, content)


def table(
    names: Sequence[str], recipe: Recipe, tasks: Mapping[str, Lengths], *, merged: bool = True
) -> list[dict[str, Any]]:
    """Every method's costs on every backbone.

    Attention is quadratic in lengths, so every task is costed by its own: `ratio` is that of the costs' sums over
    tasks, `mean_of_ratios` lets every task weigh the same. `flops` and `components` are means over tasks.
    """
    backbones = {name: shapes_of(name, recipe) for name in names}
    return [_row(row, backbones, recipe, tasks, merged) for row in ROWS]


def _measured(recipe: Recipe, examples: int) -> tuple[dict[str, Lengths], dict[str, Any]]:
    """Lengths of every test task, and what was read."""
    loaded = load_tasks(recipe, "test")
    if not loaded.tasks:
        raise ConfigError(f"data.path: expected test tasks to measure, got none in {recipe.data.path}")
    backbone = recipe.backbone
    own = backbone.tokenizer is None
    tokenizer = load_tokenizer(backbone.tokenizer or backbone.name, revision=backbone.revision if own else None)
    text = TextEncoder(tokenizer, text_settings(recipe))
    measured = {task.name: task_lengths(text, task, examples) for task in loaded.tasks}
    return measured, data_record(loaded)


def _mean_lengths(tasks: Mapping[str, Lengths]) -> dict[str, float]:
    """Means over tasks, each weighing the same."""
    return {
        "instruction": fmean(one.instruction for one in tasks.values()),
        "input": fmean(one.input for one in tasks.values()),
        "output": fmean(one.output for one in tasks.values()),
        "concatenated": fmean(one.prompt for one in tasks.values()),
    }


def _row(
    row: Row, backbones: Mapping[str, T5Backbone], recipe: Recipe, tasks: Mapping[str, Lengths], merged: bool
) -> dict[str, Any]:
    """One method on every backbone; None for what does not exist here yet."""
    costs: dict[str, Any] = {}
    for name, backbone in backbones.items():
        if row.costing is None:
            costs[name] = None
            continue
        costing, reference = row.costing(backbone, recipe, merged), _concatenation(backbone, recipe, merged)
        own = [costing(lengths) for lengths in tasks.values()]
        wanted = [reference(lengths).total for lengths in tasks.values()]
        mean = sum((cost.components for cost in own), Components()) * (1 / len(own))
        costs[name] = {
            "ratio": sum(cost.total for cost in own) / sum(wanted),
            "mean_of_ratios": fmean(cost.total / other for cost, other in zip(own, wanted, strict=True)),
            "flops": mean.total,
            "components": mean.as_dict(),
        }
    return {"method": row.method, "own_model": row.own_model, "paper": row.paper, "costs": costs}
