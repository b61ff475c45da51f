"""Free-form generation: answers that a method generates, scored by exact accuracy or as Tk-Instruct scores them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch

from tagi.data.task import Task
from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Advance, Answer, RankedAnswer, ask_in_batches, task_rows
from tagi.evaluation.scoring.metrics import METRICS, exact_accuracy, instruct_scores, rouge_reads
from tagi.evaluation.scoring.statistics import ByTask, FloatArray, bootstrap_interval, by_task, group_means, means
from tagi.methods.protocol import Method

A = TypeVar("A", Answer, RankedAnswer)
Metric = Literal["exact", "rouge"]


class Scoring(ABC, Generic[A]):
    """A way to get answers from a method and to score them."""

    @abstractmethod
    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[A]:
        """Return the answers to all instances of one task, in order. `states` are those of this task."""

    @abstractmethod
    def scores(self, answers: Sequence[A]) -> dict[str, FloatArray]:
        """Return all scores of all answers, in percent and in order. The first is the main score."""

    @abstractmethod
    def summarize(self, answers: Sequence[A], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return means of these scores in percent, overall, per category and per task, with an interval."""

    def paired_values(self, values: FloatArray, tasks: Sequence[Task]) -> ByTask:
        """Return the values that conditions are compared on: one per instance, grouped by task."""
        return by_task(values, tasks)

    def baseline(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return scores that need no model, for the record."""
        return {}


@dataclass(frozen=True)
class FreeFormScoring(Scoring[Answer]):
    """Generated answers, scored by one metric.

    Args:
        metric: `exact` is equality of texts; `rouge` is ROUGE-L, ROUGE-1 and exact match, as in Tk-Instruct.
        batch_size: Batch size.
        max_new_tokens: Maximum length of an answer in tokens.
        num_beams: Number of beams; 1 is greedy decoding.
    """

    metric: Metric
    batch_size: int
    max_new_tokens: int
    num_beams: int = 1

    def ask(self, method: Method, states: Any, task: Task, advance: Advance | None = None) -> list[Answer]:
        """Return the generated answers."""
        inputs = [method.input_of(instance) for instance in task.instances]

        def generate(batch: list[int]) -> list[str]:
            return method.predict(
                states,
                torch.zeros(len(batch), dtype=torch.long),
                [inputs[index] for index in batch],
                max_new_tokens=self.max_new_tokens,
                num_beams=self.num_beams,
                truncate=True,
            )

        texts = ask_in_batches(inputs, self.batch_size, generate, advance)
        return [
            Answer(task.name, task.category, instance.id, instance.prompt, instance.outputs, text)
            for instance, text in zip(task.instances, texts, strict=True)
        ]

    def scores(self, answers: Sequence[Answer]) -> dict[str, FloatArray]:
        """Return `accuracy`, or each of `METRICS`."""
        texts = ((answer.prediction, answer.references) for answer in answers)
        if self.metric == "rouge":
            return rouge_scores(texts)
        return {"accuracy": 100 * np.array([exact_accuracy(*text) for text in texts])}

    def summarize(self, answers: Sequence[Answer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return means of the scores, overall, per category and per task, and a 95% interval of the overall mean.

        The bootstrap resamples tasks with all their instances, so the interval is about unseen tasks. `tasks` has a row
        for each task (`task_rows`). `unread` counts the instances without a reference that ROUGE can read, if there are
        any, and names the first.
        """
        main = next(iter(scores))
        tasks = [answer.task for answer in answers]
        unread = [one for one in answers if self.metric == "rouge" and not any(map(rouge_reads, one.references))]
        first = {"instances": len(unread), "task": unread[0].task, "id": unread[0].id} if unread else None
        return {
            "n": len(answers),
            "metric": main,
            "interval": list(bootstrap_interval(scores[main], tasks)),
            "overall": means(scores),
            "per_task": group_means(scores, tasks),
            "per_category": group_means(scores, [answer.category for answer in answers]),
            "tasks": task_rows(answers, scores[main].tolist(), main),
            **({"unread": first} if first else {}),
        }


def rouge_scores(texts: Iterable[tuple[str, Sequence[str]]]) -> dict[str, FloatArray]:
    """Return each of `METRICS` in percent for pairs of an answer and its references, in order.

    Raises `DataError` for no answers, and for an answer without a reference.
    """
    scores = [instruct_scores(prediction, references) for prediction, references in texts]
    if not scores:
        raise DataError("expected answers to score, got none")
    return dict(zip(METRICS, 100 * np.array(scores).T, strict=True))
