"""Training and evaluation by recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from tagi.backbones.machine import best_device
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.task import Task
from tagi.errors import ConfigError, InputError
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
    """Run a recipe: all of its stages and their evaluation, or one stage.

    Args:
        recipe: The name of a shipped recipe, a TOML file, or a `Recipe` as `load_recipe` reads it.
        out: The folder of the run, with one folder in it for each stage; or of the one stage.
        stage: The only stage to run, by its name (`tagi train --help` lists them).
        overrides: Changed keys, such as "training.steps=10"; not with a `Recipe`.
        start: With `stage`: models whose parameters it begins with.
        teachers: With `stage`: the folder of the LoRA teachers.
        metatrained: With `stage`: the meta-trained model, if the recipe teaches by it.
        first: Without `stage`: the first step of the run.
        last: Without `stage`: the last step of the run.
        resume: With `stage`: go on with an interrupted run. A whole run always does.
        progress: Show a bar on a terminal.

    Returns the stage's record, or for a whole run a row for each step. Raises `ConfigError` for a recipe that is not
    valid or lacks something, and `TrainingError` if `out` holds another run.
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
    """Score a model on tasks.

    Args:
        model: A generator, or the name of any trained model: whatever `AdapterGenerator.from_pretrained` takes. The
            folder of an adapter, or of several, which are scored on the tasks of their instructions.
        tasks: A recipe, whose test tasks are used (name, TOML file or `Recipe`), a file of tasks, or tasks as
            `read_tasks` reads them.
        overrides: Changed keys of the recipe, such as "evaluation.max_new_tokens=10"; not with a `Recipe`.
        conditions: What takes the place of the instruction: "right", "paraphrase", "other", "none", ..., as
            `tagi evaluate --condition` lists them.
        only: Names or patterns of tasks; all tasks if there are none.
        limit: The most instances of a task.
        distances: Compare the tasks' generated updates with each other, too.
        wording: The wording that replaces the tasks' instructions (a name of `Task.texts`).
        positives: The most examples that a task shows. By default 0 for a recipe with `data.demonstrations`, and
            otherwise as many as the model takes.
        held_out: Score the training tasks that the recipe holds out instead of the test tasks.
        out: A new folder for the record and all answers.
        resume: With `out`: go on with an interrupted evaluation.
        progress: Show a bar on a terminal.

    The keys from `distances` to `resume` need a named model and a recipe; other calls raise `InputError` for them.

    Returns a record: `data` counts tasks and instances, `results` has for every condition means in percent with 95%
    intervals, overall, by category and by task. With a named model and a recipe it holds all that `tagi evaluate`
    records.
    """
    request = EvaluationRequest(in_order(conditions), tuple(only), limit, distances, wording, positives, held_out)
    if isinstance(tasks, str | Path | Recipe):
        recipe = _recipe(tasks, overrides)
        if not isinstance(model, GeneratorModel):
            folder = None if out is None else Path(out)
            return evaluate_checkpoint(
                str(model), recipe, request=request, out=folder, resume=resume, progress=progress
            )
        tasks = load_tasks(recipe, "test").tasks
    else:  # how they are scored is the only thing that the recipe says
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
    """Score a model on tasks that are in memory, or a generator that is."""
    method: Method
    folder: Path | None = None
    seen: Mapping[str, Any] | None = None
    scored = select_tasks(tasks, request.tasks, request.limit or recipe.evaluation.limit)
    if isinstance(model, GeneratorModel):
        method = TAGI(model).eval()
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


def _recipe(recipe: str | Path | Recipe, overrides: Sequence[str]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        raise ConfigError("overrides: expected none with a Recipe object, got some: give them to load_recipe")
    return recipe
