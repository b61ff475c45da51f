"""One set of scores against another on the same instances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tagi.data.task import Task
from tagi.evaluation.scoring.metrics import FloatArray, clustered_bootstrap_interval

ByTask = Mapping[str, FloatArray]
"""A score per instance, by task."""


def by_task(values: FloatArray, tasks: Sequence[Task]) -> ByTask:
    """Scores of every instance of the tasks, in order, parted by task."""
    ends = np.cumsum([len(task.instances) for task in tasks])
    if len(values) != ends[-1]:
        raise ValueError(f"expected a score for each of {ends[-1]} instances, got {len(values)}")
    return {task.name: own for task, own in zip(tasks, np.split(values, ends[:-1]), strict=True)}


def task_means(values: ByTask) -> ByTask:
    """Return one value for each task, its mean, so that every task counts the same; tasks with NaN are left out."""
    return {task: own.mean(keepdims=True) for task, own in values.items() if not np.isnan(own).any()}


def paired_difference(values: ByTask, reference: ByTask) -> dict[str, Any]:
    """Mean of `values - reference` over the instances of the tasks in `values`, with a 95% interval over tasks."""
    differences = [own - reference[task] for task, own in values.items()]
    labels = [task for task, own in values.items() for _ in own]
    joined = np.concatenate(differences)
    low, high = clustered_bootstrap_interval(joined, labels, seed=0)
    return {"mean": float(joined.mean()), "interval": [low, high], "tasks": len(values), "n": len(joined)}
