"""Scoring by each task's own metric: the share of right answers, and ROUGE-L where there is no single right answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Final

import numpy as np

from tagi.data.task import HEADLINES, Metric, Task
from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Advance, Answer, task_rows
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tagi.evaluation.scoring.metrics import TASK_SCORES, exact, exact_accuracy, rouge_reads
from tagi.evaluation.scoring.statistics import ByTask, FloatArray, bootstrap_interval, group_by, task_means
from tagi.methods.protocol import Method

RIGHT = "right"
"""Share of right answers, in percent: over tasks of every metric but ROUGE-L."""
ROUGE_L: Final = "rouge_l"
ROUGE_L_UNICODE: Final = "rouge_l_unicode"
_EXACT_WORDS = 3
_ROUGE_CANDIDATES = 50


def metric_of(task: Task) -> Metric:
    """Return a task's own metric, or else one that suits its references.

    A task without its own metric gets the first of these that applies:

    - `choice`: all instances have choices.
    - `json`: all references are objects or lists in JSON.
    - `exact_case`: for all instances, or for some if all references have at most three words, an answer that repeats
      the input would be right by `exact` although it differs from the reference. Such a task is about case or about
      a full stop.
    - `exact`: all references have at most three words.
    - `rouge_l_unicode`: any other task.
    """
    if task.metric is not None:
        return task.metric
    if all(instance.choices for instance in task.instances):
        return "choice"
    references = [output for instance in task.instances for output in instance.outputs]
    if all(map(_is_json, references)):
        return "json"
    short = all(len(output.split()) <= _EXACT_WORDS for output in references)
    repeated = [exact(one.input, one.outputs) > exact_accuracy(one.input, one.outputs) for one in task.instances]
    if all(repeated) or (short and any(repeated)):
        return "exact_case"
    return "exact" if short else ROUGE_L_UNICODE


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


class TaskMetricScoring(FreeFormScoring):
    """Generated answers, each scored by its task's metric (`metric_of`).

    Args:
        batch_size: Batch size.
        max_new_tokens: Maximum length of an answer in tokens.
        num_beams: Number of beams; 1 is greedy decoding.
    """

    def __init__(self, batch_size: int, max_new_tokens: int, num_beams: int = 1) -> None:
        super().__init__("exact", batch_size, max_new_tokens, num_beams)

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[Answer]:
        """Return the method's answers to all instances of a task, in order.

        Raises `DataError` for references that the task's metric cannot score, before anything is generated.
        """
        metric = checked_metric(task)
        return [replace(answer, metric=metric) for answer in super().ask(method, states, task, advance)]

    def scores(self, answers: Sequence[Answer]) -> dict[str, FloatArray]:
        """Return each of `HEADLINES` for every answer, in percent; NaN if the answer's task does not use it.

        Scores that no task uses are left out. The first is the headline: `right`, unless all tasks are scored by
        ROUGE-L.
        """
        scores = {name: np.full(len(answers), np.nan) for name in HEADLINES}
        for index, answer in enumerate(answers):
            scores[_score_name(answer)][index] = 100 * _score(answer)
        return {name: values for name, values in scores.items() if not np.isnan(values).all()}

    def summarize(self, answers: Sequence[Answer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return the unweighted means over tasks, and a row for each task.

        `overall` has each of `HEADLINES` in percent, `intervals` their 95% intervals (tasks are resampled) and
        `counts` the numbers of tasks and answers of each. `interval` and `per_task` are those of the headline
        `metric`. `per_category` has means over the tasks of a category. `tasks` has for every task its metric, the
        number of answers `n`, its score and one sample answer.
        """
        if not answers:
            raise DataError("expected answers to score, got none")
        headline = next(iter(scores))
        rows = _task_rows(answers, scores)
        counted = {name: [row for row in rows if row["counts_for"] == name] for name in scores}
        intervals = {name: list(bootstrap_interval([row["score"] for row in own])) for name, own in counted.items()}
        return {
            "n": len(answers),
            "metric": headline,
            "interval": intervals[headline],
            "overall": {name: _mean_score(own) for name, own in counted.items()},
            "intervals": intervals,
            "counts": {
                name: {"tasks": len(own), "answers": sum(row["n"] for row in own)} for name, own in counted.items()
            },
            "per_category": {
                category: {name: _mean_score(of) for name, of in group_by(own, itemgetter("counts_for")).items()}
                for category, own in group_by(rows, itemgetter("category")).items()
            },
            "per_task": {row["task"]: {headline: row["score"]} for row in counted[headline]},
            "tasks": [{key: value for key, value in row.items() if key != "counts_for"} for row in rows],
        }

    def paired_values(self, values: FloatArray, tasks: Sequence[Task]) -> ByTask:
        """Return one value for each task, its mean."""
        return task_means(super().paired_values(values, tasks))

    def baseline(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return the scores of the best constant answers and of the unchanged inputs."""
        return {"best_constant": best_constant(tasks), "unchanged_input": unchanged_input(tasks)}


def checked_metric(task: Task) -> Metric:
    """Return `metric_of` the task.

    Raises `DataError`, with the instance, if the metric cannot score against one of the task's references.
    """
    metric = metric_of(task)
    for instance in task.instances:
        try:
            TASK_SCORES[metric]("", instance.outputs)
            if metric == ROUGE_L and not any(map(rouge_reads, instance.outputs)):
                wanted = "expected a reference in the letters a to z and digits, which is all that it reads"
                raise DataError(f"{wanted}, got {instance.outputs[0]!r:.60}: use {ROUGE_L_UNICODE!r}")
        except DataError as error:
            raise DataError(f"task {task.name!r}: instance {instance.id!r}: metric {metric!r}: {error}") from error
    return metric


def best_constant(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the scores of every task's best constant answer, in the form of `TaskMetricScoring.summarize`.

    This is the reference that scores best if it is given to all instances of the task (the first in a tie): the best
    score without reading the inputs, for someone who knows the references. For ROUGE-L, the first 50 distinct
    references are tried.
    """
    answers = [answer for task in tasks for answer in _constant_answers(task)]
    return _without_model("for each task the one answer that scores best on its own references", answers)


def unchanged_input(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the scores of the inputs as answers, in the form of `TaskMetricScoring.summarize`.

    If this score is high, the metric says little about whether the task was done.
    """
    answers = [
        Answer(task.name, task.category, one.id, one.input, one.outputs, one.input, checked_metric(task))
        for task in tasks
        for one in task.instances
    ]
    return _without_model("every input, unchanged", answers)


def _without_model(given: str, answers: Sequence[Answer]) -> dict[str, Any]:
    scoring = TaskMetricScoring(batch_size=1, max_new_tokens=1)
    return {"given": given, **scoring.summarize(answers, scoring.scores(answers))}


def _constant_answers(task: Task) -> list[Answer]:
    metric = checked_metric(task)
    candidates = list(dict.fromkeys(output for instance in task.instances for output in instance.outputs))
    if metric in (ROUGE_L, ROUGE_L_UNICODE):
        candidates = candidates[:_ROUGE_CANDIDATES]
    score = TASK_SCORES[metric]
    best = max(candidates, key=lambda answer: sum(score(answer, instance.outputs) for instance in task.instances))
    return [
        Answer(task.name, task.category, instance.id, instance.prompt, instance.outputs, best, metric)
        for instance in task.instances
    ]


def _score_name(answer: Answer) -> str:
    return str(answer.metric) if answer.metric in HEADLINES else RIGHT


def _score(answer: Answer) -> float:
    if answer.metric is None:
        raise DataError(f"task {answer.task!r}: expected answers with the task's metric, got one without")
    return TASK_SCORES[answer.metric](answer.prediction, answer.references)


def _task_rows(answers: Sequence[Answer], scores: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    """Return a row for each task, in order. `counts_for` names the mean that the task is part of."""
    counted = {answer.task: _score_name(answer) for answer in answers}
    rows = task_rows(answers, [scores[_score_name(answer)][at] for at, answer in enumerate(answers)])
    return [{**row, "counts_for": counted[row["task"]]} for row in rows]


def _mean_score(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row["score"] for row in rows]))
