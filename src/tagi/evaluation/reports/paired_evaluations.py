"""Paired comparison of two evaluations over the same instances."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tagi.data.task import HEADLINES
from tagi.errors import DataError, InputError
from tagi.evaluation.predictions_log import predictions_file, read_answers
from tagi.evaluation.reports.records import read_evaluation
from tagi.evaluation.scoring.answers import Answer, RankedAnswer, read_line
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tagi.evaluation.scoring.metrics import METRICS
from tagi.evaluation.scoring.statistics import FloatArray, bootstrap_interval, group_by
from tagi.evaluation.scoring.task_metrics import TaskMetricScoring
from tagi.formats.records import RECORD

ACCURACY = "accuracy"
"""Equality with a reference, or for ranked choices a right one."""
Over = Literal["instances", "tasks"]
_NOT_OF_THE_RUN = ("name", "description", "data.path")


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An answer to one instance, and its score in percent."""

    answer: Answer | RankedAnswer
    score: float

    @property
    def key(self) -> tuple[str, str]:
        """Task and instance id. Ids are unique only within a task."""
        return self.answer.task, self.answer.id


def compare(
    a: Path, b: Path, *, condition: str = "right", metric: str | None = None, examples: int = 0
) -> dict[str, Any]:
    """Compare evaluation `a` with `b` over the same instances, as `compare_answers` does.

    The result also has the `condition`, the `metric` (by default that of the first evaluation), a description of both
    evaluations, and every key in which their recipes differ. Raises a `TagiError` if one of them is not a finished
    evaluation, or if their test data differ.
    """
    records = [read_evaluation(folder / RECORD if folder.is_dir() else folder) for folder in (a, b)]
    data = [record["data"] for record in records]
    if data[0]["digest"] != data[1]["digest"]:
        raise DataError(f"expected evaluations of the same test data, got {_data(a, data[0])} and {_data(b, data[1])}")
    for folder, record in zip((a, b), records, strict=True):
        if condition not in record["results"]:
            known = ", ".join(record["results"])
            raise InputError(f"--condition: expected one of {folder} ({known}), got {condition!r}")
    results = [record["results"][condition] for record in records]
    metric = metric or str(results[0]["metric"])
    places = [folder if folder.is_dir() else folder.parent for folder in (a, b)]
    scored = [read_scored(place, condition, metric, own["n"]) for place, own in zip(places, results, strict=True)]
    over: Over = "tasks" if metric in HEADLINES else "instances"
    flat = [_flat(record["recipe"]) for record in records]
    keys = [key for key in flat[0] | flat[1] if key not in _NOT_OF_THE_RUN]
    return {
        "condition": condition,
        "metric": metric,
        "of": {name: _of(folder, record) for name, folder, record in zip("ab", (a, b), records, strict=True)},
        "recipes_differ": {key: [one.get(key) for one in flat] for key in keys if flat[0].get(key) != flat[1].get(key)},
        **compare_answers(scored[0], scored[1], examples=examples, over=over),
    }


def read_scored(folder: Path, condition: str, metric: str, count: int) -> list[ScoredAnswer]:
    """Return the predictions of an evaluation under a condition, scored by `score_answers`.

    Raises `DataError`, with the file's name, unless it holds `count` answers that this metric can score.
    """
    path = folder / predictions_file(condition)
    lines = read_answers(path)
    if len(lines) != count:
        raise DataError(f"{path}: expected {count} answers, as its record says, got {len(lines)}")
    answers = []
    for number, line in enumerate(lines, start=1):
        try:
            answers.append(read_line(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return score_answers(answers, metric)


def score_answers(answers: Sequence[Answer | RankedAnswer], metric: str) -> list[ScoredAnswer]:
    """Return the answers with their scores.

    `metric` is `accuracy` or one of `METRICS`. If answers name their task's own metric, it may also be one of
    `HEADLINES`; then only the answers that count for it are returned. Raises `InputError` for any other metric, and for
    one that cannot score these answers.
    """
    known = (ACCURACY, *METRICS, *HEADLINES)
    if metric not in known:
        raise InputError(f"--metric: expected one of {', '.join(known)}, got {metric!r}")
    generated = [answer for answer in answers if isinstance(answer, Answer)]
    if len(generated) < len(answers):
        if metric != ACCURACY:
            raise InputError(f"--metric: expected {ACCURACY} for ranked choices, got {metric!r}")
        return [ScoredAnswer(answer, 100.0 * (answer.prediction in answer.references)) for answer in answers]
    if metric in HEADLINES:
        if any(answer.metric is None for answer in generated):
            raise InputError(f"--metric: expected another than {metric!r} for answers without their task's metric")
        scores = TaskMetricScoring(1, 1).scores(generated).get(metric, np.full(len(answers), np.nan))
    else:
        scores = FreeFormScoring("exact" if metric == ACCURACY else "rouge", 1, 1).scores(generated)[metric]
    scored = zip(generated, scores.tolist(), strict=True)
    return [ScoredAnswer(answer, score) for answer, score in scored if not np.isnan(score)]


def compare_answers(
    a: Sequence[ScoredAnswer], b: Sequence[ScoredAnswer], *, examples: int = 0, over: Over = "instances"
) -> dict[str, Any]:
    """Compare A with B over the same instances, overall and by category.

    Each comparison has `n`, the number of `tasks`, both means in percent (`a`, `b`), the `difference` A - B with its
    95% `interval`, and the numbers of instances that A wins, ties and loses. The bootstrap resamples tasks with all
    their instances; for a single task it resamples instances. `drawn` names what was resampled. Raises `DataError` if
    the instances are not the same.

    Args:
        a: A's answers.
        b: B's answers.
        examples: Number of instances to return, those that differ most.
        over: Whether means are over instances or over the tasks' means, as in the evaluations themselves.
    """
    pairs = _pairs(a, b)
    categories = group_by(pairs, lambda pair: pair[0].answer.category)
    differing = sorted((pair for pair in pairs if _gap(pair)), key=lambda pair: (-abs(_gap(pair)), pair[0].key))
    return {
        "mean_over": over,
        **_comparison(pairs, over),
        "per_category": {name: _comparison(own, over) for name, own in sorted(categories.items())},
        "examples": [_example(*pair) for pair in differing[:examples]],
    }


def _pairs(a: Sequence[ScoredAnswer], b: Sequence[ScoredAnswer]) -> list[tuple[ScoredAnswer, ScoredAnswer]]:
    """Return both answers to every instance, in the order of `a`."""
    first, second = _by_key("A", a), _by_key("B", b)
    if not first:
        raise DataError("expected answers to compare, got none")
    alone = ("A", [key for key in first if key not in second]), ("B", [key for key in second if key not in first])
    found = [
        f"{len(keys)} in {name} alone (first: {keys[0][1]!r} of task {keys[0][0]!r})" for name, keys in alone if keys
    ]
    if found:
        got = f"{len(first)} in A, {len(second)} in B: {'; '.join(found)}"
        raise DataError(f"expected answers to the same instances, got {got}")
    pairs = [(one, second[key]) for key, one in first.items()]
    for own, other in ((one.answer, two.answer) for one, two in pairs):
        if (own.input, own.references) != (other.input, other.references):
            where = f"instance {own.id!r} of task {own.task!r}"
            raise DataError(f"{where}: expected the same input and references, got {own.input!r} and {other.input!r}")
    return pairs


def _by_key(name: str, answers: Sequence[ScoredAnswer]) -> dict[tuple[str, str], ScoredAnswer]:
    found: dict[tuple[str, str], ScoredAnswer] = {}
    for one in answers:
        if found.setdefault(one.key, one) is not one:
            task, instance = one.key
            raise DataError(f"{name}: expected one answer to instance {instance!r} of task {task!r}, got two")
    return found


def _gap(pair: tuple[ScoredAnswer, ScoredAnswer]) -> float:
    return pair[0].score - pair[1].score


def _comparison(pairs: Sequence[tuple[ScoredAnswer, ScoredAnswer]], over: Over) -> dict[str, Any]:
    scores: FloatArray = np.array([(one.score, other.score) for one, other in pairs])
    gaps, tasks = scores[:, 0] - scores[:, 1], [one.answer.task for one, _ in pairs]
    sizes = Counter(tasks)
    several, weights = len(sizes) > 1, [1 / sizes[task] if over == "tasks" else 1.0 for task in tasks]
    a, b = np.average(scores, axis=0, weights=weights).tolist()
    return {
        "n": len(pairs),
        "tasks": len(sizes),
        "a": a,
        "b": b,
        "difference": float(np.average(gaps, weights=weights)),
        "interval": list(bootstrap_interval(gaps, tasks if several else None, weights=weights)),
        "drawn": "tasks" if several else "instances",
        "wins": int((gaps > 0).sum()),
        "ties": int((gaps == 0).sum()),
        "losses": int((gaps < 0).sum()),
    }


def _example(one: ScoredAnswer, other: ScoredAnswer) -> dict[str, Any]:
    same = {name: getattr(one.answer, name) for name in ("task", "category", "id", "input")}
    answers = {
        name: {"prediction": own.answer.prediction, "score": own.score} for name, own in (("a", one), ("b", other))
    }
    return {**same, "references": list(one.answer.references), **answers}


def _data(folder: Path, data: Mapping[str, Any]) -> str:
    return f"{data['digest']} ({data.get('tasks')} tasks, {data.get('instances')} instances) in {folder}"


def _of(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: record.get(key) for key in ("method", "checkpoint", "revision", "seed", "partial")}
    trained_on = {key: record["data"][key] for key in ("trained_on",) if key in record["data"]}
    return {"folder": str(folder), **named, **trained_on, "tagi": record["environment"]["tagi"]}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
