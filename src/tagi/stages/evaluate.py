"""Evaluation of a checkpoint on the test tasks of a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tagi.adapters.bank import as_lora, delta_variance
from tagi.backbones.load import folder_revision
from tagi.backbones.machine import best_device, counting
from tagi.data.digest import tasks_digest
from tagi.data.task import Task, as_prompted
from tagi.data.text.unknown import warn_of_unknown
from tagi.errors import InputError
from tagi.evaluation.adapter_distances import adapter_report, generated_updates
from tagi.evaluation.conditions import INSTRUCTIONS, Condition, conditions
from tagi.evaluation.predictions_log import TaskLog, predictions_file
from tagi.evaluation.reports.adapter_plots import draw_adapters, needs_matplotlib
from tagi.evaluation.scoring.answers import check_instances
from tagi.evaluation.scoring.free_form import FreeFormScoring, Scoring
from tagi.evaluation.scoring.p3 import P3RankScoring
from tagi.evaluation.scoring.rank_classification import RankScoring
from tagi.evaluation.scoring.statistics import ByTask, paired_difference
from tagi.evaluation.scoring.task_metrics import TaskMetricScoring
from tagi.formats.checkpoint import read_config
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, trained_by, training_data, write_record
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.stock import stock_model
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.settings.sources import BY_NAME
from tagi.stages.adapter_folders import AdapterFolders
from tagi.stages.evaluation_folder import alone, claim, kept_answers
from tagi.stages.own_tasks import refuse_shared, shared_instances
from tagi.stages.shots import reads_shots
from tagi.stages.tasks import RecipeData, Split
from tagi.training.distributed import is_main_process, of_main_process, shared_among_processes
from tagi.training.trainer import fingerprint

PICTURE = "adapters.png"
"""File name of the plot of adapter distances."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Args:
        conditions: Names of conditions.
        tasks: Names or patterns (`task1*`) of the recipe's test tasks; all tasks if empty.
        limit: Maximum number of instances per task.
        distances: Whether to compute distances between the tasks' generated updates, if the method generates any.
        wording: Wording that replaces the instructions (a key of `Task.texts`).
        positives: Maximum number of demonstrations. None means 0 for a recipe with `data.demonstrations`, and otherwise
            as many as the checkpoint was trained with.
        held_out: Whether to score the held-out training tasks (`data.validation_categories`, `data.validation_tasks`)
            instead of the test tasks, for model selection.
    """

    conditions: tuple[str, ...] = INSTRUCTIONS[:1]
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    distances: bool = False
    wording: str | None = None
    positives: int | None = None
    held_out: bool = False

    @property
    def split(self) -> Split:
        """The split of the recipe's tasks that is scored."""
        return "validation" if self.held_out else "test"


def evaluate(
    checkpoint: str,
    recipe: Recipe,
    *,
    request: EvaluationRequest | None = None,
    data: RecipeData | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the recipe's test tasks and return the record.

    Tasks are evaluated one by one, so that memory does not grow with their number. Several processes that were launched
    together share the tasks: every process returns the record, and the main process writes it.

    Args:
        checkpoint: Folder of a run, checkpoint, built-in name, or folder of one or several task adapters, which are
            scored on the tasks with their instructions.
        recipe: Recipe with the test tasks and evaluation settings.
        request: Conditions and tasks; by default the right instruction on all tasks.
        data: The recipe's tasks, if they are already loaded.
        out: Folder for `record.json`, the predictions of every condition, and the plot of distances.
        resume: Continue an interrupted evaluation in `out`. A finished one is not changed.
        progress: Show progress.
        extra: Further entries of the record.

    Raises `InputError` if a task lacks the wording, for more positives than the checkpoint was trained with, and for
    `held_out` if the recipe holds out no tasks.
    """
    request = request or EvaluationRequest()
    adapters = AdapterFolders.find(checkpoint)
    folder = find_checkpoint(checkpoint if adapters is None else str(next(iter(adapters.folders.values()))))
    revision = folder_revision(folder) if adapters is None else adapters.revision(folder_revision(folder))
    tasks, tested, identity = _tasks(folder, revision, data or RecipeData(recipe), request, adapters)
    _check_picture(folder, request, out)
    writes = is_main_process()
    with alone(out if writes else None):
        finished = of_main_process(claim(out, identity, resume) if out is not None and writes else None)
        if finished is not None:
            return finished
        method = load_method(folder).to(best_device()) if adapters is None else adapters.method()
        scorer = TaskScorer(method, tasks, scoring_of(recipe, tasks, request.split), out, progress, folder, shared=True)
        _warn_of_unknown(method, tasks)
        content = {
            "kind": "evaluation",
            "evaluation": identity,
            **(extra or {}),
            "checkpoint": checkpoint,
            "revision": revision,
            **_made_by(folder, adapters),
            "method": method.name,
            "partial": bool(request.tasks) or request.limit is not None or request.held_out,
            **({"held_out": True} if request.held_out else {}),
            "data": tested,
            **scorer.results(request.conditions, recipe.seed),
            **_adapters(method, tasks, request, out if writes else None, recipe.seed),
        }
        return write_record(out / RECORD, recipe, content) if out is not None and writes else content


def _check_picture(checkpoint: Path, request: EvaluationRequest, out: Path | None) -> None:
    if request.distances and out is not None and read_config(checkpoint)["method"] == TAGI.name:
        needs_matplotlib(f"{out / PICTURE}")


def _warn_of_unknown(method: Method, tasks: Sequence[Task]) -> None:
    if method.reads_instruction and is_main_process():
        warn_of_unknown(method.text.tokenizer, [task.instruction for task in tasks])


def _made_by(checkpoint: Path, adapters: AdapterFolders | None) -> dict[str, Any]:
    """Return how a checkpoint was trained, or how adapters were generated."""
    return {"trained": trained_by(checkpoint)} if adapters is None else {"trained": None, **adapters.record()}


def _tasks(
    checkpoint: Path, revision: str, read: RecipeData, request: EvaluationRequest, adapters: AdapterFolders | None
) -> tuple[list[Task], dict[str, Any], str]:
    """Return the tasks to evaluate, their entries in the record, and the identity of the evaluation."""
    recipe = read.recipe
    if request.held_out and not (recipe.data.validation_tasks or recipe.data.validation_categories):
        wanted = "expected a recipe with data.validation_categories or data.validation_tasks"
        raise InputError(f"--held-out: {wanted}, got neither")
    limit = request.limit or recipe.evaluation.limit
    loaded = read.tasks(request.split, shots=reads_shots(checkpoint))
    tasks, seen = select_tasks(loaded.tasks, request.tasks, limit), training_data(checkpoint)
    if adapters is not None:
        adapters.check(request.conditions)
        tasks = adapters.own_tasks(tasks)
    # The digest covers what is scored, not what is shown: evaluations with shots, examples, another wording or a
    # prompt's fields can be compared with others.
    digest = tasks_digest(as_prompted(replace(task, shots=())) for task in tasks)
    refined_on = None if adapters is None else adapters.seen()
    shared = shared_instances(tasks, seen, loaded.tasks) or shared_instances(tasks, refined_on)
    trained_on = refuse_shared(shared, tasks, recipe.data)
    tasks, told = _as_told(tasks, request, recipe, checkpoint)
    shown = tasks_digest(tasks, wordings="paraphrase" in request.conditions)  # it reads the tasks' wordings
    further: list[Any] = [*([told] if told else []), *(["held out"] if request.held_out else [])]
    settings = recipe.evaluation.model_dump(mode="json")
    identity = fingerprint(revision, shown, settings, request.conditions, request.distances, recipe.seed, *further)
    data = {
        **loaded.summary,
        "warning": loaded.warning,
        "digest": digest,
        "limit": limit,
        "tasks": len(tasks),
        "instances": sum(len(task.instances) for task in tasks),
        **trained_on,
        **told,
    }
    return tasks, data, identity


def validation_score(method: Method, tasks: Sequence[Task], recipe: Recipe) -> float:
    """Return the mean score in percent over held-out tasks with their own instruction.

    The score is the one of the recipe's evaluation: ROUGE-L, exact matches of toy tasks, or by tasks' own metrics.
    """
    scoring = scoring_of(recipe, tasks, "validation")
    (right,) = conditions(method, tasks, INSTRUCTIONS[:1])
    answers = TaskScorer(method, tasks, scoring).answers(right)
    summary = scoring.summarize(answers, scoring.scores(answers))
    return float(summary["overall"][summary["metric"]])


def scoring_of(recipe: Recipe, tasks: Sequence[Task], split: Split = "test") -> Scoring[Any]:
    """Return the scoring of the recipe's tasks, by default the usual one of their source.

    Tasks are scored by their own metrics if one of them names a metric. Held-out training tasks of P3 are scored by
    ROUGE, because not all are classification.
    """
    settings = recipe.evaluation
    metric = settings.metric or BY_NAME[recipe.data.source].metric
    if settings.metric is None and any(task.metric for task in tasks):
        metric = "task"
    if metric == "task":
        return TaskMetricScoring(settings.batch_size, settings.max_new_tokens, settings.num_beams)
    if metric == "rank" and (split == "test" or settings.metric):
        kind = P3RankScoring if recipe.data.source == "p3" else RankScoring
        return kind(settings.batch_size, settings.choice_score)
    return FreeFormScoring(
        "exact" if metric == "exact" else "rouge", settings.batch_size, settings.max_new_tokens, settings.num_beams
    )


def select_tasks(tasks: Sequence[Task], patterns: Sequence[str], limit: int | None) -> list[Task]:
    """Return the tasks whose names match a pattern (all without patterns), each with its first `limit` instances.

    Raises `InputError` for a pattern that matches no task.
    """
    for pattern in patterns:
        if not any(fnmatchcase(task.name, pattern) for task in tasks):
            raise InputError(f"--tasks: expected names or patterns of {len(tasks)} test tasks, got {pattern!r}")
    chosen = [task for task in tasks if not patterns or any(fnmatchcase(task.name, one) for one in patterns)]
    return [replace(task, instances=task.instances[:limit]) for task in chosen]


def in_wording(tasks: Sequence[Task], name: str) -> list[Task]:
    """Return the tasks with this wording as instruction. Raises `InputError` if a task lacks it."""
    for task in tasks:
        if name not in task.texts:
            raise InputError(f"--wording: task {task.name!r} has no wording {name!r}; it has {', '.join(task.texts)}")
    return [replace(task, instruction=task.texts[name]) for task in tasks]


def _as_told(
    tasks: list[Task], request: EvaluationRequest, recipe: Recipe, checkpoint: Path
) -> tuple[list[Task], dict[str, Any]]:
    """Return the tasks with the wording and number of examples for evaluation, and the record's entries on both.

    There are no entries if both are the default.
    """
    told: dict[str, Any] = {}
    if request.wording is not None:
        tasks = in_wording(tasks, request.wording)
        told["wording"] = request.wording
    usual = None if recipe.data.demonstrations is None else 0
    positives = usual if request.positives is None else request.positives
    if positives is not None:
        text = read_config(checkpoint)["text"]
        most = text.get("positives", 0) if isinstance(text, dict) else 0
        if positives > most:
            raise InputError(f"--positives: this checkpoint shows at most {most} examples of a task, got {positives}")
        tasks = [replace(task, examples=task.examples[:positives]) for task in tasks]
        told["positives"] = positives
    return tasks, told


@dataclass(frozen=True)
class TaskScorer:
    """A method's scores on tasks.

    Args:
        method: The method to score.
        tasks: The tasks.
        scoring: How answers are scored.
        out: Folder that stores the answers of finished tasks, or None.
        progress: Show progress.
        folder: The method's checkpoint, if it has one.
        shared: Distribute the tasks over the processes that were launched together.
    """

    method: Method
    tasks: Sequence[Task]
    scoring: Scoring[Any]
    out: Path | None = None
    progress: bool = False
    folder: Path | None = None
    shared: bool = False

    def results(self, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Return scores by condition, tasks left out if any, and the difference from `right` on the same instances."""
        results: dict[str, dict[str, Any]] = {}
        values: dict[str, ByTask] = {}
        for task in self.tasks:
            check_instances(task)
        stock = partial(stock_model, self.method, self.folder)
        for condition in conditions(self.method, self.tasks, names, seed=seed, stock=stock):
            answers = self.answers(condition)
            scores = self.scoring.scores(answers)
            covered = condition.covered(self.tasks)
            left_out = [task.name for index, task in enumerate(self.tasks) if index not in covered]
            results[condition.name] = {
                "given": condition.given,
                **({"left_out": left_out} if left_out else {}),
                **self.scoring.summarize(answers, scores),
            }
            tasks = [self.tasks[index] for index in covered]
            values[condition.name] = self.scoring.paired_values(next(iter(scores.values())), tasks)
        right = values.get(INSTRUCTIONS[0])
        for name, own in values.items():
            if right is not None and own is not right and own.keys() <= right.keys():
                results[name]["minus_right"] = paired_difference(own, right)
        return {
            "results": results,
            **self.scoring.baseline(self.tasks),
            "not_scored": [name for name in names if name not in results],
        }

    def answers(self, condition: Condition) -> list[Any]:
        """Return the answers to every instance under a condition."""
        sizes = {task.name: len(task.instances) for task in self.tasks}
        writes = self.out is not None and is_main_process()
        log = TaskLog(self.out / predictions_file(condition.name), sizes) if self.out is not None and writes else None
        covered = [self.tasks[index] for index in condition.covered(self.tasks)]
        kept = {} if log is None else {task.name: kept_answers(log, task) for task in covered if task.name in log}
        found: dict[str, Sequence[Any]] = of_main_process(kept) if self.shared else kept
        numbers = {task.name: index for index, task in enumerate(self.tasks)}
        left = [task for task in covered if task.name not in found]
        shown, total = self.progress and is_main_process(), sum(sizes[task.name] for task in covered)
        with counting(condition.name, total, shown) as advance:
            advance(sum(map(len, found.values())))

            def ask(task: Task) -> list[Any]:
                method = condition.method or self.method
                return self.scoring.ask(method, condition.prepare(numbers[task.name]), task, advance)

            for task, own in shared_among_processes(ask, left) if self.shared else ((one, ask(one)) for one in left):
                if log is not None:
                    log.append(task.name, [one.as_line() for one in own])
                found[task.name] = own
        return [one for task in covered for one in found[task.name]]


def _adapters(
    method: Method, tasks: Sequence[Task], request: EvaluationRequest, out: Path | None, seed: int
) -> dict[str, Any]:
    """Return the relative variance of the tasks' updates, and with `distances` all distances between them.

    Returns nothing for methods and modules other than LoRA.
    """
    generator = method.generator_model
    if generator is None or generator.settings.module != "lora":
        return {"delta_variance": None}
    bank = as_lora(generated_updates(method, tasks), "distances")
    found: dict[str, Any] = {"delta_variance": delta_variance(bank)}
    if request.distances:
        found["adapters"] = adapter_report(bank, tasks, seed)
        if out is not None:
            draw_adapters(out / PICTURE, np.array(found["adapters"]["distances"]), found["adapters"]["categories"])
    return found
