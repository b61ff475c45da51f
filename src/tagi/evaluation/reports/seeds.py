"""Methods side by side on the same test tasks: scores over seeds, and seconds of any of them in pairs with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tagi.data.task import Task
from tagi.evaluation.scoring.answers import by_length
from tagi.evaluation.scoring.metrics import clustered_bootstrap_interval
from tagi.evaluation.scoring.paired import ByTask, paired_difference
from tagi.evaluation.timing.stopwatch import Step, Stopwatch, median_ratio, time_pairs
from tagi.methods.protocol import Method


@dataclass(frozen=True, slots=True)
class SeedScores:
    """A metric in percent: every instance's score by task, the mean over seeds, and the mean of every seed."""

    mean: float
    interval: tuple[float, float]
    n: int
    seeds: dict[int, float]
    values: ByTask


def over_seeds(runs: dict[int, ByTask]) -> SeedScores:
    """Scores of the same instances under several seeds as one: each instance's mean over them.

    The 95% interval is over tasks, drawn with all their instances; the spread over seeds is in `seeds`. Raises
    `ValueError` if the seeds' instances are not the same in number.
    """
    first = next(iter(runs.values()))
    if any(
        {task: len(own) for task, own in run.items()} != {task: len(own) for task, own in first.items()}
        for run in runs.values()
    ):
        raise ValueError("expected the same tasks and instances under every seed")
    values = {task: np.mean([run[task] for run in runs.values()], axis=0) for task in first}
    joined = np.concatenate(list(values.values()))
    labels = [task for task, own in values.items() for _ in own]
    seeds = {seed: float(np.concatenate(list(run.values())).mean()) for seed, run in runs.items()}
    low, high = clustered_bootstrap_interval(joined, labels, seed=0)
    return SeedScores(float(joined.mean()), (low, high), len(joined), seeds, values)


def difference(one: SeedScores, other: SeedScores) -> dict[str, Any]:
    """Mean of `one - other`, paired over instances, with its 95% interval over tasks."""
    return paired_difference(one.values, other.values)


def time_ratio(
    watch: Stopwatch, method: Method, reference: Method, task: Task, *, batch_size: int, output: int, pairs: int
) -> dict[str, Any]:
    """Seconds of `method` over those of `reference` for one task's inputs, what is done once for the task done before.

    Every answer of both has `output` tokens. The median of at least `pairs` pairs, with its bootstrap 95% interval.
    """
    texts = [instance.input for instance in task.instances]
    batches = [[texts[at] for at in chosen] for chosen in by_length(texts, batch_size)]
    timed = time_pairs(watch, _asked(reference, task, output), _asked(method, task, output), batches, pairs=pairs)
    ratio, interval = median_ratio(timed)
    return {
        "ratio": ratio,
        "interval": list(interval),
        "pairs": len(timed),
        "batch_size": batch_size,
        "task": task.name,
    }


def _asked(method: Method, task: Task, output: int) -> Step:
    states = method.prepare([task], truncate=True)

    def answer(inputs: Sequence[str]) -> list[str]:
        rows = torch.zeros(len(inputs), dtype=torch.long)
        return method.predict(states, rows, inputs, max_new_tokens=output, min_new_tokens=output, truncate=True)

    return answer
