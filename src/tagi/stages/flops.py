"""The FLOPs column of the paper's Table 2: every method's cost of a task, as a ratio to Tk-Instruct's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers.initialization import no_init_weights

from tagi.activity import activity
from tagi.backbones.load import load_tokenizer
from tagi.backbones.protocol import Backbone
from tagi.config.methods import method_row, method_rows
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import ConfigError
from tagi.evaluation.lengths import task_lengths
from tagi.formats.records import RECORD, write_record
from tagi.methods.flops import Components, Cost, Lengths, Shapes, prompted_cost
from tagi.methods.prompted import Prompted
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.stages.describe import shapes_of
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.recipes import as_method
from tagi.stages.registry import last_stage
from tagi.stages.shots import by_shots
from tagi.stages.tasks import load_tasks

GPT2_XL = Shapes(0, 48, d_model=1600, inner=1600, key_value=1600, d_ff=6400, matrices=2, vocabulary=50257)
OPT_13B = Shapes(0, 40, d_model=5120, inner=5120, key_value=5120, d_ff=20480, matrices=2, vocabulary=50272)
"""Dimensions of the two decoder-only models of Table 2, as their configurations on the hub give them."""

_REFERENCE = "tk-instruct"
_CAUSAL = {"causal": False, "causal-cached": True}
"""Methods on decoder-only models, and whether they cache the instruction's KV prefix."""
_MODELS = {"GPT-2 XL": (GPT2_XL, 0.33), "OPT 13B": (OPT_13B, 0.36)}
"""The paper's decoder-only models with its figures, which are shown for both methods."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: The method as the paper's tables name it.
        paper: The paper's ratio of FLOPs (Table 2), None if it has none.
        paper_time: The paper's ratio of time (Table 3), None if it has none.
        method: Name of the method.
        model: Shapes of a method that is a model of its own and costs the same whatever the backbone.
    """

    title: str
    paper: float | None
    paper_time: float | None
    method: str
    model: Shapes | None = None


def table_rows(names: Sequence[str] | None = None, family: str = "t5") -> list[Row]:
    """Return the methods' rows in the paper's order; without names those of its Table 2.

    Beside encoder-decoders the decoder-only methods are the paper's two models, else the backbone itself.
    """
    table2 = [row for row in method_rows() if row.flops is not None or row.name in _CAUSAL]
    rows = []
    for row in [row for row in table2 if family in row.families] if names is None else map(method_row, names):
        if row.name not in _CAUSAL or family == "causal":
            rows.append(Row(row.title, row.flops, row.time, row.name))
            continue
        ending = " cached" if _CAUSAL[row.name] else ""
        rows += [Row(f"{name}{ending}", paper, None, row.name, model) for name, (model, paper) in _MODELS.items()]
    return rows


def flops(
    names: Sequence[str],
    recipe: Recipe,
    given: Lengths | None = None,
    *,
    methods: Sequence[str] | None = None,
    examples: int = 100,
    merged: bool = True,
    alone: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Compute every method's FLOPs on several backbones.

    Args:
        names: Backbones, as `describe` takes them.
        recipe: The recipe that the methods are made of.
        given: Lengths; by default means over the instances of each of the recipe's test tasks are measured.
        methods: Names of methods, by default those of Table 2.
        examples: Inputs answered for each task, where lengths are measured.
        merged: Whether generated LoRA is merged.
        alone: Whether generated adapters answer alone, without anything else of the instruction.
        out: A folder for `record.json`, by default none.
    """
    tasks, data = ({"given": given}, None) if given is not None else _measured(recipe, examples, alone)
    content = {
        "kind": "flops",
        "examples": examples,
        "merged": merged,
        "alone": alone,
        "data": data,
        "lengths": _mean_lengths(tasks),
        "methods": table(names, recipe, tasks, methods=methods, merged=merged, alone=alone),
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
    alone: bool = False,
) -> list[dict[str, Any]]:
    """Every method's costs on every backbone; arguments as of `flops`.

    Attention is quadratic in lengths, so every task is costed by its own: `ratio` is that of the costs' sums over
    tasks, `mean_of_ratios` weighs all tasks equally. `flops` and `components` are means over tasks.
    """
    rows = table_rows(methods, recipe.backbone.family)
    told = recipe.model_copy(update={"metatrain": replace(recipe.metatrain, instruction=True)})
    (reference,) = table_rows([_REFERENCE])
    summaries: list[dict[str, Any]] = [{} for _ in rows]
    for name in names:
        wanted = [(told, reference), *((recipe, row) for row in rows)]
        with activity(f"Counting FLOPs on {name}") as tell:
            to_reference, *costs = _costs(name, wanted, list(tasks.values()), tell, merged=merged, alone=alone)
        for summary, by_task in zip(summaries, costs, strict=True):
            summary[name] = _summary(by_task, to_reference)
    return [
        {
            "method": row.title,
            "own_model": row.model is not None,
            "paper": row.paper,
            "paper_time": row.paper_time,
            "costs": summary,
        }
        for row, summary in zip(rows, summaries, strict=True)
    ]


def _costs(
    name: str,
    rows: Sequence[tuple[Recipe, Row]],
    tasks: Sequence[Lengths],
    tell: Callable[[str], None],
    *,
    merged: bool,
    alone: bool,
) -> Iterator[list[Cost]]:
    """Costs of all tasks on one backbone, for each row as it is made of its recipe."""
    backbone: Backbone | None = None
    cost: Callable[[Lengths], Cost]
    for recipe, row in rows:
        tell(f"Counting FLOPs of {row.title} on {name}, {len(tasks)} tasks")
        if row.model is not None:
            cached = _CAUSAL[row.method] and recipe.data.source != "p3"  # whose prompts have no common beginning
            cost = partial(prompted_cost, row.model, prefix_cached=cached)
        else:
            backbone = backbone or shapes_of(name, recipe)
            with torch.device("meta"), no_init_weights():
                own = as_method(recipe, row.method)
                method = last_stage(own).untrained(own, backbone)
            cost = method.cost
            if isinstance(method, TAGI):
                cost = partial(_generator_cost, method, by_shots(own), merged=merged, alone=alone)
            if isinstance(method, Prompted) and method.lora is not None:
                backbone = None  # PEFT's layers are inside it now
        yield [cost(lengths) for lengths in tasks]


def _generator_cost(method: TAGI, shown: bool, lengths: Lengths, *, merged: bool, alone: bool) -> Cost:
    """Cost of a generator, which with `shown` reads all demonstrations in the instruction's place, within its limit."""
    if shown:
        read = min(lengths.shots * lengths.demonstration, method.text.settings.max_instruction_tokens)
        lengths = replace(lengths, instruction=read)
    return method.cost(lengths, merged=merged, alone=alone)


def _summary(costs: Sequence[Cost], reference: Sequence[Cost]) -> dict[str, Any]:
    mean = sum((cost.components for cost in costs), Components()) * (1 / len(costs))
    return {
        "ratio": sum(cost.total for cost in costs) / sum(cost.total for cost in reference),
        "mean_of_ratios": fmean(cost.total / other.total for cost, other in zip(costs, reference, strict=True)),
        "flops": mean.total,
        "components": mean.as_dict(),
    }


def _measured(recipe: Recipe, examples: int, alone: bool) -> tuple[dict[str, Lengths], dict[str, Any]]:
    """Lengths of every test task, and a record of the data."""
    loaded = load_tasks(recipe, "test", shots=False if recipe.data.source == "p3" else None)
    if not loaded.tasks:
        raise ConfigError(f"data.path: expected test tasks to measure, got none in {recipe.data.path}")
    backbone = recipe.backbone
    revision = backbone.revision if backbone.tokenizer is None else None
    encoder = CausalTextEncoder if backbone.family == "causal" else TextEncoder
    settings = replace(concatenated_text(recipe), reads="instruction")  # instruction and input are measured apart
    text = encoder(load_tokenizer(backbone.tokenizer or backbone.name, revision=revision), settings)
    cache = recipe.generator.instruction_cache  # it decides which tokens stand around an input
    input_encoder = text.input if cache is None else text.alone if alone or cache == "none" else text.continuation
    with activity(f"Measuring the texts of {len(loaded.tasks)} tasks"):
        measured = {task.name: task_lengths(text, task, examples, input_encoder=input_encoder) for task in loaded.tasks}
    if recipe.data.source == "p3":
        measured = {name: replace(lengths, concatenated=lengths.whole_input) for name, lengths in measured.items()}
    return {name: _with_shots(lengths, recipe) for name, lengths in measured.items()}, loaded.record()


def _with_shots(lengths: Lengths, recipe: Recipe) -> Lengths:
    """Give a task without demonstrations as many as the recipe has, each as long as an input and an output."""
    if lengths.shots:
        return lengths
    return replace(lengths, shots=recipe.shots.count, demonstration=lengths.whole_input + lengths.output)


def _mean_lengths(tasks: Mapping[str, Lengths]) -> dict[str, float]:
    """Means over tasks, all weighing the same."""
    attributes = {"instruction": "instruction", "input": "input", "output": "output", "concatenated": "prompt"}
    return {name: fmean(getattr(lengths, own) for lengths in tasks.values()) for name, own in attributes.items()}
