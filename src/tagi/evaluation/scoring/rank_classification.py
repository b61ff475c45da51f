"""Rank classification: which of its choices a method holds most likely, for any method and task."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from tagi.backbones.protocol import Reduction
from tagi.data.task import Instance, Task
from tagi.errors import CheckpointError, DataError
from tagi.evaluation.scoring.answers import by_length
from tagi.evaluation.scoring.free_form import Advance
from tagi.evaluation.scoring.metrics import FloatArray, clustered_bootstrap_interval, clustered_resamples
from tagi.methods.protocol import Method


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One ranked instance.

    `choices` are the different ones, `scores` their log-probabilities, `right` and `predicted` indices into
    them. `tied`: several have the largest score, and the first of them is predicted.
    """

    task: str
    category: str
    id: str
    input: str
    choices: tuple[str, ...]
    scores: tuple[float, ...]
    right: tuple[int, ...]
    predicted: int
    tied: bool
    prediction: str

    @property
    def correct(self) -> bool:
        """Whether a right choice is predicted."""
        return self.predicted in self.right

    def as_line(self) -> dict[str, Any]:
        """For JSON Lines; `id`, `prediction`, `task_id` and `task_category` are named as answers in words name them."""
        line = asdict(self)
        return {"task_id": line.pop("task"), "task_category": line.pop("category"), **line}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "RankedAnswer":
        """The inverse of `as_line`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in line.items()
        }
        return cls(task=fields.pop("task_id"), category=fields.pop("task_category"), **fields)


@dataclass(frozen=True)
class ByRank:
    """Rank classification as a way of scoring: the choice that the method holds most likely."""

    batch_size: int
    reduction: Reduction = "sum"

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[RankedAnswer]:
        """The choices of every instance ranked, in order."""
        return rank_task(method, states, task, batch_size=self.batch_size, reduction=self.reduction, advance=advance)

    def read(self, line: Mapping[str, Any]) -> RankedAnswer:
        """A ranked answer from a file."""
        return RankedAnswer.from_line(line)

    def scores(self, given: Sequence[RankedAnswer]) -> dict[str, FloatArray]:
        """Whether a right choice was predicted."""
        return {"accuracy": np.array([100.0 * answer.correct for answer in given])}

    def summarize(self, given: Sequence[RankedAnswer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Accuracies with intervals and ties, and how choices were scored."""
        return {**summarize_ranking(given), "choice_score": self.reduction}


def rank_task(
    method: Method,
    states: Any,
    task: Task,
    *,
    batch_size: int,
    reduction: Reduction,
    advance: Advance | None = None,
) -> list[RankedAnswer]:
    """Ranks the choices of every instance of one task, in order; `states` are of this task alone.

    A choice is scored by its log-probability, end of sequence included: `reduction` "sum" as in T0 and FiD-ICL,
    "mean" per token as in TAGI's code. Choices that are the same text are one. Batches go by length of the
    input, and of each the method scores all choices at once. `advance` hears of each batch's size.

    Raises `DataError` naming the instance that has no two different choices or no right one among them, and
    `CheckpointError` on a score that is not a number.
    """
    places = [(instance, *_choices(task, instance)) for instance in task.instances]
    answers: dict[int, RankedAnswer] = {}
    for batch in by_length([instance.input for instance, *_ in places], batch_size):
        scores = method.score_choices(
            states,
            torch.zeros(len(batch), dtype=torch.long),
            [places[index][0].input for index in batch],
            [places[index][1] for index in batch],
            reduction=reduction,
            truncate=True,
        )
        for index, row in zip(batch, scores, strict=True):
            answers[index] = _ranked(task, *places[index], tuple(row))
        if advance is not None:
            advance(len(batch))
    return [answers[index] for index in range(len(places))]


def summarize_ranking(answers: Sequence[RankedAnswer]) -> dict[str, Any]:
    """Accuracy in percent with 95% intervals, and how many answers are ties.

    Means over instances are `overall` and `per_task` (prompt); `per_category` (data set) is the mean over its
    prompts, each counting the same. The overall `interval` resamples prompts, each with all its instances;
    `intervals` hold those per task, of its instances, and per category, of its examples, each drawn with all
    prompts that have it: instances of one id. `ties` are counted overall and in `ties_per_task`.

    Raises `DataError` on no answers.
    """
    if not answers:
        raise DataError("expected ranked answers to summarize, got none")
    tasks = _grouped(answers, lambda answer: answer.task)
    categories = _grouped(answers, lambda answer: answer.category)
    per_task = {name: _mean(own, [1.0] * len(own), range(len(own))) for name, own in tasks.items()}
    weights = {name: 1 / len(own) for name, own in tasks.items()}
    per_category = {
        name: _mean(own, [weights[answer.task] for answer in own], [answer.id for answer in own])
        for name, own in categories.items()
    }
    overall, interval = _mean(answers, [1.0] * len(answers), [answer.task for answer in answers])
    return {
        "n": len(answers),
        "metric": "accuracy",
        "interval": interval,
        "overall": {"accuracy": overall},
        "per_task": {name: {"accuracy": mean} for name, (mean, _) in per_task.items()},
        "per_category": {name: {"accuracy": mean} for name, (mean, _) in per_category.items()},
        "intervals": {
            "per_task": {name: found for name, (_, found) in per_task.items()},
            "per_category": {name: found for name, (_, found) in per_category.items()},
        },
        "prompts": {name: len({answer.task for answer in own}) for name, own in categories.items()},
        "ties": sum(answer.tied for answer in answers),
        "ties_per_task": {name: sum(answer.tied for answer in own) for name, own in tasks.items()},
    }


def category_resamples(answers: Sequence[RankedAnswer]) -> dict[str, FloatArray]:
    """A thousand resamples of every category's (data set's) accuracy in percent: its examples drawn, prompts kept.

    Categories are drawn apart: means of them over resample i are resamples of their mean.
    """
    sizes = {name: len(own) for name, own in _grouped(answers, lambda answer: answer.task).items()}
    return {
        name: clustered_resamples(
            [100.0 * answer.correct for answer in own],
            [answer.id for answer in own],
            seed=seed,
            weights=[1 / sizes[answer.task] for answer in own],
        )
        for seed, (name, own) in enumerate(_grouped(answers, lambda answer: answer.category).items())
    }


def _choices(task: Task, instance: Instance) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The different choices of an instance, and which of them are right."""
    where = f"task {task.name!r}: instance {instance.id!r}"
    choices = tuple(dict.fromkeys(instance.choices or ()))
    if len(choices) < 2:
        raise DataError(f"{where}: expected at least 2 different choices, got {len(choices)}")
    outputs = {output.strip() for output in instance.outputs}
    right = tuple(index for index, choice in enumerate(choices) if choice.strip() in outputs)
    if not right:
        raise DataError(f"{where}: expected one of the choices as output, got {instance.outputs[0]!r}")
    return choices, right


def _ranked(
    task: Task, instance: Instance, choices: tuple[str, ...], right: tuple[int, ...], scores: tuple[float, ...]
) -> RankedAnswer:
    if not all(map(math.isfinite, scores)):
        where = f"task {task.name!r}: instance {instance.id!r}"
        raise CheckpointError(f"{where}: expected finite log-probabilities of its choices, got {list(scores)}")
    best = max(scores)
    predicted = scores.index(best)
    return RankedAnswer(
        task=task.name,
        category=task.category,
        id=instance.id,
        input=instance.input,
        choices=choices,
        scores=scores,
        right=right,
        predicted=predicted,
        tied=scores.count(best) > 1,
        prediction=choices[predicted],
    )


def _mean(
    answers: Sequence[RankedAnswer], weights: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, list[float]]:
    """Accuracy in percent, weighted, and its interval when `clusters` are drawn."""
    hits = np.array([100.0 * answer.correct for answer in answers])
    interval = clustered_bootstrap_interval(hits, clusters, seed=0, weights=weights)
    return float(np.average(hits, weights=weights)), list(interval)


def _grouped(answers: Sequence[RankedAnswer], key: Callable[[RankedAnswer], str]) -> dict[str, list[RankedAnswer]]:
    groups: dict[str, list[RankedAnswer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups
