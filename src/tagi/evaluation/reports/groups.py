"""Groups of runs that differ only in their seed, and their scores with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from tagi.evaluation.reports.records import Record
from tagi.evaluation.reports.settings import Setting, seed_of, setting_of
from tagi.evaluation.scoring.statistics import bootstrap_interval, group_by

MAIN = "main"
MTEST11 = "MTest11"
HYPERT5 = "HyperT5"
RIGHT = "right"


@dataclass(frozen=True)
class Score:
    """A score in percent.

    Args:
        value: The mean over the seeds.
        interval: Its 95% interval over tasks, None if unknown.
        n: Number of answers per seed in the mean.
        seeds: The score of each seed.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    seeds: Mapping[int | None, float]

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for a single seed."""
        return stdev(self.seeds.values()) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Group:
    """Evaluations of one setting, one per seed."""

    setting: Setting
    runs: tuple[Record, ...]

    @property
    def conditions(self) -> list[str]:
        """The conditions of all runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.content["results"]))

    def metric(self, condition: str = RIGHT) -> str:
        """Return the name of a condition's main score."""
        return next(str(result["metric"]) for _, result in self._having(condition))

    def score(self, condition: str = RIGHT, of: str = MAIN) -> Score | None:
        """Return the mean score over seeds, None if no run has it; `of` is `MAIN` or one of P3's averages."""
        having = self._having(condition)
        values = [(run, *_value(run, result, of)) for run, result in having]
        values = [one for one in values if one[1] is not None]
        if not values:
            return None
        seeds = {seed_of(run): float(value) for run, value, _ in values}
        interval = values[0][2] if len(values) == 1 else _interval(condition, having) if of == MAIN else None
        return Score(fmean(seeds.values()), interval and (interval[0], interval[1]), _answers(having[0][1]), seeds)

    def _having(self, condition: str) -> list[tuple[Record, dict[str, Any]]]:
        return [(run, run.content["results"][condition]) for run in self.runs if condition in run.content["results"]]


def grouped(records: Sequence[Record]) -> list[Group]:
    """Group evaluations by setting, in the order of their first paths, with seeds in order."""
    return [
        Group(setting, tuple(sorted(runs, key=lambda run: -1 if (seed := seed_of(run)) is None else seed)))
        for setting, runs in group_by(records, setting_of).items()
    ]


def _answers(result: Mapping[str, Any]) -> int:
    """Return the number of answers in a result's main score: not all, if tasks have their own metrics."""
    counts = result.get("counts", {}).get(result["metric"])
    return int(result["n"] if counts is None else counts["answers"])


def _value(run: Record, result: Mapping[str, Any], of: str) -> tuple[Any, Any]:
    """Return a result's main score or one of P3's averages, with its interval, or None."""
    if of == MAIN:
        return result["overall"][result["metric"]], result["interval"]
    averages = result.get("averages") or run.content.get("averages") or {}
    average = {key.lower(): one for key, one in averages.items()}.get(of.lower())
    return (average.get("value"), average.get("interval")) if isinstance(average, dict) else (average, None)


def _interval(condition: str, having: Sequence[tuple[Record, dict[str, Any]]]) -> tuple[float, float] | None:
    """Return the 95% interval of the mean over seeds, from resampled tasks; None if their sizes are unknown."""
    results = [result for _, result in having]
    metric, tasks = results[0]["metric"], list(results[0].get("per_task", ()))
    if not tasks or any(result.get("per_task", {}).keys() != set(tasks) for result in results):
        return None
    counts = _counts(condition, having, tasks)
    if counts is None:
        return None
    means = np.mean([[result["per_task"][task][metric] for task in tasks] for result in results], axis=0)
    return bootstrap_interval(np.repeat(means, counts), np.repeat(tasks, counts).tolist())


def _counts(condition: str, having: Sequence[tuple[Record, dict[str, Any]]], tasks: Sequence[str]) -> list[int] | None:
    """Return the weight of each task in the main score: its number of instances, or 1 if all tasks count the same.

    Instances are counted in the predictions. Without these, all tasks have the same number if the record agrees.
    """
    if all("counts" in result for _, result in having):
        return [1] * len(tasks)
    for run, _ in having:
        if condition in run.counts:
            return [run.counts[condition][task] for task in tasks]
    found = having[0][1]
    each, left = divmod(found["n"], len(tasks))
    plain = np.mean([found["per_task"][task][found["metric"]] for task in tasks])
    if left or not np.isclose(plain, found["overall"][found["metric"]], rtol=0, atol=1e-6):
        return None
    return [each] * len(tasks)
