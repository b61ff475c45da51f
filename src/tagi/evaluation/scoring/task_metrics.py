"""Scoring by each task's own metric: the share of right answers, and ROUGE-L where there is no single right answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tagi.data.task import Task
from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Answer, answer_task
from tagi.evaluation.scoring.free_form import Advance
from tagi.evaluation.scoring.metrics import TASK_SCORES, FloatArray, bootstrap_interval
from tagi.methods.protocol import Method

RIGHT = "right"
"""Share of right answers, in percent: over tasks of every metric but ROUGE-L."""
ROUGE_L = "rouge_l"
CONSTANT = "best constant answer"
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


@dataclass(frozen=True)
class ByTaskMetric:
    """Answers generated greedily, each scored by its task's own metric (`metric_of`).

    Args:
        batch_size: Inputs that are answered at once.
        max_new_tokens: Length limit of an answer, in tokens.
    """

    batch_size: int
    max_new_tokens: int

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[Answer]:
        """Return the method's answers to all instances of a task, in order.

        Raises `DataError` for references that the task's metric cannot score, before anything is generated.
        """
        metric = metric_of(task)
        check_references(task, metric)
        answers = answer_task(
            method, states, task, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens, advance=advance
        )
        return [replace(answer, metric=metric) for answer in answers]

    def read(self, line: Mapping[str, Any]) -> Answer:
        """Return an answer from a line of a predictions file."""
        return Answer.from_line(line)

    def scores(self, given: Sequence[Answer]) -> dict[str, FloatArray]:
        """Return `right` and `rouge_l` of every answer, in percent: NaN where a task is scored by the other one.

        A score that no task has is left out. The first is the headline: `right`, unless every task is scored by
        ROUGE-L.
        """
        scores = {name: np.full(len(given), np.nan) for name in (RIGHT, ROUGE_L)}
        for index, answer in enumerate(given):
            scores[_score_name(answer)][index] = 100 * _score(answer)
        return {name: values for name, values in scores.items() if not np.isnan(values).all()}

    def summarize(self, given: Sequence[Answer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return the means over tasks, each task counting the same, and a row for each task.

        `overall` has `right` and `rouge_l` in percent, `intervals` their 95% intervals (tasks are resampled) and
        `counts` the numbers of tasks and answers of each. `interval` and `per_task` are those of the headline
        `metric`. `per_category` has means over the tasks of a category. `tasks` has for every task its metric, the
        number of answers `n`, its score and one sample answer.
        """
        if not given:
            raise DataError("expected answers to score, got none")
        headline = next(iter(scores))
        rows = _task_rows(given, scores)
        means = {name: [row["score"] for row in rows if row["counts_for"] == name] for name in scores}
        intervals = {name: list(bootstrap_interval(values, seed=0)) for name, values in means.items()}
        categories: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            categories.setdefault(row["category"], {}).setdefault(row["counts_for"], []).append(row["score"])
        return {
            "n": len(given),
            "metric": headline,
            "interval": intervals[headline],
            "overall": {name: float(np.mean(values)) for name, values in means.items()},
            "intervals": intervals,
            "counts": {
                name: {"tasks": len(values), "answers": sum(row["n"] for row in rows if row["counts_for"] == name)}
                for name, values in means.items()
            },
            "per_category": {
                category: {name: float(np.mean(values)) for name, values in own.items()}
                for category, own in categories.items()
            },
            "per_task": {row["task"]: {headline: row["score"]} for row in rows if row["counts_for"] == headline},
            "tasks": [{key: value for key, value in row.items() if key != "counts_for"} for row in rows],
        }


def check_references(task: Task, metric: str) -> None:
    """Raise `DataError`, naming the instance, if the metric cannot score against one of the task's references."""
    for instance in task.instances:
        try:
            TASK_SCORES[metric]("", instance.outputs)
        except DataError as error:
            raise DataError(f"task {task.name!r}: instance {instance.id!r}: metric {metric!r}: {error}") from error


def best_constant(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what the best constant answer of every task scores, in the form of `ByTaskMetric.summarize`.

    For each task it is the one of its references that scores best if given to every instance (of equal ones the
    first): what can be had without reading the inputs, by someone who knows the references. For ROUGE-L the first 50
    different references are tried.
    """
    answers = [answer for task in tasks for answer in _constant_answers(task)]
    scoring = ByTaskMetric(batch_size=1, max_new_tokens=1)
    given = "for each task the one answer that scores best on its own references"
    return {"given": given, **scoring.summarize(answers, scoring.scores(answers))}


def _constant_answers(task: Task) -> list[Answer]:
    metric = metric_of(task)
    check_references(task, metric)
    candidates = list(dict.fromkeys(output for instance in task.instances for output in instance.outputs))
    if metric == ROUGE_L:
        candidates = candidates[:_ROUGE_CANDIDATES]
    score = TASK_SCORES[metric]
    best = max(candidates, key=lambda answer: sum(score(answer, instance.outputs) for instance in task.instances))
    return [
        Answer(task.name, task.category, instance.id, instance.input, instance.outputs, best, metric)
        for instance in task.instances
    ]


def _score_name(answer: Answer) -> str:
    return ROUGE_L if answer.metric == ROUGE_L else RIGHT


def _score(answer: Answer) -> float:
    if answer.metric is None:
        raise DataError(f"task {answer.task!r}: expected answers with the task's metric, got one without")
    return TASK_SCORES[answer.metric](answer.prediction, answer.references)


def _task_rows(given: Sequence[Answer], scores: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    """A row for each task, in order; `counts_for` names the mean that it is part of."""
    members: dict[str, list[int]] = {}
    for index, answer in enumerate(given):
        members.setdefault(answer.task, []).append(index)
    rows = []
    for task, indices in members.items():
        sample = given[indices[0]]
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
