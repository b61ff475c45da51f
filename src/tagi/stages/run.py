"""A recipe from its first stage to its scores, every stage resumable and skipped when it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.formats.records import RECORD, read_record
from tagi.settings.recipe import Recipe
from tagi.settings.tables import STAGES, Stage
from tagi.stages.building import Sources
from tagi.stages.evaluate import EvaluationRequest, evaluate
from tagi.stages.identity import score_identity, stage_identity
from tagi.stages.tasks import refuse_training
from tagi.stages.train import train_stage
from tagi.training.distributed import is_main_process

EVALUATE = "evaluate"
SCORED: tuple[Stage, ...] = ("finetune", "metatrain", "single")
"""Stages that train what can be asked, in the order in which they are scored."""


@dataclass(frozen=True)
class Step:
    """One stage of a run, or the evaluation of a trained stage (then `trained` is its folder), and its own folder."""

    name: str
    folder: Path
    stage: Stage
    sources: Sources
    trained: Path | None = None

    @property
    def evaluates(self) -> bool:
        """Whether the step scores what `stage` trained rather than trains it."""
        return self.trained is not None


FolderOf = Callable[[str, Stage, Sources], Path]
"""A step's name, its stage and what that rests on -> the step's folder."""


def plan(recipe: Recipe, out: Path, folder_of: FolderOf | None = None) -> list[Step]:
    """The steps of a recipe in their order: its stages, then the evaluation of TAGI and of the meta-trained model.

    A step's folder is `out/NAME` unless `folder_of` has another. Raises `ConfigError` for the everyday benchmark.
    """
    refuse_training(recipe)
    folder_of = folder_of or (lambda name, stage, sources: out / name)
    steps: dict[Stage, Step] = {}
    folders = {stage: out / stage for stage in STAGES}  # of stages that are not the recipe's, if they are there
    for stage in recipe.run.stages:
        sources = _sources(recipe, stage, folders)
        steps[stage] = Step(stage, folder_of(stage, stage, sources), stage, sources)
        folders[stage] = steps[stage].folder
    scored: list[Stage] = [stage for stage in SCORED if stage in steps]
    if recipe.data.source == "p3" and recipe.data.test_path is None:  # nothing to score on
        scored = []
    return [*steps.values(), *(_evaluation(steps[stage], folder_of) for stage in scored)]


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

    A step whose output is complete and of this recipe is skipped; an interrupted one goes on where it stopped; one
    that was made by another recipe is an error. A step before `first` must be complete.
    """
    rows = []
    for step in chosen(plan(recipe, out, folder_of), first, last):
        if step.evaluates and not is_main_process():  # one process is enough to score
            continue
        done = (step.folder / RECORD).exists()
        record = _evaluate(step, recipe, progress) if step.evaluates else _train(step, recipe, progress)
        rows.append({"step": step.name, "state": "skipped: complete" if done else "done", **_summary(record)})
    return rows


def chosen(steps: Sequence[Step], first: str | None, last: str | None) -> list[Step]:
    """The steps from `first` to `last`, both included; `ConfigError` for an unknown name or an empty choice."""
    names = [step.name for step in steps]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in names:
            raise ConfigError(f"{option}: expected one of this recipe's steps ({', '.join(names)}), got {name!r}")
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise ConfigError(f"--from {first} --until {last}: expected the first step before the last")
    return list(steps[start:end])


def _sources(recipe: Recipe, stage: Stage, folders: Mapping[Stage, Path]) -> Sources:
    stages, losses = recipe.run.stages, recipe.losses
    metatrained = str(folders["metatrain"])
    begun = [metatrained] if recipe.run.start == "metatrained" else []
    if stage == "teachers":
        return Sources(metatrained=metatrained if recipe.teacher.base == "metatrained" else None)
    if stage in ("pretrain", "single"):
        return Sources(start=tuple(begun))
    if stage != "finetune":
        return Sources()
    if "pretrain" in stages:
        begun.append(str(folders["pretrain"]))
    by_lora = losses.ins > 0 or (losses.kl > 0 and losses.teacher == "lora")
    on_metatrained = by_lora and recipe.teacher.base == "metatrained"
    by_metatrained = losses.kl > 0 and losses.teacher in ("metatrained", "fid-icl")
    return Sources(
        start=tuple(begun),
        teachers=folders["teachers"] if by_lora else None,
        metatrained=metatrained if on_metatrained or by_metatrained else None,
    )


def _evaluation(step: Step, folder_of: FolderOf) -> Step:
    name = EVALUATE if step.stage == "finetune" else f"{EVALUATE}-{step.stage}"
    return Step(name, folder_of(name, step.stage, step.sources), step.stage, step.sources, step.folder)


def _train(step: Step, recipe: Recipe, progress: bool) -> dict[str, Any]:
    for needed in (step.sources.teachers, *map(Path, step.sources.start), step.sources.metatrained):
        if needed is not None and not (Path(needed) / RECORD).exists():
            raise ConfigError(f"{step.name}: expected the finished stage {Path(needed).name!r} in {needed}, got none")
    return train_stage(recipe, step.stage, step.folder, sources=step.sources, resume=True, progress=progress)


def _evaluate(step: Step, recipe: Recipe, progress: bool) -> dict[str, Any]:
    trained = step.trained
    if trained is None or not (trained / RECORD).exists():
        raise ConfigError(f"{step.name}: expected the finished stage {step.stage!r} in {trained}, got none")
    identity = score_identity(recipe, stage_identity(recipe, step.stage, step.sources))
    path = step.folder / RECORD
    if path.exists():
        record = read_record(path)
        if record.get("identity") == identity:
            return record
        raise ConfigError(
            f"{step.folder}: expected scores of this recipe ({identity}), got some of another "
            f"({record.get('identity')}): remove the folder to score anew"
        )
    return evaluate(
        str(trained),
        recipe,
        request=EvaluationRequest(INSTRUCTIONS),
        out=step.folder,
        resume=True,
        progress=progress,
        extra={"identity": identity, "stage": step.stage},
    )


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    if "results" in record:
        right = record["results"]["right"]
        return {"steps": "", "minutes": "", "result": f"{right['metric']} {right['overall'][right['metric']]:.1f}"}
    training = record["training"]
    losses = [entry["loss"] for entry in training["history"] if "loss" in entry]
    result = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ""
    if "teachers" in record:
        result = f"{len(record['teachers'])} teachers"
    return {"steps": training["steps"], "minutes": round(training["seconds"] / 60, 1), "result": result}
