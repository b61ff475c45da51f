"""Asking any method for its answers to a task's instances."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tagi.data.task import TASK_METRICS, Task
from tagi.evaluation.scoring.metrics import Prediction
from tagi.methods.protocol import Method


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with where it belongs, and the metric of its task where that decides its score."""

    task: str
    category: str
    id: str
    input: str
    references: tuple[str, ...]
    prediction: str
    metric: str | None = None

    def as_prediction(self) -> Prediction:
        """What scoring needs of it."""
        return Prediction(self.task, self.category, self.prediction, self.references)

    def as_line(self) -> dict[str, Any]:
        """For JSON Lines, under the names that natural-instructions' own `evaluation.py` reads.

        It takes such a file both for its `--prediction_file` and for its `--reference_file`.
        """
        return {
            "id": self.id,
            "prediction": self.prediction,
            "references": list(self.references),
            "task_id": self.task,
            "task_category": self.category,
            "track": "default",
            "input": self.input,
            **({} if self.metric is None else {"metric": self.metric}),
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Answer":
        """The inverse of `as_line`."""
        return cls(
            line["task_id"],
            line["task_category"],
            line["id"],
            line["input"],
            tuple(line["references"]),
            line["prediction"],
            line.get("metric"),
        )


_TEXTS = ("task_id", "task_category", "id", "input", "prediction")
_RANKED = ("choices", "scores", "right", "predicted", "tied")


def line_fault(line: Mapping[str, Any]) -> str | None:
    """What keeps a line of a file from being an answer in words or a ranked one; None if it is whole."""
    for key in _TEXTS:
        if not isinstance(line.get(key), str):
            return f"{key}: expected text, got {line.get(key)!r:.60}"
    ranked = "choices" in line
    unknown = sorted(set(line) - {*_TEXTS, *(_RANKED if ranked else ("references", "track", "metric"))})
    if unknown:
        return f"{unknown[0]}: expected no such key"
    if "metric" in line and line["metric"] not in TASK_METRICS:
        return f"metric: expected one of {', '.join(TASK_METRICS)}, got {line['metric']!r:.60}"
    return _ranked_fault(line) if ranked else _texts_fault(line, "references", 1)


def _texts_fault(line: Mapping[str, Any], key: str, least: int) -> str | None:
    value = line.get(key)
    if isinstance(value, list) and len(value) >= least and all(isinstance(one, str) for one in value):
        return None
    return f"{key}: expected a list of at least {least} text(s), got {value!r:.60}"


def _ranked_fault(line: Mapping[str, Any]) -> str | None:
    fault = _texts_fault(line, "choices", 2)
    if fault:
        return fault
    count = len(line["choices"])
    scores, right, predicted = line.get("scores"), line.get("right"), line.get("predicted")
    if not isinstance(scores, list) or len(scores) != count or not all(_is_finite(score) for score in scores):
        return f"scores: expected {count} finite numbers, got {scores!r:.60}"
    places = [*right, predicted] if isinstance(right, list) and right else [None]
    if not all(type(place) is int and 0 <= place < count for place in places):
        return f"right, predicted: expected places among {count} choices, got {right!r:.40} and {predicted!r:.40}"
    return None if isinstance(line.get("tied"), bool) else f"tied: expected true or false, got {line.get('tied')!r:.40}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def answer_task(
    method: Method,
    states: Any,
    task: Task,
    *,
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    advance: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answers to every instance of a task, in order; `states` hold that one task.

    Batches go by length of the input, so that little is padding. `advance` hears of each batch's size.
    """
    texts = [""] * len(task.instances)
    for batch in by_length([instance.input for instance in task.instances], batch_size):
        answers = method.predict(
            states,
            torch.zeros(len(batch), dtype=torch.long),
            [task.instances[index].input for index in batch],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            truncate=True,
        )
        for index, text in zip(batch, answers, strict=True):
            texts[index] = text
        if advance is not None:
            advance(len(batch))
    return [
        Answer(task.name, task.category, instance.id, instance.input, instance.outputs, text)
        for instance, text in zip(task.instances, texts, strict=True)
    ]


def by_length(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Indices of the texts in batches of `size`, texts of like length together."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
