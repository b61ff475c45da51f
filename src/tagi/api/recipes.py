"""Training and evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from tagi.backbones.machine import best_device
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.task import Task
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.evaluation.conditions import in_order
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import training_data
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.settings.stages import Stage
from tagi.stages.adapter_folders import AdapterFolders
from tagi.stages.evaluate import EvaluationRequest, TaskScorer, scoring_of, select_tasks
from tagi.stages.evaluate import evaluate as evaluate_checkpoint
from tagi.stages.own_tasks import refuse_shared, shared_instances
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe as load_recipe
from tagi.stages.run import run
from tagi.stages.tasks import load_tasks
from tagi.stages.train import train_stage

read_tasks = read_jsonl


@overload
def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    stage: Stage,
    overrides: Sequence[str] = (),
    start: Sequence[str | Path] = (),
    teachers: str | Path | None = None,
    metatrained: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]: ...


@overload
def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]: ...


def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    stage: Stage | None = None,
    overrides: Sequence[str] = (),
    start: Sequence[str | Path] = (),
    teachers: str | Path | None = None,
    metatrained: str | Path | None = None,
    first: str | None = None,
    last: str | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Run all stages of a recipe with their evaluation, or a single stage.

    Args:
        recipe: Name of a built-in recipe, a TOML file, or a `Recipe` from `load_recipe`.
        out: Folder of the run, which gets a subfolder per stage; with `stage`, the folder of that stage.
        stage: Run only this stage (`tagi train --help` lists the stages).
        overrides: Changed keys, such as "training.steps=10". Not allowed with a `Recipe`.
        start: With `stage`: checkpoints to initialise from.
        teachers: With `stage`: folder of the LoRA teachers.
        metatrained: With `stage`: the meta-trained model, if it is the recipe's teacher.
        first: Without `stage`: first step of the run.
        last: Without `stage`: last step of the run.
        resume: With `stage`: continue an interrupted run. A whole run always continues.
        progress: Show progress.

    Returns:
        The stage's record; for a whole run, one row per step.

    Raises:
        ConfigError: The recipe is invalid.
        TrainingError: `out` holds another run.
    """
    loaded = _recipe(recipe, overrides)
    if stage is None:
        return run(loaded, Path(out), first=first, last=last, progress=progress)
    sources = Sources(
        tuple(map(str, start)),
        None if teachers is None else Path(teachers),
        None if metatrained is None else str(metatrained),
    )
    return train_stage(loaded, stage, Path(out), sources=sources, resume=resume, progress=progress)


def evaluate(
    model: str | Path | GeneratorModel,
    tasks: str | Path | Recipe | Sequence[Task],
    *,
    overrides: Sequence[str] = (),
    conditions: Sequence[str] = ("right",),
    only: Sequence[str] = (),
    limit: int | None = None,
    distances: bool = False,
    wording: str | None = None,
    positives: int | None = None,
    held_out: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate a model on tasks.

    Args:
        model: A generator; the name or folder of any trained model; or a folder of one or several adapters, each of
            which is scored on the task with its instruction.
        tasks: A recipe (name, TOML file or `Recipe`), whose test tasks are used; a file of tasks; or tasks from
            `read_tasks`.
        overrides: Changed keys of the recipe, such as "evaluation.max_new_tokens=10". Not allowed with a `Recipe`.
        conditions: Conditions to score, such as "right" (the task's instruction), "paraphrase", "other" (another
            task's) and "none".
        only: Names or patterns of tasks; by default all tasks.
        limit: Maximum number of instances per task.
        distances: Also compute distances between the tasks' generated updates.
        wording: Replace instructions by this wording (a key of `Task.texts`).
        positives: Maximum number of demonstrations in an instruction. By default 0 if the recipe sets
            `data.demonstrations`, and otherwise as many as the model was trained with.
        held_out: Score the held-out training tasks instead of the test tasks.
        out: New folder for the record and all answers.
        resume: With `out`: continue an interrupted evaluation.
        progress: Show progress.

    Returns:
        A record. `data` counts tasks and instances. `results` has mean scores in percent with 95% intervals for every
        condition, overall, by category and by task.

    Raises:
        InputError: One of the arguments from `distances` to `resume` was given without a named model and a recipe.
        ConfigError: The model was trained on instances of the tasks, and the recipe does not allow it.
    """
    request = EvaluationRequest(in_order(conditions), tuple(only), limit, distances, wording, positives, held_out)
    if isinstance(tasks, str | Path | Recipe):
        recipe = _recipe(tasks, overrides)
        if not isinstance(model, GeneratorModel):
            at = None if out is None else Path(out)
            return evaluate_checkpoint(str(model), recipe, request=request, out=at, resume=resume, progress=progress)
        tasks = load_tasks(recipe, "test").tasks
    else:  # only the evaluation settings of the recipe are used
        recipe = load_recipe("sni-small", ["data.source=jsonl", "data.path=tasks.jsonl", *overrides])
    refused = {"distances": distances, "wording": wording, "positives": positives, "held_out": held_out, "out": out}
    for name, value in {**refused, "resume": resume}.items():
        if value is not None and value is not False:
            raise InputError(f"{name}: expected a named model and a recipe with it, got other ones")
    return _score(model, tasks, recipe, request, progress)


def _score(
    model: str | Path | GeneratorModel,
    tasks: Sequence[Task],
    recipe: Recipe,
    request: EvaluationRequest,
    progress: bool,
) -> dict[str, Any]:
    """Score tasks or a generator that are in memory."""
    method: Method
    folder: Path | None = None
    seen: Mapping[str, Any] | None = None
    scored = select_tasks(tasks, request.tasks, request.limit or recipe.evaluation.limit)
    if isinstance(model, GeneratorModel):
        method, seen = TAGI(model).eval(), _training_data(model)
    elif (adapters := AdapterFolders.find(str(model))) is not None:
        adapters.check(request.conditions)
        method, scored, seen = adapters.method(), adapters.own_tasks(scored), adapters.seen()
    else:
        folder = find_checkpoint(str(model))
        method, seen = load_method(folder).to(best_device()), training_data(folder)
    trained_on = refuse_shared(shared_instances(scored, seen), scored, recipe.data)
    scorer = TaskScorer(method, scored, scoring_of(recipe, scored), progress=progress, folder=folder)
    return {
        "data": {"tasks": len(scored), "instances": sum(len(task.instances) for task in scored), **trained_on},
        **scorer.results(request.conditions, recipe.seed),
    }


def _training_data(model: GeneratorModel) -> Mapping[str, Any] | None:
    """Return what the record of a generator's checkpoint says of its training data, None if there is no such folder."""
    if model.source is None:
        return None
    try:
        folder = find_checkpoint(model.source)
    except CheckpointError:  # removed since, or on a hub that cannot be reached: the model itself is in memory
        return None
    return training_data(folder)


def _recipe(recipe: str | Path | Recipe, overrides: Sequence[str]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        raise ConfigError("overrides: expected none with a Recipe object, got some: give them to load_recipe")
    return recipe
