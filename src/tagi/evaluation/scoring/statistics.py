"""Means of scores, overall and by group, their bootstrap intervals, and paired differences."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tagi.data.task import Task

FloatArray = npt.NDArray[np.float64]
Values = Sequence[float | int] | npt.NDArray[Any]
ByTask = Mapping[str, FloatArray]
"""A score for every instance, by task."""
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

RESAMPLES = 1000
# Random numbers per block, which limits memory for large test sets.
_DRAWN_AT_ONCE = 2_000_000


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Group the items by key. Keys and items keep their order."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def group_means(scores: Mapping[str, FloatArray], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean of every score in every group. `groups` has the group of each value."""
    members = group_by(range(len(groups)), lambda index: groups[index])
    return {group: means({name: values[own] for name, values in scores.items()}) for group, own in members.items()}


def means(scores: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return the mean of every score."""
    return {name: float(values.mean()) for name, values in scores.items()}


def bootstrap_interval(
    values: Values,
    clusters: Sequence[Hashable] | None = None,
    *,
    weights: Values | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the mean of `values`.

    For a paired comparison, pass the differences. Equal arguments give equal intervals.

    Args:
        values: One score for each instance.
        clusters: The cluster (task) of each value. If given, whole clusters are resampled. Instances of one task are
            similar, so only this interval is about unseen tasks. Otherwise values are resampled.
        weights: A positive weight for each value. The interval is then that of the weighted mean.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.
        level: Confidence level.

    Raises `ValueError` for no values, values that are not finite, different lengths, or a `level` outside (0, 1).
    """
    drawn = resampled_means(values, clusters, weights=weights, seed=seed, resamples=resamples)
    return percentile_interval(drawn, level)


def resampled_means(
    values: Values,
    clusters: Sequence[Hashable] | None = None,
    *,
    weights: Values | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> FloatArray:
    """Return the resamples' means of `bootstrap_interval`, so that they can be combined with others."""
    array = _finite(values)
    clusters = range(len(array)) if clusters is None else clusters
    if len(clusters) != len(array):
        raise ValueError(f"expected a cluster for each of {len(array)} values, got {len(clusters)}")
    shares = np.ones_like(array) if weights is None else _finite(weights)
    if len(shares) != len(array) or (shares <= 0).any():
        raise ValueError(f"expected a positive weight for each of {len(array)} values, got {weights}")
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums = np.zeros(len(numbers))
    np.add.at(sums, member, array * shares)
    counts = np.bincount(member, weights=shares)
    return resample(
        len(sums),
        lambda drawn: sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1),
        seed,
        resamples,
    )


def resample(units: int, statistic: Callable[[npt.NDArray[Any]], Any], seed: int, resamples: int) -> FloatArray:
    """Return a statistic of every resample. The statistic gets the indices of the drawn units, `(resample, unit)`."""
    if resamples < 1:
        raise ValueError(f"expected resamples >= 1, got {resamples}")
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // units)
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    return np.concatenate([statistic(generator.integers(units, size=(size, units))) for size in sizes])


def percentile_interval(values: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval (low, high) that contains a share `level` of the values."""
    if not 0 < level < 1:
        raise ValueError(f"expected 0 < level < 1, got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_task(values: FloatArray, tasks: Sequence[Task]) -> ByTask:
    """Split the scores of all instances of the tasks, in order, by task."""
    ends = np.cumsum([len(task.instances) for task in tasks])
    if len(values) != ends[-1]:
        raise ValueError(f"expected a score for each of {ends[-1]} instances, got {len(values)}")
    return {task.name: own for task, own in zip(tasks, np.split(values, ends[:-1]), strict=True)}


def task_means(values: ByTask) -> ByTask:
    """Return each task's mean, so that all tasks have equal weight. Tasks with NaN are left out."""
    return {task: own.mean(keepdims=True) for task, own in values.items() if not np.isnan(own).any()}


def task_interval(values: ByTask) -> dict[str, Any]:
    """Return the `mean` over all instances, its 95% `interval` over tasks, and the numbers of `tasks` and instances."""
    joined = np.concatenate(list(values.values()))
    interval = bootstrap_interval(joined, [task for task, own in values.items() for _ in own])
    return {"mean": float(joined.mean()), "interval": list(interval), "tasks": len(values), "n": len(joined)}


def paired_difference(values: ByTask, reference: ByTask) -> dict[str, Any]:
    """Return `task_interval` of `values - reference` over the instances of the tasks in `values`."""
    return task_interval({task: own - reference[task] for task, own in values.items()})


def mean_over_seeds(runs: Sequence[ByTask]) -> ByTask:
    """Return each instance's mean over runs that differ in their seed.

    Raises `ValueError` if the runs' tasks or their numbers of instances are not the same.
    """
    sizes = [{task: len(own) for task, own in run.items()} for run in runs]
    if any(other != sizes[0] for other in sizes):
        raise ValueError("expected the same tasks and instances under every seed")
    return {task: np.mean([run[task] for run in runs], axis=0) for task in runs[0]}


def _finite(values: Values) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected a sequence of finite values, got {array.size} values of shape {array.shape}")
    return array
