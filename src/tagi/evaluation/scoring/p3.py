"""The paper's two averages over P3's evaluation sets: MTest11 and HyperT5 (Tables 3 and 9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagi.data.readers.p3_eval import EVALUATION_SETS
from tagi.evaluation.scoring.answers import RankedAnswer
from tagi.evaluation.scoring.rank_classification import RankScoring, category_resamples
from tagi.evaluation.scoring.statistics import RESAMPLES, FloatArray, percentile_interval

MTEST11 = tuple(one.name for one in EVALUATION_SETS)
"""The 11 data sets; ANLI's rounds count as three."""
ANLI = ("anli_r1", "anli_r2", "anli_r3")
STORY_CLOZE = "story_cloze_2016"


@dataclass(frozen=True, slots=True)
class P3Average:
    """An average in percent. It is None if a data set has no score; `missing` lists these data sets."""

    value: float | None
    missing: tuple[str, ...]


def mtest11(scores: Mapping[str, float]) -> P3Average:
    """Return the mean of the 11 data sets, each the mean of its prompts; `scores` by data set, in percent."""
    return _mean({name: scores.get(name) for name in MTEST11})


def hypert5(scores: Mapping[str, float]) -> P3Average:
    """Return the mean of 8 data sets, as in HyperTuning's paper: ANLI once, the mean of its rounds; no StoryCloze."""
    rounds = _mean({name: scores.get(name) for name in ANLI})
    others = {name: scores.get(name) for name in MTEST11 if name not in (*ANLI, STORY_CLOZE)}
    average = _mean({"anli": rounds.value, **others})
    missing = (*rounds.missing, *(name for name in average.missing if name != "anli"))
    return P3Average(average.value, missing)


def p3_averages(summary: Mapping[str, Any], answers: Sequence[RankedAnswer]) -> dict[str, Any]:
    """Return both averages for the result of `RankScoring.summarize`, ready for JSON.

    `{"mtest11": {"value": percent or None, "missing": [...], "interval": [low, high] or None}, "hypert5": {...}}`. The
    95% interval resamples the examples of every data set, each with all its prompts. Data sets are not resampled.
    """
    scores = {name: group["accuracy"] for name, group in summary["per_category"].items()}
    resamples = category_resamples(answers)
    drawn = [{name: float(means[at]) for name, means in resamples.items()} for at in range(RESAMPLES)]
    averages = {}
    for name, average in (("mtest11", mtest11), ("hypert5", hypert5)):
        one = average(scores)
        values = [average(resample).value for resample in drawn] if one.value is not None else None
        interval = None if values is None else list(percentile_interval(np.array(values, dtype=np.float64)))
        averages[name] = {"value": one.value, "missing": list(one.missing), "interval": interval}
    return averages


class P3RankScoring(RankScoring):
    """Rank classification of P3's evaluation sets, with their averages."""

    def summarize(self, answers: Sequence[RankedAnswer], scores: dict[str, FloatArray]) -> dict[str, Any]:
        """Return the summary of `RankScoring` with `averages`."""
        summary = super().summarize(answers, scores)
        return {**summary, "averages": p3_averages(summary, answers)}


def _mean(scores: Mapping[str, float | None]) -> P3Average:
    present = [score for score in scores.values() if score is not None]
    missing = tuple(name for name, score in scores.items() if score is None)
    return P3Average(None if missing else sum(present) / len(present), missing)
