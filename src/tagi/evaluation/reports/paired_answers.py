"""Two evaluations of the same instances, one against the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagi.errors import DataError, InputError
from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.metrics import (
    METRICS,
    FloatArray,
    bootstrap_interval,
    clustered_bootstrap_interval,
    exact_accuracy,
    instance_scores,
)
from tagi.evaluation.scoring.task_metrics import RIGHT, ROUGE_L, ByTaskMetric

ACCURACY = "accuracy"
"""The text of a reference itself, or of ranked choices a right one."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a method gave for one instance, and its score in percent."""

    task: str
    category: str
    id: str
    input: str
    references: tuple[str, ...]
    prediction: str
    score: float

    @property
    def key(self) -> tuple[str, str]:
        """What names the instance: ids are a task's own."""
        return self.task, self.id


def score_lines(lines: Sequence[Mapping[str, Any]], metric: str) -> list[Scored]:
    """Lines of a file of predictions, answers in words or ranked choices, with their scores.

    `metric` is `accuracy` or one of `METRICS`; for answers that name their task's own metric also `right` or `rouge_l`:
    only the answers that are scored so are returned. Raises `InputError` for any other metric, or for one that these
    lines cannot be scored by, and `DataError` on a line without what it takes.
    """
    known = (ACCURACY, *METRICS, RIGHT, ROUGE_L)
    if metric not in known:
        raise InputError(f"--metric: expected one of {', '.join(known)}, got {metric!r}")
    try:
        ranked = [line for line in lines if "predicted" in line]
        if ranked and metric != ACCURACY:
            raise InputError(f"--metric: expected {ACCURACY} for ranked choices, got {metric!r}")
        answers = [_in_words(line) for line in lines]
        if ranked:
            scores = [100.0 * (line["predicted"] in line["right"]) for line in lines]
        elif metric in (RIGHT, ROUGE_L):
            answers, scores = _by_task_metric(answers, metric)
        elif metric == ACCURACY:
            scores = [100 * exact_accuracy(one.prediction, one.references) for one in answers]
        else:
            scores = instance_scores([one.as_prediction() for one in answers])[metric].tolist() if answers else []
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"expected predictions with their task, id, input and references, got: {error!r}") from error
    return [
        Scored(one.task, one.category, one.id, one.input, one.references, one.prediction, score)
        for one, score in zip(answers, scores, strict=True)
    ]


def _by_task_metric(answers: Sequence[Answer], metric: str) -> tuple[list[Answer], list[float]]:
    """Return the answers of which `metric` is a mean, with their scores in percent."""
    if any(answer.metric is None for answer in answers):
        raise InputError(f"--metric: expected another than {metric!r} for answers without their task's metric")
    values = ByTaskMetric(1, 1).scores(answers).get(metric, np.full(len(answers), np.nan))
    having = [index for index, value in enumerate(values) if not np.isnan(value)]
    return [answers[index] for index in having], values[having].tolist()


def compare_answers(a: Sequence[Scored], b: Sequence[Scored], *, examples: int = 0) -> dict[str, Any]:
    """A against B over the same instances, overall and by category, and the `examples` that differ most.

    Each comparison has `n`, the `tasks`, both means in percent (`a`, `b`), their `difference` A - B with its 95%
    `interval`, and how many instances A wins, ties and loses. The interval draws tasks, each with all its instances;
    of a single task it draws instances: `drawn` says which. Raises `DataError` if the instances are not the same.
    """
    pairs = _pairs(a, b)
    categories: dict[str, list[tuple[Scored, Scored]]] = {}
    for pair in pairs:
        categories.setdefault(pair[0].category, []).append(pair)
    differing = sorted((pair for pair in pairs if _gap(pair)), key=lambda pair: (-abs(_gap(pair)), pair[0].key))
    return {
        **_comparison(pairs),
        "per_category": {name: _comparison(own) for name, own in sorted(categories.items())},
        "examples": [_example(*pair) for pair in differing[:examples]],
    }


def _in_words(line: Mapping[str, Any]) -> Answer:
    if "predicted" in line:  # ranked choices
        line = {**line, "references": [line["choices"][index] for index in line["right"]]}
    return Answer.from_line(line)


def _pairs(a: Sequence[Scored], b: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Both answers to every instance, in the order of `a`."""
    first, second = _by_key("A", a), _by_key("B", b)
    if not first:
        raise DataError("expected answers to compare, got none")
    alone = {"A": [key for key in first if key not in second], "B": [key for key in second if key not in first]}
    if alone["A"] or alone["B"]:
        found = "; ".join(
            f"{len(keys)} in {name} alone (first: {keys[0][1]!r} of task {keys[0][0]!r})"
            for name, keys in alone.items()
            if keys
        )
        raise DataError(f"expected answers to the same instances, got {len(first)} in A, {len(second)} in B: {found}")
    pairs = [(one, second[key]) for key, one in first.items()]
    for one, other in pairs:
        if (one.input, one.references) != (other.input, other.references):
            where = f"instance {one.id!r} of task {one.task!r}"
            raise DataError(f"{where}: expected the same input and references, got {one.input!r} and {other.input!r}")
    return pairs


def _by_key(name: str, answers: Sequence[Scored]) -> dict[tuple[str, str], Scored]:
    found: dict[tuple[str, str], Scored] = {}
    for one in answers:
        if found.setdefault(one.key, one) is not one:
            raise DataError(f"{name}: expected one answer to instance {one.id!r} of task {one.task!r}, got two")
    return found


def _gap(pair: tuple[Scored, Scored]) -> float:
    return pair[0].score - pair[1].score


def _comparison(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, Any]:
    gaps = np.array([_gap(pair) for pair in pairs])
    tasks = [pair[0].task for pair in pairs]
    several = len(set(tasks)) > 1
    low, high = clustered_bootstrap_interval(gaps, tasks, seed=0) if several else bootstrap_interval(gaps, seed=0)
    return {
        "n": len(pairs),
        "tasks": len(set(tasks)),
        "a": _mean(pairs, lambda pair: pair[0].score),
        "b": _mean(pairs, lambda pair: pair[1].score),
        "difference": float(gaps.mean()),
        "interval": [low, high],
        "drawn": "tasks" if several else "instances",
        **_counts(gaps),
    }


def _counts(gaps: FloatArray) -> dict[str, int]:
    return {"wins": int((gaps > 0).sum()), "ties": int((gaps == 0).sum()), "losses": int((gaps < 0).sum())}


def _mean(pairs: Sequence[tuple[Scored, Scored]], score: Callable[[tuple[Scored, Scored]], float]) -> float:
    return float(np.mean([score(pair) for pair in pairs]))


def _example(one: Scored, other: Scored) -> dict[str, Any]:
    return {
        "task": one.task,
        "category": one.category,
        "id": one.id,
        "input": one.input,
        "references": list(one.references),
        "a": {"prediction": one.prediction, "score": one.score},
        "b": {"prediction": other.prediction, "score": other.score},
    }
