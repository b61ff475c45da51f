"""Scoring a checkpoint on a recipe's test tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tagi.adapters.bank import as_lora, delta_variance
from tagi.backbones.load import folder_revision
from tagi.backbones.machine import best_device, counting
from tagi.data.digest import tasks_digest
from tagi.data.task import Task
from tagi.errors import ConfigError, InputError
from tagi.evaluation.adapter_distances import adapter_report, generated_updates
from tagi.evaluation.conditions import INSTRUCTIONS, Condition, conditions
from tagi.evaluation.predictions_log import TaskLog, predictions_file
from tagi.evaluation.reports.adapter_plots import draw_adapters, needs_matplotlib
from tagi.evaluation.scoring.free_form import InWords, Scoring
from tagi.evaluation.scoring.p3 import ByP3Rank
from tagi.evaluation.scoring.paired import ByTask, by_task, paired_difference, task_means
from tagi.evaluation.scoring.rank_classification import ByRank
from tagi.evaluation.scoring.task_metrics import ByTaskMetric, best_constant
from tagi.formats.checkpoint import read_config
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, trained_by, write_record
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.stages.evaluation_folder import alone, check_kept, claim
from tagi.stages.shots import reads_shots
from tagi.stages.tasks import LoadedTasks, RecipeData, Split
from tagi.training.trainer import fingerprint

_METRICS = {"toy": "exact", "sni": "rouge", "p3": "rank", "jsonl": "rouge", "everyday": "task"}
PICTURE = "adapters.png"
"""Of the adapters' distances, beside the record."""


@dataclass(frozen=True)
class Asked:
    """What an evaluation is asked to do: which conditions, which of the recipe's test tasks, how much of each.

    `tasks` are names or patterns (`task1*`), all tasks if empty; `limit` bounds the instances of each. `distances` asks
    for those between the tasks' generated updates too, where the method generates any.

    `wording` names the wording that replaces the tasks' instructions (of `Task.texts`). `positives` limits the examples
    that each task shows; None is 0 for a recipe with `data.demonstrations`, and otherwise as many as the checkpoint
    takes.

    `held_out` asks the training tasks that the recipe holds out (`data.validation_categories`, `data.validation_tasks`)
    instead of the test tasks: models are selected on them.
    """

    conditions: tuple[str, ...] = INSTRUCTIONS[:1]
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    distances: bool = False
    wording: str | None = None
    positives: int | None = None
    held_out: bool = False

    @property
    def partial(self) -> bool:
        """Whether something else was asked for than the recipe's whole test set."""
        return bool(self.tasks) or self.limit is not None or self.held_out


def evaluate(
    checkpoint: str,
    recipe: Recipe,
    *,
    asked: Asked | None = None,
    data: RecipeData | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on the recipe's test tasks and return the record.

    With `out`, `record.json` and the predictions of every condition lie there, and a picture of the distances if asked
    for. Tasks are done one after the other, so that memory does not grow with their number; with `resume` an
    interrupted evaluation goes on with the next task, and a finished one is left alone. `extra` goes into the record.
    `data` are the recipe's tasks, if they are shared with other steps.

    Raises `InputError` if a task lacks the wording asked for, for more positives than the checkpoint was made for, and
    for held-out tasks of a recipe that holds out none.
    """
    asked = asked or Asked()
    folder = find_checkpoint(checkpoint)
    if asked.held_out and not (recipe.data.validation_tasks or recipe.data.validation_categories):
        raise InputError(
            "--held-out: expected a recipe with data.validation_categories or data.validation_tasks, got neither"
        )
    split: Split = "validation" if asked.held_out else "test"
    loaded = (data or RecipeData(recipe)).tasks(split, shots=reads_shots(folder))
    tasks = select_tasks(loaded.tasks, asked.tasks, asked.limit or recipe.evaluation.limit)
    # What is tested is the same whatever is shown: evaluations that show shots, examples or another wording can be
    # compared with those that do not.
    digest = tasks_digest(replace(task, shots=()) for task in tasks)
    tasks, told = _as_told(tasks, asked, recipe, folder)
    reworded = "paraphrase" in asked.conditions  # reads the tasks' wordings
    read, revision = tasks_digest(tasks, wordings=reworded), folder_revision(folder)
    settings = recipe.evaluation.model_dump(mode="json")
    further: list[Any] = [told] if told else []
    if asked.held_out:
        further.append("held out")
    identity = fingerprint(revision, read, settings, asked.conditions, asked.distances, recipe.seed, *further)
    if asked.distances and out is not None and read_config(folder)["method"] == TAGI.name:
        needs_matplotlib(f"{out / PICTURE}")
    with alone(out):
        finished = None if out is None else claim(out, identity, resume)
        if finished is not None:
            return finished
        method = load_method(folder).to(best_device())
        scoring = scoring_of(recipe, tasks, split)
        made = conditions(method, tasks, asked.conditions, seed=recipe.seed)
        results = _results(method, made, tasks, scoring, out, progress)
        content = {
            "kind": "evaluation",
            "evaluation": identity,
            **(extra or {}),
            "checkpoint": checkpoint,
            "revision": revision,
            "trained": trained_by(folder),
            "method": method.name,
            "partial": asked.partial,
            **({"held_out": True} if asked.held_out else {}),
            "data": {**_data(loaded, tasks, digest, asked.limit or recipe.evaluation.limit), **told},
            "results": results,
            **({"best_constant": best_constant(tasks)} if isinstance(scoring, ByTaskMetric) else {}),
            "not_scored": [name for name in asked.conditions if name not in results],
            **_adapters(method, tasks, asked, out, recipe.seed),
        }
        return content if out is None else write_record(out / RECORD, recipe, content)


def validation_score(method: Method, tasks: Sequence[Task], recipe: Recipe) -> float:
    """Return the mean score in percent over held-out tasks with their own instruction.

    The score is the one of the recipe's evaluation: ROUGE-L, exact matches of toy tasks, or by tasks' own metrics.
    """
    scoring = scoring_of(recipe, tasks, "validation")
    (right,) = conditions(method, tasks, INSTRUCTIONS[:1])
    given = _given(method, right, tasks, scoring, None, False)
    summary = scoring.summarize(given, scoring.scores(given))
    return float(summary["overall"][summary["metric"]])


def scoring_of(recipe: Recipe, tasks: Sequence[Task], split: Split = "test") -> Scoring[Any]:
    """Return how the recipe's tasks are scored: as it says, else as is usual for their source.

    JSON Lines are scored by tasks' own metrics if a task names one. Training tasks of P3 are not all classification:
    held-out ones are scored by ROUGE.
    """
    settings = recipe.evaluation
    metric = settings.metric or _METRICS[recipe.data.source]
    if settings.metric is None and any(task.metric for task in tasks):
        metric = "task"
    if metric == "task":
        if settings.num_beams > 1:
            raise ConfigError(f"evaluation.num_beams: expected 1 with tasks' own metrics, got {settings.num_beams}")
        return ByTaskMetric(settings.batch_size, settings.max_new_tokens)
    if metric == "rank" and (split == "test" or settings.metric):
        way = ByP3Rank if recipe.data.source == "p3" else ByRank
        return way(settings.batch_size, settings.choice_score)
    return InWords(
        "exact" if metric == "exact" else "rouge", settings.batch_size, settings.max_new_tokens, settings.num_beams
    )


def select_tasks(tasks: Sequence[Task], patterns: Sequence[str], limit: int | None) -> list[Task]:
    """Tasks whose names fit a pattern (all without patterns), each with its first `limit` instances.

    Raises `InputError` for a pattern that fits none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(task.name, pattern) for task in tasks):
            raise InputError(f"--tasks: expected names or patterns of {len(tasks)} test tasks, got {pattern!r}")
    chosen = [task for task in tasks if not patterns or any(fnmatchcase(task.name, one) for one in patterns)]
    return [replace(task, instances=task.instances[:limit]) for task in chosen]


def in_wording(tasks: Sequence[Task], name: str) -> list[Task]:
    """The tasks with the wording of this name as their instruction.

    Raises `InputError` if a task has no such wording.
    """
    for task in tasks:
        if name not in task.texts:
            known = ", ".join(task.texts)
            raise InputError(f"--wording: task {task.name!r} has no wording {name!r}; it has {known}")
    return [replace(task, instruction=task.texts[name]) for task in tasks]


def _as_told(tasks: list[Task], asked: Asked, recipe: Recipe, checkpoint: Path) -> tuple[list[Task], dict[str, Any]]:
    """The tasks in the wording and with the number of examples that they are evaluated with.

    Also what the record says of both: nothing where neither the call nor the recipe asks for something special.
    """
    told: dict[str, Any] = {}
    if asked.wording is not None:
        tasks = in_wording(tasks, asked.wording)
        told["wording"] = asked.wording
    positives = 0 if asked.positives is None and recipe.data.demonstrations is not None else asked.positives
    if positives is not None:
        text = read_config(checkpoint)["text"]
        most = text.get("positives", 0) if isinstance(text, dict) else 0
        if positives > most:
            raise InputError(f"--positives: this checkpoint shows at most {most} examples of a task, got {positives}")
        tasks = [replace(task, examples=task.examples[:positives]) for task in tasks]
        told["positives"] = positives
    return tasks, told


def _results(
    method: Method,
    made: Sequence[Condition],
    tasks: Sequence[Task],
    scoring: Scoring[Any],
    out: Path | None,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """By condition: scores, tasks left out if any, and the difference from `right` on the same instances."""
    results: dict[str, dict[str, Any]] = {}
    values: dict[str, ByTask] = {}
    for condition in made:
        covered = [tasks[index] for index in condition.covered(tasks)]
        given = _given(method, condition, tasks, scoring, out, progress)
        scores = scoring.scores(given)
        names = {task.name for task in covered}
        left_out = [task.name for task in tasks if task.name not in names]
        results[condition.name] = {
            "given": condition.given,
            **({"left_out": left_out} if left_out else {}),
            **scoring.summarize(given, scores),
        }
        headline = by_task(next(iter(scores.values())), covered)
        values[condition.name] = task_means(headline) if isinstance(scoring, ByTaskMetric) else headline
    right = values.get(INSTRUCTIONS[0])
    for name, own in values.items():
        if right is not None and own is not right and own.keys() <= right.keys():
            results[name]["minus_right"] = paired_difference(own, right)
    return results


def _given(
    method: Method, condition: Condition, tasks: Sequence[Task], scoring: Scoring[Any], out: Path | None, progress: bool
) -> list[Any]:
    """What the method gives to every instance under a condition; kept in a file by the task if there is `out`."""
    log = None
    if out is not None:
        log = TaskLog(out / predictions_file(condition.name), {task.name: len(task.instances) for task in tasks})
    given: list[Any] = []
    covered = condition.covered(tasks)
    with counting(condition.name, sum(len(tasks[index].instances) for index in covered), progress) as advance:
        for index in covered:
            task = tasks[index]
            if log is not None and task.name in log:
                check_kept(log, task)
                given += [scoring.read(line) for line in log.lines(task.name)]
                advance(len(task.instances))
                continue
            own = scoring.ask(method, condition.prepare(index), task, advance)
            if log is not None:
                log.append(task.name, [one.as_line() for one in own])
            given += own
    return given


def _data(loaded: LoadedTasks, tasks: Sequence[Task], digest: str, limit: int | None) -> dict[str, Any]:
    return {
        **loaded.summary,
        "warning": loaded.warning,
        "digest": digest,
        "limit": limit,
        "tasks": len(tasks),
        "instances": sum(len(task.instances) for task in tasks),
    }


def _adapters(method: Method, tasks: Sequence[Task], asked: Asked, out: Path | None, seed: int) -> dict[str, Any]:
    """How far the adapters of the test tasks differ (0 when all tasks get the same); if asked, how each from each.

    Only LoRA has a Delta W to compare: of other methods and modules nothing is said.
    """
    if not isinstance(method, TAGI) or method.generator.settings.module != "lora":
        return {"delta_variance": None}
    bank = as_lora(generated_updates(method, tasks), "distances")
    found: dict[str, Any] = {"delta_variance": delta_variance(bank)}
    if asked.distances:
        found["adapters"] = adapter_report(bank, tasks, seed)
        if out is not None:
            draw_adapters(out / PICTURE, np.array(found["adapters"]["distances"]), found["adapters"]["categories"])
    return found
