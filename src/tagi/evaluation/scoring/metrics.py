"""Scores of generated answers: Tk-Instruct's, plain exactness and tasks' own metrics, with bootstrap intervals.

ROUGE and exact match are those of the English track: ROUGE reads only the letters a to z and digits.
"""

import json
import re
import string
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tagi.errors import DataError

FloatArray = npt.NDArray[np.float64]
Values = Sequence[float | int] | npt.NDArray[Any]

METRICS = ("rougeL", "rouge1", "exact_match")
# Numbers drawn at once, so that large test sets need no large arrays.
_DRAWN_AT_ONCE = 2_000_000
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_BEFORE_CHOICE = re.compile(rf"^[\s{_QUOTES}]+")
_AFTER_CHOICE = re.compile(rf"[\s{_QUOTES}.,;:!?]+$")
_FENCED = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL | re.IGNORECASE)
# Digits with or without thousands separators (comma, apostrophe, no-break spaces), decimals, an exponent. A minus after
# a letter or digit is a hyphen.
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+\u2212])?"
    r"(?:(?:[0-9]{1,3}(?:[,'\u2019\u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)
_SEPARATORS = str.maketrans({",": None, "'": None, "\u2019": None, "\u00a0": None, "\u202f": None, "\u2212": "-"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to score: the task and category it counts for, the text, and what would be right."""

    task: str
    category: str
    prediction: str
    references: tuple[str, ...]


@lru_cache(maxsize=1)
def _rouge() -> Any:
    # Imported late: the package brings nltk along.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL", "rouge1"], use_stemmer=True)


def _normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, one space between words."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def _best_rouge(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """F1 of ROUGE-L and ROUGE-1, each the maximum over the references."""
    scores = [_rouge().score(target=reference, prediction=prediction) for reference in _some(references)]
    best_l, best_1 = (max(score[kind].fmeasure for score in scores) for kind in ("rougeL", "rouge1"))
    return float(best_l), float(best_1)


def _some(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str) or not references:
        raise DataError(f"expected a list of at least one reference, got {references!r}")
    return references


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 with stemmer in [0, 1], maximum over references. Raises `DataError` without a reference."""
    return _best_rouge(prediction, references)[0]


def rouge_1(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-1 F1 with stemmer in [0, 1], maximum over references. Raises `DataError` without a reference."""
    return _best_rouge(prediction, references)[1]


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction is a reference but for case, ASCII punctuation and white space, else 0.0.

    Raises `DataError` without a reference.
    """
    normalised = _normalised(prediction)
    return float(any(normalised == _normalised(reference) for reference in _some(references)))


def exact_accuracy(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after both are stripped, else 0.0.

    Raises `DataError` without a reference.
    """
    return float(any(prediction.strip() == reference.strip() for reference in _some(references)))


def choice(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer is an accepted choice, else 0.0.

    Both texts are compared without case, after white space and quotation marks are removed from both ends and
    . , ; : ! ? from the end, in any order. Nothing inside the text is changed: "It is positive." is not "positive".
    Raises `DataError` without a reference.
    """
    answer = _bare_choice(prediction)
    return float(any(answer == _bare_choice(reference) for reference in _some(references)))


def exact(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer equals a reference without case, outer white space and one final full stop, else 0.0.

    Raises `DataError` without a reference.
    """
    answer = _without_stop(prediction)
    return float(any(answer == _without_stop(reference) for reference in _some(references)))


def json_equal(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer is JSON and equals a reference as JSON, else 0.0.

    The order of an object's keys does not matter, the order of a list does. Numbers are compared by value, and true is
    not 1. The whole answer must be JSON, or a fenced code block of it. A key given twice, NaN and Infinity are not JSON
    here. Raises `DataError` without a reference, or with one that is not JSON.
    """
    wanted = []
    for reference in _some(references):
        try:
            wanted.append(_parsed(reference))
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise DataError(f"expected a reference that is JSON, got {reference!r:.60}") from error
    try:
        answer = _parsed(prediction)
        return float(any(_same_json(answer, one) for one in wanted))
    except (ValueError, ArithmeticError, RecursionError):
        return 0.0


def number(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the only number in the answer has the value of a reference's number, else 0.0.

    Other words and units are allowed: "It costs $1,250.50." is 1250.5. Thousands may be separated by commas,
    apostrophes or no-break spaces; the decimal sign is a point. An answer with two numbers is wrong. Raises `DataError`
    without a reference, or with one that does not hold exactly one number.
    """
    wanted = []
    for reference in _some(references):
        numbers = _numbers(reference)
        if len(numbers) != 1:
            raise DataError(f"expected a reference with one number, got {reference!r:.60}")
        wanted += numbers
    numbers = _numbers(prediction)
    return float(len(numbers) == 1 and numbers[0] in wanted)


def _bare_choice(text: str) -> str:
    bare = _BEFORE_CHOICE.sub("", _AFTER_CHOICE.sub("", text)).casefold()
    return bare or text.strip()  # a choice may be nothing but punctuation


def _without_stop(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()


def _parsed(text: str) -> Any:
    """Parse JSON, alone or in a fenced code block, with exact numbers. Raises `ValueError`."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return json.loads(
        fenced[1] if fenced else text,
        parse_float=Decimal,
        parse_int=Decimal,
        parse_constant=_not_json,
        object_pairs_hook=_object,
    )


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields


def _same_json(a: Any, b: Any) -> bool:
    """Compare parsed JSON. Python's own comparison takes true for 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_json(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same_json, a, b))
    return type(a) is type(b) and bool(a == b)


def _numbers(text: str) -> list[Decimal]:
    return [Decimal(found.translate(_SEPARATORS)) for found in _NUMBER.findall(text)]


TASK_SCORES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "choice": choice,
    "exact": exact,
    "exact_case": exact_accuracy,
    "json": json_equal,
    "number": number,
    "rouge_l": rouge_l,
}
"""How an answer is scored, from 0 to 1, by the metric that its task names (`tagi.data.task.TASK_METRICS`)."""


def instance_scores(rows: Sequence[Prediction]) -> dict[str, FloatArray]:
    """Every metric's score of every row, in percent and in order, for intervals and paired comparisons.

    Raises `DataError` on no rows, or naming the row that has no reference.
    """
    if not rows:
        raise DataError("expected predictions to score, got none")
    scores = np.empty((len(METRICS), len(rows)))
    for index, row in enumerate(rows):
        if not row.references:
            raise DataError(f"prediction {index} of task {row.task!r}: expected at least one reference, got none")
        best_l, best_1 = _best_rouge(row.prediction, row.references)
        scores[:, index] = best_l, best_1, exact_match(row.prediction, row.references)
    return dict(zip(METRICS, 100 * scores, strict=True))


def score_predictions(rows: Sequence[Prediction]) -> dict[str, Any]:
    """`{"overall": {metric: percent}, "per_task": {task: {...}}, "per_category": {category: {...}}}`.

    Each score is the mean over the instances it covers. Raises `DataError` as `instance_scores` does.
    """
    return aggregate(rows, instance_scores(rows))


def aggregate(rows: Sequence[Prediction], scores: dict[str, FloatArray]) -> dict[str, Any]:
    """Means of scores already computed per row, arranged as `score_predictions` arranges them."""

    def grouped(key: Callable[[Prediction], str]) -> dict[str, dict[str, float]]:
        members: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            members.setdefault(key(row), []).append(index)
        return {group: _means(scores, indices) for group, indices in members.items()}

    return {
        "overall": _means(scores, list(range(len(rows)))),
        "per_task": grouped(lambda row: row.task),
        "per_category": grouped(lambda row: row.category),
    }


def _means(scores: dict[str, FloatArray], indices: list[int]) -> dict[str, float]:
    return {metric: float(values[indices].mean()) for metric, values in scores.items()}


def bootstrap_interval(values: Values, seed: int, resamples: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval (low, high) of the mean of `values`, by percentiles of the resamples' means.

    Each resample draws as many values as there are, with replacement. For a paired comparison give the
    differences. Equal arguments give equal intervals. Raises `ValueError` on no values, values that are not
    finite, or a `level` outside (0, 1).
    """
    array = _checked(values, resamples, level)
    return interval_of(_resampled(array, np.ones_like(array), seed, resamples), level)


def clustered_bootstrap_interval(
    values: Values,
    clusters: Sequence[Hashable],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    weights: Values | None = None,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values` when clusters (tasks) are drawn, each with all its values.

    `clusters` names the cluster of each value. Instances of one task are alike, so this interval is the one
    that speaks of unseen tasks. With `weights`, positive ones, it is of the weighted mean. Raises `ValueError`
    as `bootstrap_interval` does, and on lengths that differ.
    """
    return interval_of(clustered_resamples(values, clusters, seed, resamples, level, weights), level)


def clustered_resamples(
    values: Values,
    clusters: Sequence[Hashable],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    weights: Values | None = None,
) -> FloatArray:
    """The resamples' means of `clustered_bootstrap_interval`: what is drawn apart may be put together."""
    array = _checked(values, resamples, level)
    if len(clusters) != len(array):
        raise ValueError(f"expected a cluster for each of {len(array)} values, got {len(clusters)}")
    shares = np.ones_like(array) if weights is None else _checked(weights, resamples, level)
    if len(shares) != len(array) or (shares <= 0).any():
        raise ValueError(f"expected a positive weight for each of {len(array)} values, got {weights}")
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums = np.zeros(len(numbers))
    np.add.at(sums, member, array * shares)
    return _resampled(sums, np.bincount(member, weights=shares).astype(np.float64), seed, resamples)


def interval_of(means: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) by percentiles of resamples' means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(values: Values, resamples: int, level: float) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected a sequence of finite values, got {array.size} values of shape {array.shape}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"expected resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    return array


def _resampled(sums: FloatArray, counts: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Sum / count of every resample of units, unit u weighing `sums[u]` in `counts[u]` values."""
    generator = np.random.default_rng(seed)
    units = len(sums)
    at_once = max(1, _DRAWN_AT_ONCE // units)
    means = np.empty(resamples)
    for start in range(0, resamples, at_once):
        stop = min(resamples, start + at_once)
        drawn = generator.integers(units, size=(stop - start, units))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means
