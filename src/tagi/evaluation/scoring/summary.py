"""Scores of a set of answers, with intervals, as a table and as a record."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.metrics import (
    FloatArray,
    aggregate,
    clustered_bootstrap_interval,
    exact_accuracy,
    instance_scores,
)

Metric = Literal["exact", "rouge"]


def summarize(answers: Sequence[Answer], scores: dict[str, FloatArray]) -> dict[str, Any]:
    """Means of `answer_scores`, overall, per category and per task, and a 95% interval of the overall mean.

    The interval resamples tasks, each with all its instances: the claim is about unseen tasks.
    """
    main = next(iter(scores))
    low, high = clustered_bootstrap_interval(scores[main], [answer.task for answer in answers], seed=0)
    rows = [answer.as_prediction() for answer in answers]
    return {"n": len(answers), "metric": main, "interval": [low, high], **aggregate(rows, scores)}


def answer_scores(answers: Sequence[Answer], metric: Metric) -> dict[str, FloatArray]:
    """Every score of every answer, in percent and in order; the first is the one that counts.

    `metric="exact"`: equality of the text. `"rouge"`: ROUGE-L, ROUGE-1 and exact match as Tk-Instruct scores them.
    """
    if metric == "exact":
        hits = [exact_accuracy(answer.prediction, answer.references) for answer in answers]
        return {"accuracy": 100 * np.array(hits)}
    return instance_scores([answer.as_prediction() for answer in answers])


def category_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per category and one for all, for a table."""
    rows = [
        {"category": category, **{name: round(value, 1) for name, value in scores.items()}}
        for category, scores in sorted(summary["per_category"].items())
    ]
    return [*rows, {"category": "all", **{name: round(value, 1) for name, value in summary["overall"].items()}}]
