"""Rank classification: the most likely choice, for any method and task."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from tagi.backbones.protocol import Reduction
from tagi.data.task import Instance, Task
from tagi.errors import CheckpointError, DataError
from tagi.evaluation.scoring.answers import Advance, RankedAnswer, ask_in_batches, task_rows
from tagi.evaluation.scoring.free_form import Scoring
from tagi.evaluation.scoring.statistics import FloatArray, bootstrap_interval, group_by, resampled_means
from tagi.methods.protocol import Method


@dataclass(frozen=True)
class RankScoring(Scoring[RankedAnswer]):
    """Ranks the choices of every instance by their log-probability, including the end-of-sequence token.

    Args:
        batch_size: Number of inputs whose choices are scored together.
        reduction: `sum` as in T0 and FiD-ICL, or `mean` per token as in TAGI's code.
    """

    batch_size: int
    reduction: Reduction = "sum"

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[RankedAnswer]:
        """Return the ranked choices. Duplicate choices are merged.

        Raises `DataError`, with the instance, for fewer than two distinct choices or if none is right, and
        `CheckpointError` for a score that is not finite.
        """
        inputs = [method.input_of(instance) for instance in task.instances]
        choices = [_choices(task, instance) for instance in task.instances]

        def score(batch: list[int]) -> list[list[float]]:
            return method.score_choices(
                states,
                torch.zeros(len(batch), dtype=torch.long),
                [inputs[index] for index in batch],
                [choices[index] for index in batch],
                reduction=self.reduction,
                truncate=True,
            )

        scores = ask_in_batches(inputs, self.batch_size, score, advance)
        return [_ranked(task, *given) for given in zip(task.instances, choices, scores, strict=True)]

    def scores(self, answers: Sequence[RankedAnswer]) -> dict[str, FloatArray]:
        """Return the `accuracy`: 100 where a right choice is predicted."""
        return {"accuracy": np.array([100.0 * answer.correct for answer in answers])}

    def summarize(self, answers: Sequence[RankedAnswer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return accuracies in percent with 95% intervals, and the number of ties.

        A task is one prompt of a data set, and the data set is its category. `per_task` has the mean over a task's
        instances, and `per_category` the unweighted mean over its tasks. `overall` is the mean over all instances;
        its `interval` resamples tasks with all their instances. `intervals` has those per task, resampling
        instances, and per category, resampling examples with all their prompts (instances with the same id). `ties`
        are counted overall and in `ties_per_task`. `tasks` has a row for each task (`task_rows`).

        Raises `DataError` without answers.
        """
        if not answers:
            raise DataError("expected ranked answers to summarize, got none")
        tasks: dict[str, list[RankedAnswer]] = group_by(answers, attrgetter("task"))
        categories: dict[str, list[RankedAnswer]] = group_by(answers, attrgetter("category"))
        weights = {name: 1 / len(own) for name, own in tasks.items()}
        overall, interval = _mean(answers, [answer.task for answer in answers])
        groups = {
            "per_task": {name: _mean(own, range(len(own))) for name, own in tasks.items()},
            "per_category": {
                name: _mean(own, [answer.id for answer in own], [weights[answer.task] for answer in own])
                for name, own in categories.items()
            },
        }
        return {
            "n": len(answers),
            "metric": "accuracy",
            "interval": interval,
            "overall": {"accuracy": overall},
            **{by: {name: {"accuracy": mean} for name, (mean, _) in found.items()} for by, found in groups.items()},
            "intervals": {by: {name: own for name, (_, own) in found.items()} for by, found in groups.items()},
            "prompts": {name: len({answer.task for answer in own}) for name, own in categories.items()},
            "ties": sum(answer.tied for answer in answers),
            "ties_per_task": {name: sum(answer.tied for answer in own) for name, own in tasks.items()},
            "choice_score": self.reduction,
            "tasks": task_rows(answers, self.scores(answers)["accuracy"].tolist(), "accuracy"),
        }


def category_resamples(answers: Sequence[RankedAnswer]) -> dict[str, FloatArray]:
    """Return bootstrap resamples of every category's (data set's) accuracy in percent, over its examples.

    Prompts are kept. Categories are resampled independently, so the means over categories at index i are resamples of
    their mean.
    """
    sizes = {name: len(own) for name, own in group_by(answers, attrgetter("task")).items()}
    return {
        name: resampled_means(
            [100.0 * answer.correct for answer in own],
            [answer.id for answer in own],
            weights=[1 / sizes[answer.task] for answer in own],
            seed=seed,
        )
        for seed, (name, own) in enumerate(group_by(answers, attrgetter("category")).items())
    }


def _choices(task: Task, instance: Instance) -> tuple[str, ...]:
    """Return the distinct choices of an instance, one of which must be right."""
    where = f"task {task.name!r}: instance {instance.id!r}"
    choices = tuple(dict.fromkeys(instance.choices or ()))
    if len(choices) < 2:
        raise DataError(f"{where}: expected at least 2 different choices, got {len(choices)}")
    if not _right(instance, choices):
        raise DataError(f"{where}: expected one of the choices as output, got {instance.outputs[0]!r}")
    return choices


def _right(instance: Instance, choices: Sequence[str]) -> tuple[int, ...]:
    outputs = {output.strip() for output in instance.outputs}
    return tuple(index for index, choice in enumerate(choices) if choice.strip() in outputs)


def _ranked(task: Task, instance: Instance, choices: tuple[str, ...], scores: Sequence[float]) -> RankedAnswer:
    if not all(map(math.isfinite, scores)):
        where = f"task {task.name!r}: instance {instance.id!r}"
        raise CheckpointError(f"{where}: expected finite log-probabilities of its choices, got {list(scores)}")
    best = max(scores)
    predicted, tied = scores.index(best), scores.count(best) > 1
    of = (task.name, task.category, instance.id, instance.prompt)
    return RankedAnswer(*of, choices, tuple(scores), _right(instance, choices), predicted, tied, choices[predicted])


def _mean(
    answers: Sequence[RankedAnswer], clusters: Sequence[Hashable], weights: Sequence[float] | None = None
) -> tuple[float, list[float]]:
    """Return the weighted accuracy in percent, and its interval if `clusters` are resampled."""
    hits = np.array([100.0 * answer.correct for answer in answers])
    return float(np.average(hits, weights=weights)), list(bootstrap_interval(hits, clusters, weights=weights))
