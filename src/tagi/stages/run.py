"""Running all stages of a recipe and their evaluation. Finished steps are skipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.data.task import HEADLINES
from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS, STOCK, in_order
from tagi.evaluation.reports.records import training_mark
from tagi.formats.records import RECORD, read_record
from tagi.settings.recipe import Recipe
from tagi.settings.stages import ON_TEST_TASKS, Stage
from tagi.stages.evaluate import EvaluationRequest, evaluate
from tagi.stages.identity import score_identity, stage_identity
from tagi.stages.protocol import Sources
from tagi.stages.registry import STAGES, stage_of
from tagi.stages.tasks import RecipeData, check_tested, refuse_training
from tagi.stages.train import train_stage


@dataclass(frozen=True)
class Step:
    """One step of a run: a stage, or the evaluation of what a stage trained.

    Args:
        name: Name of the step.
        folder: Folder of the step.
        stage: Stage that it trains or evaluates.
        sources: Sources of the stage.
        trained: Folder of the stage, if the step evaluates it.
    """

    name: str
    folder: Path
    stage: Stage
    sources: Sources
    trained: Path | None = None

    @property
    def evaluates(self) -> bool:
        """Whether the step evaluates the stage instead of training it."""
        return self.trained is not None


FolderOf = Callable[[str, Stage, Sources], Path]
"""Returns the folder of a step from its name, stage and sources."""


def plan(recipe: Recipe, out: Path, folder_of: FolderOf | None = None) -> list[Step]:
    """Return the steps of a recipe in order, by name: its stages, then their evaluations.

    A step's folder is `out/NAME`, unless `folder_of` is given. Raises `ConfigError` for the everyday benchmark.
    """
    refuse_training(recipe)
    folder_of = folder_of or (lambda name, stage, sources: out / name)
    folders = {stage.name: out / stage.name for stage in STAGES}  # of stages that are not the recipe's, if they exist
    training, scoring = [], []
    for stage in map(stage_of, recipe.run.stages):
        sources = stage.sources(recipe, folders)
        folder = folders[stage.name] = folder_of(stage.name, stage.name, sources)
        training.append(Step(stage.name, folder, stage.name, sources))
        if stage.evaluation is not None:
            own = folder_of(stage.evaluation, stage.name, sources)
            scoring.append(Step(stage.evaluation, own, stage.name, sources, folder))
    if recipe.data.source == "p3" and recipe.data.test_path is None:  # nothing to score on
        return training
    return [*training, *sorted(scoring, key=lambda step: step.name)]


def run(
    recipe: Recipe,
    out: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    progress: bool = True,
    folder_of: FolderOf | None = None,
) -> list[dict[str, Any]]:
    """Run the steps from `first` to `last` (names and folders as in `plan`) and return a row per step.

    Complete steps of this recipe are skipped, and interrupted ones are continued. Output of another recipe is an error.
    Steps before `first` must be complete. The examples for shots of test tasks are checked before the first step.
    """
    rows, data, steps = [], RecipeData(recipe), chosen(plan(recipe, out, folder_of), first, last)
    own = [stage_of(stage) for stage in recipe.run.stages if stage not in ON_TEST_TASKS]
    trained = [stage for stage in own if stage.models(recipe)]
    if trained and any(step.evaluates for step in steps):
        check_tested(data)
    data.check_shots(shown_stages(steps))  # check before training
    for step in steps:
        for needed in step.sources.folders if step.trained is None else [step.trained]:
            if str(needed) != recipe.run.checkpoint and not (needed / RECORD).exists():
                raise ConfigError(f"{step.name}: expected the finished stage {needed.name!r} in {needed}, got none")
        done = (step.folder / RECORD).exists()
        record = (_evaluate if step.evaluates else _train)(step, data, progress)
        rows.append({"step": step.name, "state": "skipped: complete" if done else "done", **_summary(record)})
    return rows


def shown_stages(steps: Sequence[Step]) -> list[Stage]:
    """Return the stages with unfinished training or evaluation that may need shots of test tasks."""
    to_do = [step for step in steps if not (step.folder / RECORD).exists()]
    return [step.stage for step in to_do if step.evaluates or step.stage in ON_TEST_TASKS]


def chosen(steps: Sequence[Step], first: str | None, last: str | None) -> list[Step]:
    """Return the steps from `first` to `last`, inclusive. Raises `ConfigError` for an unknown name or no step."""
    names = [step.name for step in steps]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in names:
            raise ConfigError(f"{option}: expected one of this recipe's steps ({', '.join(names)}), got {name!r}")
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise ConfigError(f"--from {first} --until {last}: expected the first step before the last")
    return list(steps[start:end])


def _train(step: Step, data: RecipeData, progress: bool) -> dict[str, Any]:
    return train_stage(
        data.recipe, step.stage, step.folder, sources=step.sources, data=data, resume=True, progress=progress
    )


def _evaluate(step: Step, data: RecipeData, progress: bool) -> dict[str, Any]:
    recipe = data.recipe
    identity = score_identity(recipe, stage_identity(recipe, step.stage, step.sources, data=data))
    path = step.folder / RECORD
    if path.exists():
        record = read_record(path)
        if record.get("identity") == identity:
            return record
        got = f"got some of another ({record.get('identity')}): remove the folder to score anew"
        raise ConfigError(f"{step.folder}: expected scores of this recipe ({identity}), {got}")
    return evaluate(
        str(step.trained),
        recipe,
        request=EvaluationRequest(in_order(INSTRUCTIONS if recipe.data.source != "jsonl" else (*INSTRUCTIONS, STOCK))),
        data=data,
        out=step.folder,
        resume=True,
        progress=progress,
        extra={"identity": identity, "stage": step.stage},
    )


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    if "results" in record:
        right = record["results"]["right"]
        name = HEADLINES.get(right["metric"], right["metric"])
        score = f"{name} {right['overall'][right['metric']]:.1f}{training_mark(record)}"
        return {"steps": "", "minutes": "", "result": score}
    training, teachers = record["training"], record.get("teachers")
    losses = [entry["loss"] for entry in training["history"] if "loss" in entry]
    result = f"{len(teachers)} teachers" if teachers else ""
    if losses:
        result = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    return {"steps": training["steps"], "minutes": round(training["seconds"] / 60, 1), "result": result}
