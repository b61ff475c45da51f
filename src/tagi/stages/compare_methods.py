"""Comparison of methods on one recipe: training, scores, FLOPs and time."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console

from tagi.backbones.machine import best_device
from tagi.config.methods import method_row, method_rows
from tagi.config.sweeps import Point
from tagi.data.task import HEADLINES, Task
from tagi.errors import ConfigError
from tagi.evaluation.lengths import task_lengths, task_of_median_length
from tagi.evaluation.reports.paired_evaluations import read_scored
from tagi.evaluation.reports.records import training_mark
from tagi.evaluation.scoring.statistics import (
    ByTask,
    group_by,
    mean_over_seeds,
    paired_difference,
    task_interval,
    task_means,
)
from tagi.evaluation.timing.stopwatch import stopwatch
from tagi.evaluation.timing.tables import markdown
from tagi.evaluation.timing.task_timing import time_ratio
from tagi.files import write_text
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, read_record, write_record
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.settings.recipe import Recipe
from tagi.settings.stages import STAGES
from tagi.stages.recipe_models import load_recipe_backbone
from tagi.stages.recipes import as_method, load_recipe
from tagi.stages.registry import last_stage
from tagi.stages.sweep import last_steps, planned, sweep
from tagi.stages.tasks import load_tasks
from tagi.training.distributed import is_main_process
from tagi.training.trainer import fingerprint

TABLE = "methods.md"
_MEASURED = "measured"
"""Folder under `out` with a file for every finished method and seed."""
REFERENCE = "tk-instruct"
"""Reference method of ratios and differences."""
_BARE = "no-ft"
"""A method with the same computation as the reference that needs no trained weights."""
_RIGHT = "right"
"""The condition for comparing methods: every task with its own instruction."""


@dataclass(frozen=True, slots=True)
class MethodComparison:
    """Methods to compare, and how to time them against the reference on the test task of median length.

    Args:
        methods: Names of methods.
        seeds: Seeds to train every method with.
        steps: Maximum number of steps per stage; None for the recipe's.
        inputs: Maximum number of timed inputs.
        batch_size: Batch size for timing.
        pairs: Minimum number of timed pairs of a method and the reference.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    inputs: int = 32
    batch_size: int = 1
    pairs: int = 20


def compare_methods(
    name_or_path: str | Path,
    comparison: MethodComparison,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Train and score every method with every seed, and return the record of everything in `out`.

    Stages that methods share are trained once. `out/record.json` and `out/methods.md` contain every method that was
    finished in `out` for the same recipe, by this call or earlier ones. An interrupted call can be repeated.

    Args:
        name_or_path: The recipe.
        comparison: Methods and seeds, and how they are timed.
        out: Folder for all methods.
        overrides: Overrides of the recipe. Those of `backbone.config` are not applied to a method whose backbone
            is made from its own configuration, which has other fields.
        progress: Print progress on stderr.
    """
    points, left_out = {}, dict[str, list[str]]()  # check everything before training
    for seed in comparison.seeds:
        for name in comparison.methods:
            given = _applying(name_or_path, name, overrides)
            if odd := [key for key in overrides if key not in given]:
                left_out[name] = odd
            point = Point(f"{method_row(name).title}, seed {seed}", (*given, f"seed={seed}"), name)
            bounds = _bounds(point.recipe(name_or_path, load=load_recipe), comparison.steps)
            points[name, seed] = replace(point, overrides=(*point.overrides, *bounds))
    if left_out and progress and is_main_process():
        keys = ", ".join(dict.fromkeys(key.partition("=")[0].strip() for odd in left_out.values() for key in odd))
        made = "whose backbone is made from its own configuration"
        print(f"not applied to {', '.join(left_out)}, {made}: {keys}", file=sys.stderr)
    sweep(name_or_path, list(points.values()), out, progress=progress)
    plain = load_recipe(name_or_path, overrides)
    plain = load_recipe(name_or_path, [*overrides, *_bounds(plain, comparison.steps)])
    # Shared by all methods and seeds.
    shared = fingerprint(plain.model_dump(mode="json", exclude={"seed"}))
    for (name, seed), point in points.items():
        if progress and is_main_process():
            Console(stderr=True).print(f"measuring {point.label}", markup=False)
        path = out / _MEASURED / f"{name}-{seed}-{shared}.json"
        _measure(plain, point.recipe(name_or_path, load=load_recipe), name, seed, path, comparison)
    files = sorted((out / _MEASURED).glob(f"*-{shared}.json"))
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    content = {"kind": "methods", "steps": comparison.steps, "methods": _rows(out, entries)}
    record = write_record(out / RECORD, plain, content)
    write_text(out / TABLE, markdown(shown_rows(record)))
    return record


def shown_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a record's methods as rows of text."""
    return [_shown(row) for row in record["methods"]]


def _applying(name_or_path: str | Path, method: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that hold for a method of the recipe."""
    recipe = load_recipe(name_or_path, overrides)
    own = method_row(method).changes(recipe.data.source, recipe.name).get("backbone.config")
    if own is None or own.get("model_type") == (recipe.backbone.config or {}).get("model_type"):
        return list(overrides)
    return [given for given in overrides if not given.strip().startswith("backbone.config")]


def _bounds(recipe: Recipe, steps: int | None) -> list[str]:
    """Return overrides that limit the steps of every stage."""
    if steps is None:
        return []
    tables = {"training": recipe.training, **{f"training.{stage}": getattr(recipe.training, stage) for stage in STAGES}}
    return [f"{key}.steps={min(steps, table.steps)}" for key, table in tables.items() if table.steps is not None]


def _measure(plain: Recipe, recipe: Recipe, name: str, seed: int, path: Path, comparison: MethodComparison) -> None:
    """Write the result of a finished method: folders, parameters, FLOPs and time. Measured once."""
    out = path.parent.parent
    steps = planned(recipe, out)
    trained, scored = last_steps(recipe, steps)
    if scored is None:
        raise ConfigError(f"{recipe.name}: expected test tasks to compare methods on, got none")
    settings = asdict(replace(comparison, methods=(), seeds=()))
    identity = fingerprint(trained.folder.name, scored.folder.name, settings)
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["identity"] == identity:
        return
    record = read_record(trained.folder / RECORD)
    training = [read_record(step.folder / RECORD)["training"] for step in steps if not step.evaluates]
    device = best_device()
    method = load_method(find_checkpoint(str(trained.folder))).to(device)
    bare = as_method(plain, _BARE)
    reference = last_stage(bare).untrained(bare, load_recipe_backbone(bare, out / _MEASURED)).to(device).eval()
    tasks = load_tasks(recipe, "test").tasks
    entry = {
        "method": name,
        "seed": seed,
        "identity": identity,
        "trained": str(trained.folder.relative_to(out)),
        "scored": str(scored.folder.relative_to(out)),
        "steps": record["training"]["steps"],
        "seconds": sum(float(one.get("seconds", 0.0)) for one in training),
        "tuned": record["parameters"]["trained"],
        "generated": method.generated_per_task,
        "flops": _flops_ratio(method, reference, tasks),
        "time": _time(method, reference, tasks, comparison),
    }
    write_text(path, json.dumps(entry, indent=2) + "\n")


def _flops_ratio(method: Method, reference: Method, tasks: Sequence[Task]) -> float:
    """Return FLOPs relative to the reference, over all tasks with 100 inputs of their mean length."""
    generator = method.generator_model
    input_encoder = None if generator is None else generator.input_encoder(alone=not generator.keeps_prefix)
    own = sum(method.cost(task_lengths(method.text, task, input_encoder=input_encoder)).total for task in tasks)
    return float(own / sum(reference.cost(task_lengths(reference.text, task)).total for task in tasks))


def _time(method: Method, reference: Method, tasks: Sequence[Task], comparison: MethodComparison) -> dict[str, Any]:
    task = task_of_median_length(tasks, reference.text)
    task = replace(task, instances=task.instances[: comparison.inputs])
    output = max(1, round(task_lengths(reference.text, task).output))
    device = next(reference.parameters()).device
    watch = stopwatch(device, "processor" if device.type == "cpu" else "wall")
    size, pairs = comparison.batch_size, comparison.pairs
    return time_ratio(watch, method, reference, task, batch_size=size, output=output, pairs=pairs)


def _rows(out: Path, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per method, averaged over seeds, in the paper's order."""
    by_method = group_by(sorted(entries, key=lambda entry: entry["seed"]), lambda entry: str(entry["method"]))
    scores = {name: _scores(out, own) for name, own in by_method.items()}
    values = {name: mean_over_seeds(list(runs.values())) for name, (_, _, runs) in scores.items()}
    rows = []
    for method in method_rows():
        if method.name not in by_method:
            continue
        own, first = by_method[method.name], by_method[method.name][0]
        metric, n, runs = scores[method.name]
        score = task_interval(values[method.name])
        reference = values.get(REFERENCE) if method.name != REFERENCE else None
        rows.append(
            {
                "method": method.name,
                "title": f"{method.title}{training_mark(read_record(out / first['scored'] / RECORD))}",
                "metric": metric,
                **{key: score[key] for key in ("mean", "interval")},
                "n": n,
                "seeds": {seed: float(np.concatenate(list(run.values())).mean()) for seed, run in runs.items()},
                "minus_reference": reference and paired_difference(values[method.name], reference),
                "flops": first["flops"],
                "flops_paper": method.flops,
                "time": first["time"],
                "time_paper": method.time,
                **{key: first[key] for key in ("tuned", "generated", "steps")},
                "seconds": fmean(entry["seconds"] for entry in own),
                "trained": [entry["trained"] for entry in own],
                "scored": [entry["scored"] for entry in own],
            }
        )
    return rows


def _scores(out: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[str, int, dict[int, ByTask]]:
    """Return the name of the metric, the number of answers, and the scores of every seed by task.

    Where an evaluation's mean is over tasks, a task has one value, its mean.
    """
    runs: dict[int, ByTask] = {}
    metric, n = "", 0
    for entry in entries:
        folder = out / entry["scored"]
        result = read_record(folder / RECORD)["results"][_RIGHT]
        metric = str(result["metric"])
        scored = group_by(read_scored(folder, _RIGHT, metric, result["n"]), lambda one: one.answer.task)
        values = {task: np.array([one.score for one in own]) for task, own in scored.items()}
        n = sum(map(len, values.values()))
        runs[entry["seed"]] = task_means(values) if metric in HEADLINES else values
    return metric, n, runs


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    minus, (low, high) = row["minus_reference"], row["time"]["interval"]
    seeds = ", ".join(f"{value:.1f}" for value in row["seeds"].values())
    return {
        "method": row["title"],
        row["metric"]: f"{row['mean']:.1f}",
        "95%": _interval(row["interval"]),
        "seeds": seeds if len(row["seeds"]) > 1 else "1",
        "- Tk-Instruct": "" if minus is None else f"{minus['mean']:+.1f} ({_interval(minus['interval'])})",
        "FLOPs": _beside(f"{row['flops']:.2f}", row["flops_paper"]),
        "time": _beside(f"{row['time']['ratio']:.2f} ({low:.2f} to {high:.2f})", row["time_paper"]),
        "tuned": f"{row['tuned']:,}",
        "generated": f"{row['generated']:,}" if row["generated"] else "-",
        "steps": f"{row['steps']:,}",
        "minutes": f"{row['seconds'] / 60:.1f}",
    }


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _beside(own: str, paper: float | None) -> str:
    return own if paper is None else f"{own} [paper {paper:g}]"
