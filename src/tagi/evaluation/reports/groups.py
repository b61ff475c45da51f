"""Runs that differ in their seed alone, put together; their scores with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np

from tagi.evaluation.reports.records import Record
from tagi.evaluation.reports.settings import Setting, seed_of, setting_of
from tagi.evaluation.scoring.metrics import clustered_bootstrap_interval

MAIN = "main"
MTEST11 = "MTest11"
HYPERT5 = "HyperT5"
RIGHT = "right"


@dataclass(frozen=True)
class Score:
    """A score in percent: the mean over `seeds`, its 95% interval over tasks if one is known, and answers per seed."""

    value: float
    interval: tuple[float, float] | None
    n: int
    seeds: Mapping[int | None, float]

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one seed."""
        return stdev(self.seeds.values()) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Group:
    """Evaluations of one setting, one for each seed."""

    setting: Setting
    runs: tuple[Record, ...]

    @property
    def conditions(self) -> list[str]:
        """All that any of the runs has."""
        return list(dict.fromkeys(name for run in self.runs for name in run.content["results"]))

    @property
    def instances(self) -> int:
        """Test instances; the same of every run."""
        return int(self.runs[0].content["data"]["instances"])

    def metric(self, condition: str = RIGHT) -> str:
        """What a condition's main score is called."""
        return next(str(found["metric"]) for _, found in self._having(condition))

    def score(self, condition: str = RIGHT, of: str = MAIN) -> Score | None:
        """The mean over seeds; None if no run has it. `of` is `MAIN`, or the name of one of P3's averages."""
        if of != MAIN:
            return self._average(condition, of)
        having = self._having(condition)
        if not having:
            return None
        seeds = {seed_of(run): float(found["overall"][found["metric"]]) for run, found in having}
        value = float(np.mean(list(seeds.values())))
        first = having[0][1]
        interval = (first["interval"][0], first["interval"][1]) if len(having) == 1 else _interval(condition, having)
        return Score(value, interval, int(first["n"]), seeds)

    def _having(self, condition: str) -> list[tuple[Record, dict[str, Any]]]:
        return [(run, run.content["results"][condition]) for run in self.runs if condition in run.content["results"]]

    def _average(self, condition: str, name: str) -> Score | None:
        found = {}
        interval, n = None, 0
        for run, result in self._having(condition):
            averages = result.get("averages") or run.content.get("averages") or {}
            average = {key.lower(): one for key, one in averages.items()}.get(name.lower())
            value = average.get("value") if isinstance(average, dict) else average
            if isinstance(value, int | float):
                found[seed_of(run)] = float(value)
                n = int(result["n"])
                interval = average.get("interval") if isinstance(average, dict) else None
        if not found:
            return None
        alone = (interval[0], interval[1]) if interval and len(found) == 1 else None
        return Score(float(np.mean(list(found.values()))), alone, n, found)


def grouped(records: Sequence[Record]) -> list[Group]:
    """Evaluations by their setting, seeds in order, in the order of their first paths."""
    groups: dict[Setting, list[Record]] = {}
    for record in records:
        groups.setdefault(setting_of(record), []).append(record)
    return [
        Group(setting, tuple(sorted(runs, key=lambda run: -1 if (seed := seed_of(run)) is None else seed)))
        for setting, runs in groups.items()
    ]


def _interval(condition: str, having: Sequence[tuple[Record, dict[str, Any]]]) -> tuple[float, float] | None:
    """95% over tasks, drawn with all their instances, of the mean over seeds; None if the tasks' sizes are unknown."""
    metric = having[0][1]["metric"]
    tasks = list(having[0][1]["per_task"])
    if any(found["per_task"].keys() != set(tasks) for _, found in having):
        return None
    means = np.mean([[found["per_task"][task][metric] for task in tasks] for _, found in having], axis=0)
    counts = _counts(condition, having, tasks)
    if counts is None:
        return None
    values = np.repeat(means, counts)
    return clustered_bootstrap_interval(values, np.repeat(tasks, counts).tolist(), seed=0)


def _counts(condition: str, having: Sequence[tuple[Record, dict[str, Any]]], tasks: Sequence[str]) -> list[int] | None:
    """Instances of each task: as predictions have them, else the same of each if the record bears that out."""
    for run, _ in having:
        if condition in run.counts:
            return [run.counts[condition][task] for task in tasks]
    found = having[0][1]
    each, left = divmod(found["n"], len(tasks))
    plain = np.mean([found["per_task"][task][found["metric"]] for task in tasks])
    if left or not np.isclose(plain, found["overall"][found["metric"]], rtol=0, atol=1e-6):
        return None
    return [each] * len(tasks)
