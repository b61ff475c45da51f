"""Scoring by each task's own metric: the share of right answers, and ROUGE-L where there is no single right answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from tagi.data.task import Task
from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Advance, Answer
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tagi.evaluation.scoring.metrics import TASK_SCORES
from tagi.evaluation.scoring.statistics import ByTask, FloatArray, bootstrap_interval, group_by, task_means
from tagi.methods.protocol import Method

RIGHT = "right"
"""Share of right answers, in percent: over tasks of every metric but ROUGE-L."""
ROUGE_L = "rouge_l"
_EXACT_WORDS = 3
_ROUGE_CANDIDATES = 50


def metric_of(task: Task) -> str:
    """Return the metric that a task is scored by: its own, else one that fits its references.

    Without a metric of its own, a task whose instances all have choices is scored by `choice`, one whose references
    all have at most three words by `exact`, any other by `rouge_l`.
    """
    if task.metric is not None:
        return task.metric
    if all(instance.choices for instance in task.instances):
        return "choice"
    references = [output for instance in task.instances for output in instance.outputs]
    return "exact" if all(len(output.split()) <= _EXACT_WORDS for output in references) else ROUGE_L


class TaskMetricScoring(FreeFormScoring):
    """Answers generated greedily, each scored by its task's own metric (`metric_of`).

    Args:
        batch_size: Inputs that are answered at once.
        max_new_tokens: Length limit of an answer, in tokens.
    """

    def __init__(self, batch_size: int, max_new_tokens: int) -> None:
        super().__init__("exact", batch_size, max_new_tokens)

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[Answer]:
        """Return the method's answers to all instances of a task, in order.

        Raises `DataError` for references that the task's metric cannot score, before anything is generated.
        """
        metric = checked_metric(task)
        return [replace(answer, metric=metric) for answer in super().ask(method, states, task, advance)]

    def scores(self, answers: Sequence[Answer]) -> dict[str, FloatArray]:
        """Return `right` and `rouge_l` of every answer, in percent: NaN where a task is scored by the other one.

        A score that no task has is left out. The first is the headline: `right`, unless every task is scored by
        ROUGE-L.
        """
        scores = {name: np.full(len(answers), np.nan) for name in (RIGHT, ROUGE_L)}
        for index, answer in enumerate(answers):
            scores[_score_name(answer)][index] = 100 * _score(answer)
        return {name: values for name, values in scores.items() if not np.isnan(values).all()}

    def summarize(self, answers: Sequence[Answer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return the means over tasks, each task counting the same, and a row for each task.

        `overall` has `right` and `rouge_l` in percent, `intervals` their 95% intervals (tasks are resampled) and
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
        """Return the best constant answers and their scores."""
        return {"best_constant": best_constant(tasks)}


def checked_metric(task: Task) -> str:
    """Return `metric_of` the task.

    Raises `DataError`, naming the instance, if the metric cannot score against one of the task's references.
    """
    metric = metric_of(task)
    for instance in task.instances:
        try:
            TASK_SCORES[metric]("", instance.outputs)
        except DataError as error:
            raise DataError(f"task {task.name!r}: instance {instance.id!r}: metric {metric!r}: {error}") from error
    return metric


def best_constant(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what the best constant answer of every task scores, in the form of `TaskMetricScoring.summarize`.

    For each task it is the one of its references that scores best if given to every instance (of equal ones the
    first): what can be had without reading the inputs, by someone who knows the references. For ROUGE-L the first 50
    different references are tried.
    """
    answers = [answer for task in tasks for answer in _constant_answers(task)]
    scoring = TaskMetricScoring(batch_size=1, max_new_tokens=1)
    given = "for each task the one answer that scores best on its own references"
    return {"given": given, **scoring.summarize(answers, scoring.scores(answers))}


def _constant_answers(task: Task) -> list[Answer]:
    metric = checked_metric(task)
    candidates = list(dict.fromkeys(output for instance in task.instances for output in instance.outputs))
    if metric == ROUGE_L:
        candidates = candidates[:_ROUGE_CANDIDATES]
    score = TASK_SCORES[metric]
    best = max(candidates, key=lambda answer: sum(score(answer, instance.outputs) for instance in task.instances))
    return [
        Answer(task.name, task.category, instance.id, instance.prompt, instance.outputs, best, metric)
        for instance in task.instances
    ]


def _score_name(answer: Answer) -> str:
    return ROUGE_L if answer.metric == ROUGE_L else RIGHT


def _score(answer: Answer) -> float:
    if answer.metric is None:
        raise DataError(f"task {answer.task!r}: expected answers with the task's metric, got one without")
    return TASK_SCORES[answer.metric](answer.prediction, answer.references)


def _task_rows(answers: Sequence[Answer], scores: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    """A row for each task, in order; `counts_for` names the mean that it is part of."""
    rows = []
    for task, indices in group_by(range(len(answers)), lambda index: answers[index].task).items():
        sample = answers[indices[0]]
        values = scores[_score_name(sample)][indices]
        rows.append(
            {
                "task": task,
                "category": sample.category,
                "metric": sample.metric,
                "n": len(indices),
                "score": float(values.mean()),
                "sample": {
                    "input": sample.input,
                    "references": list(sample.references),
                    "answer": sample.prediction,
                    "score": float(values[0]),
                },
                "counts_for": _score_name(sample),
            }
        )
    return rows


def _mean_score(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row["score"] for row in rows]))
