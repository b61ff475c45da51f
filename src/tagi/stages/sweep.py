"""A recipe at several points: every stage whose outcome points have in common is done once, for all of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tagi.config.sweeps import Point
from tagi.errors import ConfigError
from tagi.evaluation.reports.records import training_mark
from tagi.files import write_text
from tagi.formats.records import RECORD, read_record
from tagi.settings.recipe import Recipe
from tagi.settings.stages import Stage
from tagi.stages.estimate import estimate, measured_tflops
from tagi.stages.identity import score_identity, stage_identity
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.run import FolderOf, Step, plan, run, shown_stages
from tagi.stages.tasks import RecipeData
from tagi.training.distributed import is_main_process

SHARED = "shared"
"""Under a sweep's folder: every step's own, named by what it does and a digest of all that decides its outcome."""
TABLE = "sweep.json"


def sweep(
    name_or_path: str | Path,
    points: Sequence[Point],
    out: Path,
    *,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Run a recipe with `overrides` at every point and return a row for each, in the order of the points.

    A row has the point's `label`, `metric`, `value` and its 95% `interval` (low, high) on the test tasks, and the
    `steps` of the last stage; where there are no test tasks, the metric is the last training `loss`, without interval.
    `out/shared` holds every step's folder, so that points share what they have in common; `out/sweep.json` holds the
    rows of all sweeps there. Run again, it goes on where it was interrupted; finished points are not looked at.
    """
    known = _known(out)
    rows = []
    _check_shots([point.recipe(name_or_path, overrides, load_recipe) for point in points], out)
    for number, point in enumerate(points, start=1):
        recipe = point.recipe(name_or_path, overrides, load_recipe)
        steps = planned(recipe, out)
        folders = {step.name: step.folder.name for step in steps}
        entry = next((entry for entry in known if entry["folders"] == folders), None)
        if entry is None or not all((step.folder / RECORD).exists() for step in steps):
            if progress and is_main_process():
                Console(stderr=True).print(f"point {number} of {len(points)}: {point.label}", markup=False)
            run(recipe, out, progress=progress, folder_of=_folder_of(recipe, out))
            entry = {"folders": folders, **_result(recipe, steps)}
            known = [*(other for other in known if other["folders"] != folders), entry]
        entry |= {"label": point.label, "recipe": recipe.name, "overrides": [*overrides, *point.overrides]}
        rows.append({key: entry[key] for key in ("label", "metric", "value", "interval", "steps")})
        if is_main_process():
            write_text(out / TABLE, json.dumps({"points": known}, indent=2, ensure_ascii=False) + "\n")
    return rows


def _check_shots(recipes: Sequence[Recipe], out: Path) -> None:
    """Raise `DataError` if a point has too few examples for shots, before any point is trained."""
    checked = set()
    for recipe in recipes:
        stages = shown_stages(planned(recipe, out))
        key = repr((stages, recipe.data, recipe.shots, recipe.single, recipe.metatrain.method, recipe.generator.reads))
        if key not in checked:
            RecipeData(recipe).check_shots(stages)
            checked.add(key)


def sweep_plan(
    name_or_path: str | Path,
    points: Sequence[Point],
    out: Path,
    *,
    overrides: Sequence[str] = (),
    tflops: float | None = None,
) -> list[dict[str, Any]]:
    """Return a numbered row for each point.

    A row says per step `complete`, `to do`, `as N` if point N does it before, or nothing, and the `hours` of the steps
    that are to do. `tflops` is the device's speed, by default measured (`estimate`).
    """
    recipes = [point.recipe(name_or_path, overrides, load_recipe) for point in points]
    plans = [planned(recipe, out) for recipe in recipes]
    speed = tflops or (measured_tflops(recipes[0]) if recipes else 1.0)
    longest = max(plans, key=len, default=[])
    names = dict.fromkeys(step.name for steps in (longest, *plans) for step in steps)
    first: dict[Path, int] = {}
    rows = []
    for number, (point, recipe, steps) in enumerate(zip(points, recipes, plans, strict=True), start=1):
        states = {}
        for step in steps:
            own = "complete" if (step.folder / RECORD).exists() else "to do"
            states[step.name] = f"as {first[step.folder]}" if step.folder in first else own
            first.setdefault(step.folder, number)
        costs = estimate(recipe, out, tflops=speed, folder_of=_folder_of(recipe, out))
        hours = sum(float(row["hours"]) for row in costs if states[row["step"]] == "to do")
        shown = {name: states.get(name, "") for name in names}
        rows.append({"n": number, "point": point.label, **shown, "hours": f"{hours:.3g}"})
    return rows


def _folder_of(recipe: Recipe, out: Path) -> FolderOf:
    def folder(name: str, stage: Stage, sources: Sources) -> Path:
        # Earlier stages need not be done yet: their folders' names say all that decides them.
        identity = stage_identity(recipe, stage, sources, content=False)
        if name != stage:
            identity = score_identity(recipe, identity)
        return out / SHARED / f"{name}-{identity}"

    return folder


def planned(recipe: Recipe, out: Path) -> list[Step]:
    """The steps of a recipe in a sweep's folder, whether they are done or not."""
    return plan(recipe, out, _folder_of(recipe, out))


def _known(out: Path) -> list[dict[str, Any]]:
    path = out / TABLE
    if not path.exists():
        return []
    try:
        points: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["points"]
        return [entry for entry in points if entry["folders"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected the table of a sweep, got: {error}") from error


def last_steps(recipe: Recipe, steps: Sequence[Step]) -> tuple[Step, Step | None]:
    """The recipe's last stage, and its evaluation if it has test tasks: what a run is about."""
    last = recipe.run.stages[-1]
    trained = next(step for step in steps if step.stage == last and not step.evaluates)
    return trained, next((step for step in steps if step.stage == last and step.evaluates), None)


def _result(recipe: Recipe, steps: Sequence[Step]) -> dict[str, Any]:
    trained, scored = last_steps(recipe, steps)
    training = read_record(trained.folder / RECORD)["training"]
    if scored is not None:
        record = read_record(scored.folder / RECORD)
        right = record["results"]["right"]
        metric, interval = f"{right['metric']}{training_mark(record)}", right["interval"]
        value = right["overall"][right["metric"]]
    else:
        losses = [entry["loss"] for entry in training["history"] if "loss" in entry]
        metric, value, interval = "loss", losses[-1] if losses else None, None
    return {"metric": metric, "value": value, "interval": interval, "steps": training["steps"]}
