"""Asking any method for its answers to tasks' instances."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tagi.data.task import Task
from tagi.evaluation.metrics import Prediction
from tagi.files import write_text
from tagi.methods.protocol import Method


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with where it belongs."""

    task: str
    category: str
    id: str
    input: str
    references: tuple[str, ...]
    prediction: str

    def as_prediction(self) -> Prediction:
        """What scoring needs of it."""
        return Prediction(self.task, self.category, self.prediction, self.references)


def answer_tasks(
    method: Method,
    states: Any,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    advance: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answers to every instance of every task, in order; `states` hold one entry per task.

    Batches mix tasks and go by length of the input, so that little is padding. `advance` hears of each batch's size.
    """
    places = [(row, instance) for row, task in enumerate(tasks) for instance in task.instances]
    order = sorted(range(len(places)), key=lambda index: len(places[index][1].input))
    texts = [""] * len(places)
    for batch in _batches(order, batch_size):
        answers = method.predict(
            states,
            torch.tensor([places[index][0] for index in batch]),
            [places[index][1].input for index in batch],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            truncate=True,
        )
        for index, text in zip(batch, answers, strict=True):
            texts[index] = text
        if advance is not None:
            advance(len(batch))
    return [
        Answer(tasks[row].name, tasks[row].category, instance.id, instance.input, instance.outputs, text)
        for (row, instance), text in zip(places, texts, strict=True)
    ]


def write_answers(answers: Sequence[Answer], path: Path) -> None:
    """JSON Lines, one answer a line."""
    write_text(path, "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers))


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
