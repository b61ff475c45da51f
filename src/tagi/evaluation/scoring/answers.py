"""Answers of a method to a task's instances: how they are asked for in batches, and how a file keeps them."""

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
"""Told of the size of each batch that is done."""
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
    """A generated answer to one instance, and the metric of its task where that decides its score."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: TaskName
    category: CategoryName
    id: str
    input: str
    references: Annotated[tuple[str, ...], Field(min_length=1)]
    prediction: str
    metric: MetricName | None = None

    def as_line(self) -> dict[str, Any]:
        """Return the answer for JSON Lines, under the names that natural-instructions' own `evaluation.py` reads.

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


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """The ranked choices of one instance.

    `choices` are the different ones, `scores` their log-probabilities, `right` and `predicted` indices into them. With
    `tied`, several choices have the largest score, and the first of them is predicted.
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
        """Return the answer for JSON Lines, its task, category and prediction named as generated answers name them."""
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
    """Raise `DataError`, naming task and instance, for an input without text and for an id that is given twice."""
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
    """Return a row for each task, in order: its metric, the number of answers `n`, their mean score, one sample.

    Args:
        answers: Answers, in the order of their tasks or not.
        values: The score of each.
        metric: What all are scored by. By default each answer says so.
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
        batch_size: Inputs of a batch at most. Inputs of similar length share a batch, so that little is padding.
        ask: Given the indices of a batch, returns one result for each.
        advance: Told of the size of each batch when it is done.
    """
    results: dict[int, T] = {}
    for batch in by_length(inputs, batch_size):
        results.update(zip(batch, ask(batch), strict=True))
        if advance is not None:
            advance(len(batch))
    return [results[index] for index in range(len(inputs))]


def by_length(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Yield the indices of the texts in batches of `size`, texts of similar length together."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
