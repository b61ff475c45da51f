"""Every method of the paper's tables on one recipe: trained, scored, costed and timed in the same way."""

import json
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
from tagi.data.task import Task
from tagi.errors import ConfigError
from tagi.evaluation.lengths import task_lengths, task_of_median_length
from tagi.evaluation.predictions_log import predictions_file, read_answers
from tagi.evaluation.reports.paired_answers import score_lines
from tagi.evaluation.reports.seeds import SeedScores, difference, over_seeds, time_ratio
from tagi.evaluation.scoring.paired import ByTask
from tagi.evaluation.timing.stopwatch import stopwatch
from tagi.evaluation.timing.tables import markdown
from tagi.files import write_text
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, read_record, write_record
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.settings.tables import STAGES
from tagi.stages.recipe_backbone import load_recipe_backbone
from tagi.stages.recipes import as_method, load_recipe
from tagi.stages.registry import last_stage
from tagi.stages.sweep import last_steps, planned, sweep
from tagi.stages.tasks import load_tasks
from tagi.training.distributed import is_main_process
from tagi.training.trainer import fingerprint

TABLE = "methods.md"
_MEASURED = "measured"
"""Under the folder: what was measured of each finished method, by the folders of its steps."""
REFERENCE = "tk-instruct"
"""What every ratio and difference is relative to."""
_BARE = "no-ft"
"""The same arithmetic without weights that must be there."""
_RIGHT = "right"
"""The condition that methods are compared under: every task with its own instruction."""


@dataclass(frozen=True, slots=True)
class Rivalry:
    """What to compare: methods by name, seeds, the most steps of any stage (None: as the recipe says).

    Each method is timed against the reference on `inputs` of the test task of median length, at `batch_size`, in at
    least `pairs` pairs.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    inputs: int = 32
    batch_size: int = 1
    pairs: int = 20


def compare_methods(
    name_or_path: str | Path,
    asked: Rivalry,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Train what is missing of every method under every seed, score it, and return the record of all that is in `out`.

    Stages that methods have in common are trained once. `out/record.json` and `out/methods.md` hold every method that
    this call or an earlier one has finished there on the same recipe. Run again, it goes on where it was interrupted.
    """
    points = {}  # every fault comes before anything is trained
    for seed in asked.seeds:
        for name in asked.methods:
            point = Point(f"{method_row(name).title}, seed {seed}", (f"seed={seed}",), name)
            bounds = _bounds(point.recipe(name_or_path, overrides, load_recipe), asked.steps)
            points[name, seed] = replace(point, overrides=(*point.overrides, *bounds))
    sweep(name_or_path, list(points.values()), out, overrides=overrides, progress=progress)
    plain = load_recipe(name_or_path, overrides)
    plain = load_recipe(name_or_path, [*overrides, *_bounds(plain, asked.steps)])
    for (name, seed), point in points.items():
        if progress and is_main_process():
            Console(stderr=True).print(f"measuring {point.label}", markup=False)
        _measure(plain, point.recipe(name_or_path, overrides, load_recipe), name, seed, out, asked)
    content = {"kind": "methods", "steps": asked.steps, "methods": _rows(out, _all_entries(out, plain))}
    record = write_record(out / RECORD, plain, content)
    write_text(out / TABLE, markdown(shown_rows(record)))
    return record


def shown_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """A record's methods as rows of text."""
    return [_shown(row) for row in record["methods"]]


def _bounds(recipe: Recipe, steps: int | None) -> list[str]:
    """Overrides by which no stage of the recipe has more steps than that."""
    if steps is None:
        return []
    training = recipe.training
    own = {stage: getattr(training, stage).steps for stage in STAGES}
    most = [f"training.steps={min(steps, training.steps)}"]
    return most + [f"training.{stage}.steps={min(steps, count)}" for stage, count in own.items() if count is not None]


def _measure(plain: Recipe, recipe: Recipe, name: str, seed: int, out: Path, asked: Rivalry) -> None:
    """Write what is known of a finished method: its steps' folders, parameters, FLOPs and time; measured once."""
    trained, scored = last_steps(recipe, planned(recipe, out))
    if scored is None:
        raise ConfigError(f"{recipe.name}: expected test tasks to compare methods on, got none")
    identity = fingerprint(trained.folder.name, scored.folder.name, asdict(replace(asked, methods=(), seeds=())))
    path = out / _MEASURED / f"{name}-{seed}-{_shared(plain)}.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["identity"] == identity:
        return
    record = read_record(trained.folder / RECORD)
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
        "seconds": sum(_seconds(step.folder) for step in planned(recipe, out) if not step.evaluates),
        "tuned": record["parameters"]["trained"],
        "generated": method.generated_per_task,
        "flops": _flops_ratio(method, reference, tasks),
        "time": _time(method, reference, tasks, asked),
    }
    write_text(path, json.dumps(entry, indent=2) + "\n")


def _shared(plain: Recipe) -> str:
    """A digest of what all methods and seeds of a comparison have in common."""
    return fingerprint(plain.model_dump(mode="json", exclude={"seed"}))


def _seconds(folder: Path) -> float:
    return float(read_record(folder / RECORD)["training"].get("seconds", 0.0))


def _flops_ratio(method: Method, reference: Method, tasks: Sequence[Task]) -> float:
    """FLOPs of all tasks, each with 100 inputs of its own mean length, over the reference's."""
    asks = method.generator.asks(alone=not method.generator.keeps_prefix) if isinstance(method, TAGI) else None
    own = sum(method.cost(task_lengths(method.text, task, asks=asks)).total for task in tasks)
    return float(own / sum(reference.cost(task_lengths(reference.text, task)).total for task in tasks))


def _time(method: Method, reference: Method, tasks: Sequence[Task], asked: Rivalry) -> dict[str, Any]:
    task = task_of_median_length(tasks, reference.text)
    task = replace(task, instances=task.instances[: asked.inputs])
    output = max(1, round(task_lengths(reference.text, task).output))
    device = next(reference.parameters()).device
    watch = stopwatch(device, "processor" if device.type == "cpu" else "wall")
    return time_ratio(watch, method, reference, task, batch_size=asked.batch_size, output=output, pairs=asked.pairs)


def _all_entries(out: Path, plain: Recipe) -> list[dict[str, Any]]:
    """Everything measured in the folder on this recipe, whatever the call."""
    files = sorted((out / _MEASURED).glob(f"*-{_shared(plain)}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def _rows(out: Path, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per method, its seeds together, in the paper's order."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=lambda entry: entry["seed"]):
        by_method.setdefault(entry["method"], []).append(entry)
    scores = {name: _scores(out, own) for name, own in by_method.items()}
    rows = []
    for method in method_rows():
        own = by_method.get(method.name)
        if own is None:
            continue
        metric, score = scores[method.name]
        rows.append(
            {
                "method": method.name,
                "title": method.title,
                "metric": metric,
                "mean": score.mean,
                "interval": list(score.interval),
                "n": score.n,
                "seeds": score.seeds,
                "minus_reference": _minus(score, scores.get(REFERENCE), method.name),
                "flops": own[0]["flops"],
                "flops_paper": method.flops,
                "time": own[0]["time"],
                "time_paper": method.time,
                "tuned": own[0]["tuned"],
                "generated": own[0]["generated"],
                "steps": own[0]["steps"],
                "seconds": fmean(entry["seconds"] for entry in own),
                "trained": [entry["trained"] for entry in own],
                "scored": [entry["scored"] for entry in own],
            }
        )
    return rows


def _scores(out: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[str, SeedScores]:
    """The metric's name, and every seed's answers scored by it."""
    runs: dict[int, ByTask] = {}
    metric = ""
    for entry in entries:
        folder = out / entry["scored"]
        metric = str(read_record(folder / RECORD)["results"][_RIGHT]["metric"])
        by_task: dict[str, list[float]] = {}
        for one in score_lines(read_answers(folder / predictions_file(_RIGHT)), metric):
            by_task.setdefault(one.task, []).append(one.score)
        runs[entry["seed"]] = {task: np.array(own) for task, own in by_task.items()}
    return metric, over_seeds(runs)


def _minus(score: SeedScores, reference: tuple[str, SeedScores] | None, name: str) -> dict[str, Any] | None:
    return None if reference is None or name == REFERENCE else difference(score, reference[1])


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    minus, time = row["minus_reference"], row["time"]
    seeds = ", ".join(f"{value:.1f}" for value in row["seeds"].values())
    return {
        "method": row["title"],
        row["metric"]: f"{row['mean']:.1f}",
        "95%": _interval(row["interval"]),
        "seeds": seeds if len(row["seeds"]) > 1 else "1",
        "- Tk-Instruct": "" if minus is None else f"{minus['mean']:+.1f} ({_interval(minus['interval'])})",
        "FLOPs": _beside(f"{row['flops']:.2f}", row["flops_paper"]),
        "time": _beside(
            f"{time['ratio']:.2f} ({time['interval'][0]:.2f} to {time['interval'][1]:.2f})", row["time_paper"]
        ),
        "tuned": f"{row['tuned']:,}",
        "generated": f"{row['generated']:,}" if row["generated"] else "-",
        "steps": f"{row['steps']:,}",
        "minutes": f"{row['seconds'] / 60:.1f}",
    }


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _beside(own: str, paper: float | None) -> str:
    return own if paper is None else f"{own} [paper {paper:g}]"
