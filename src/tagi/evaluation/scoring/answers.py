"""Answers of a method to a task's instances: generation in batches, and their form in files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt, TypeAdapter, ValidationError

from tagi.data.task import TASK_METRICS, Task
from tagi.errors import DataError
from tagi.evaluation.scoring.statistics import group_by
from tagi.settings.faults import fault_sentence

Advance = Callable[[int], None]
"""Called with the size of each finished batch."""
T = TypeVar("T")


def _known_metric(name: str) -> str:
    if name not in TASK_METRICS:
        raise ValueError(f"expected one of {', '.join(TASK_METRICS)}, got {name!r}")
    return name


TaskName = Annotated[str, Field(alias="task_id")]
CategoryName = Annotated[str, Field(alias="task_category")]
MetricName = Annotated[str, AfterValidator(_known_metric)]


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer to one instance, and the metric of its task if tasks have their own metrics."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: TaskName
    category: CategoryName
    id: str
    input: str
    references: Annotated[tuple[str, ...], Field(min_length=1)]
    prediction: str
    metric: MetricName | None = None

    def as_line(self) -> dict[str, Any]:
        """Return the answer for JSON Lines, with the keys that natural-instructions' `evaluation.py` reads.

        That script accepts such a file both as `--prediction_file` and as `--reference_file`.
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


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """The ranked choices of one instance.

    `choices` are the distinct choices and `scores` their log-probabilities; `right` and `predicted` are indices into
    them. If several choices have the largest score, `tied` is set and the first of them is predicted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: TaskName
    category: CategoryName
    id: str
    input: str
    choices: Annotated[tuple[str, ...], Field(min_length=2)]
    scores: tuple[FiniteFloat, ...]
    right: Annotated[tuple[StrictInt, ...], Field(min_length=1)]
    predicted: StrictInt
    tied: StrictBool
    prediction: str

    @property
    def correct(self) -> bool:
        """Whether a right choice is predicted."""
        return self.predicted in self.right

    @property
    def references(self) -> tuple[str, ...]:
        """The right choices."""
        return tuple(self.choices[index] for index in self.right)

    def as_line(self) -> dict[str, Any]:
        """Return the answer for JSON Lines. Its task, category and prediction have the keys of generated answers."""
        line = asdict(self)
        return {"task_id": line.pop("task"), "task_category": line.pop("category"), **line}


_GENERATED, _RANKED = TypeAdapter(Answer), TypeAdapter(RankedAnswer)


def read_line(line: Mapping[str, Any]) -> Answer | RankedAnswer:
    """Return the answer that `as_line` wrote. Raises `DataError`, naming the key, if the line is not an answer."""
    try:
        if "choices" not in line:
            return _GENERATED.validate_python({key: value for key, value in line.items() if key != "track"})
        answer = _RANKED.validate_python(line)
    except ValidationError as error:
        raise DataError(fault_sentence(error.errors(include_url=False)[0])) from error
    count = len(answer.choices)
    if len(answer.scores) != count:
        raise DataError(f"scores: expected a score for each of {count} choices, got {len(answer.scores)}")
    if not all(0 <= index < count for index in (*answer.right, answer.predicted)):
        raise DataError(
            f"right, predicted: expected indices of {count} choices, got {answer.right} and {answer.predicted}"
        )
    return answer


def check_instances(task: Task) -> None:
    """Raise `DataError`, with task and instance, for an empty input or a duplicate id."""
    seen: set[str] = set()
    for instance in task.instances:
        where = f"task {task.name!r}: instance {instance.id!r}"
        if not instance.input.strip():
            raise DataError(f"{where}: expected an input, got an empty text")
        if instance.id in seen:
            raise DataError(f"{where}: expected ids that differ within a task, got two instances of this one")
        seen.add(instance.id)


def task_rows(
    answers: Sequence[Answer | RankedAnswer], values: Sequence[float], metric: str | None = None
) -> list[dict[str, Any]]:
    """Return a row for each task, in order: its metric, the number of answers `n`, their mean score, one sample answer.

    Args:
        answers: Answers, in any order.
        values: The score of each answer.
        metric: The metric of all answers; by default each answer's own.
    """
    rows = []
    for task, indices in group_by(range(len(answers)), lambda index: answers[index].task).items():
        own, sample = [float(values[index]) for index in indices], answers[indices[0]]
        rows.append(
            {
                "task": task,
                "category": sample.category,
                "metric": metric if metric is not None or isinstance(sample, RankedAnswer) else sample.metric,
                "n": len(own),
                "score": float(np.mean(own)),
                "sample": {
                    "input": sample.input,
                    "references": list(sample.references),
                    "answer": sample.prediction,
                    "score": own[0],
                },
            }
        )
    return rows


def ask_in_batches(
    inputs: Sequence[str], batch_size: int, ask: Callable[[list[int]], Sequence[T]], advance: Advance | None = None
) -> list[T]:
    """Return what `ask` gives for every input, in order.

    Args:
        inputs: The texts of a task's instances.
        batch_size: Maximum batch size. Inputs of similar length share a batch, which avoids padding.
        ask: Takes the indices of a batch and returns one result for each.
        advance: Called with the size of each finished batch.
    """
    results: dict[int, T] = {}
    for batch in by_length(inputs, batch_size):
        results.update(zip(batch, ask(batch), strict=True))
        if advance is not None:
            advance(len(batch))
    return [results[index] for index in range(len(inputs))]


def by_length(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Yield the indices of the texts in batches of `size`, grouped by length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
