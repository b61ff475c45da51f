"""The FLOPs column of the paper's Table 2: every method's cost of a task, as a ratio to Tk-Instruct's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tagi.backbones.load import load_tokenizer
from tagi.config.methods import MethodRow, method_row, method_rows
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import ConfigError
from tagi.evaluation.lengths import task_lengths
from tagi.formats.records import RECORD, write_record
from tagi.methods.flops.causal import CausalShapes, causal_concatenation_cost
from tagi.methods.flops.costs import Components, Cost, Lengths
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.stages.describe import shapes_of
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.recipes import as_method
from tagi.stages.registry import last_stage
from tagi.stages.tasks import load_tasks

GPT2_XL = CausalShapes(d_model=1600, inner=1600, key_value=1600, d_ff=6400, gated=False, layers=48, vocabulary=50257)
OPT_13B = CausalShapes(d_model=5120, inner=5120, key_value=5120, d_ff=20480, gated=False, layers=40, vocabulary=50272)
"""Dimensions of the two decoder-only models of Table 2, as their configurations on the hub give them."""

Costing = Callable[[Lengths], Cost]
_REFERENCE = "tk-instruct"
_CAUSAL = {"causal": False, "causal-cached": True}
"""Methods on decoder-only models, and whether an instruction's keys and values are kept."""
_MODELS = {"GPT-2 XL": (GPT2_XL, 0.33), "OPT 13B": (OPT_13B, 0.36)}
"""Those that the paper has, with its figures: one for each model, here read in two ways."""


@dataclass(frozen=True)
class Row:
    """A row of Table 2's column: the paper's ratios of FLOPs and (Table 3) of time, and what costs the method here.

    `own_model`: the method is a model of its own and costs the same whatever the backbone.
    """

    method: str
    paper: float | None
    paper_time: float | None
    costing: Callable[[str, Recipe, bool], Costing]
    own_model: bool = False


def table_rows(names: Sequence[str] | None = None, family: str = "t5") -> list[Row]:
    """The methods' rows in the paper's order; without names those of its Table 2.

    Beside encoder-decoders the decoder-only rivals are the paper's two models, else the backbone itself.
    """
    paper = [row for row in method_rows() if row.flops is not None or row.name in _CAUSAL]
    chosen = [row.name for row in paper if family in row.families] if names is None else names
    rows: list[Row] = []
    for row in map(method_row, chosen):
        if row.name in _CAUSAL and family != "causal":
            kept = _CAUSAL[row.name]
            rows += [
                Row(f"{model}{' cached' if kept else ''}", paper, None, _causal(shapes, kept), own_model=True)
                for model, (shapes, paper) in _MODELS.items()
            ]
        else:
            rows.append(Row(row.title, row.flops, row.time, _on_backbone(row)))
    return rows


def _on_backbone(row: MethodRow) -> Callable[[str, Recipe, bool], Costing]:
    def costing(name: str, recipe: Recipe, merged: bool) -> Costing:
        own = as_method(recipe, row.name)
        with torch.device("meta"):
            method = last_stage(own).untrained(
                own, shapes_of(name, recipe)
            )  # a LoRA that is trained changes its backbone
        if isinstance(method, TAGI):
            return lambda lengths: method.cost(lengths, merged=merged)
        return method.cost

    return costing


def _causal(shapes: CausalShapes, prefix_cached: bool) -> Callable[[str, Recipe, bool], Costing]:
    def cost(lengths: Lengths) -> Cost:
        return causal_concatenation_cost(shapes, lengths, prefix_cached=prefix_cached)

    return lambda _name, _recipe, _merged: cost


def flops(
    names: Sequence[str],
    recipe: Recipe,
    given: Lengths | None = None,
    *,
    methods: Sequence[str] | None = None,
    examples: int = 100,
    merged: bool = True,
    out: Path | None = None,
) -> dict[str, Any]:
    """Every method's FLOPs on the backbones `names`, each as it is made of the recipe; by default Table 2's methods.

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
        "methods": table(names, recipe, tasks, methods=methods, merged=merged),
        "tasks": {name: asdict(lengths) for name, lengths in tasks.items()},
    }
    return content if out is None else write_record(out / RECORD, recipe, content)


def table(
    names: Sequence[str],
    recipe: Recipe,
    tasks: Mapping[str, Lengths],
    *,
    methods: Sequence[str] | None = None,
    merged: bool = True,
) -> list[dict[str, Any]]:
    """Every method's costs on every backbone.

    Attention is quadratic in lengths, so every task is costed by its own: `ratio` is that of the costs' sums over
    tasks, `mean_of_ratios` lets every task weigh the same. `flops` and `components` are means over tasks.
    """
    reference = _on_backbone(method_row(_REFERENCE))
    told = recipe.model_copy(update={"metatrain": replace(recipe.metatrain, instruction=True)})
    references = {name: reference(name, told, merged) for name in names}
    wanted = {name: [costing(lengths).total for lengths in tasks.values()] for name, costing in references.items()}
    rows = table_rows(methods, recipe.backbone.family)
    return [_row(row, recipe, tasks, merged, wanted) for row in rows]


def _measured(recipe: Recipe, examples: int) -> tuple[dict[str, Lengths], dict[str, Any]]:
    """Lengths of every test task, and what was read."""
    loaded = load_tasks(recipe, "test")
    if not loaded.tasks:
        raise ConfigError(f"data.path: expected test tasks to measure, got none in {recipe.data.path}")
    backbone = recipe.backbone
    own = backbone.tokenizer is None
    tokenizer = load_tokenizer(backbone.tokenizer or backbone.name, revision=backbone.revision if own else None)
    encoder = CausalTextEncoder if backbone.family == "causal" else TextEncoder
    text = encoder(tokenizer, concatenated_text(recipe))
    cache = recipe.generator.instruction_cache  # decides what stands before an input
    asks = text.input if cache is None else text.alone if cache == "none" else text.continuation
    measured = {task.name: _shown(task_lengths(text, task, examples, asks=asks), recipe) for task in loaded.tasks}
    return measured, loaded.record()


def _shown(lengths: Lengths, recipe: Recipe) -> Lengths:
    """With demonstrations that are each as long as an input and an output: no task need have any to be costed."""
    if lengths.shots:
        return lengths
    return replace(lengths, shots=recipe.shots.count, demonstration=lengths.input + lengths.output)


def _mean_lengths(tasks: Mapping[str, Lengths]) -> dict[str, float]:
    """Means over tasks, each weighing the same."""
    return {
        "instruction": fmean(one.instruction for one in tasks.values()),
        "input": fmean(one.input for one in tasks.values()),
        "output": fmean(one.output for one in tasks.values()),
        "concatenated": fmean(one.prompt for one in tasks.values()),
    }


def _row(
    row: Row,
    recipe: Recipe,
    tasks: Mapping[str, Lengths],
    merged: bool,
    wanted: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """One method on every backbone; `wanted` has every task's FLOPs by the reference, for each of them."""
    costs: dict[str, Any] = {}
    for name in wanted:
        costing = row.costing(name, recipe, merged)
        own = [costing(lengths) for lengths in tasks.values()]
        mean = sum((cost.components for cost in own), Components()) * (1 / len(own))
        costs[name] = {
            "ratio": sum(cost.total for cost in own) / sum(wanted[name]),
            "mean_of_ratios": fmean(cost.total / other for cost, other in zip(own, wanted[name], strict=True)),
            "flops": mean.total,
            "components": mean.as_dict(),
        }
    return {
        "method": row.method,
        "own_model": row.own_model,
        "paper": row.paper,
        "paper_time": row.paper_time,
        "costs": costs,
    }
