"""Timing one way to answer against another, in pairs: noise affects both alike.

A pair is the same batch answered by both, one right after the other. A ratio is the candidate's seconds over the
reference's, so that below 1 the candidate is faster.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from tagi.errors import InputError
from tagi.evaluation.scoring.statistics import percentile_interval, resample

Clock = Callable[[], float]
ClockKind = Literal["wall", "processor"]
Step = Callable[[Any], Any]
Chain = Sequence[tuple[str, Step]]
"""Named steps, each given the result of the one before it. Steps of one name are one phase."""
Phases = dict[str, float]
"""Seconds by phase."""

WARM_UP = 2
"""Untimed calls of each step before its first timed one."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Stopwatch:
    """Times calls.

    Args:
        clock: Returns seconds.
        synchronize: Waits for a device to finish its work, before a call and after it. On a processor nothing is left.
    """

    clock: Clock = time.perf_counter
    synchronize: Callable[[], object] = lambda: None

    def time(self, step: Step, given: Any) -> tuple[Any, float]:
        """Return what `step(given)` returns, and its seconds."""
        self.synchronize()
        begun = self.clock()
        made = step(given)
        self.synchronize()
        return made, self.clock() - begun


def stopwatch(device: torch.device, kind: ClockKind = "wall") -> Stopwatch:
    """Return a stopwatch for a device: wall-clock seconds, or the process's own on its processors, of all threads.

    The latter leave out what other processes take, and mean nothing where an accelerator does the work: `InputError`.
    """
    if kind == "processor":
        if device.type != "cpu":
            raise InputError(f"--clock processor: expected what runs on a processor, got {device.type}")
        return Stopwatch(time.process_time)
    return Stopwatch(synchronize=torch.cuda.synchronize) if device.type == "cuda" else Stopwatch()


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of one batch by both; `swapped` if the candidate went first."""

    batch: int
    swapped: bool
    reference: float
    candidate: float

    @property
    def ratio(self) -> float:
        """The candidate's seconds over the reference's."""
        return self.candidate / self.reference


def time_pairs(
    watch: Stopwatch, reference: Step, candidate: Step, batches: Sequence[Any], *, pairs: int, warm_up: int = WARM_UP
) -> list[Pair]:
    """Time every batch by both, in as many whole passes over the batches as give at least `pairs` pairs.

    Who goes first alternates within a pass, and for every batch from pass to pass. Python's garbage collector runs
    between pairs and not in them.
    """
    for step in (reference, candidate):
        for at in range(warm_up):
            step(batches[-at % len(batches)])
    timed = []
    with _collecting_between() as collect:
        for turn in range(math.ceil(pairs / len(batches))):
            for index, batch in enumerate(batches):
                swapped = (turn + index) % 2 == 1
                collect()
                order = (candidate, reference) if swapped else (reference, candidate)
                seconds = [watch.time(step, batch)[1] for step in order]
                timed.append(Pair(index, swapped, *(seconds[::-1] if swapped else seconds)))
    return timed


def time_phases(
    watch: Stopwatch, chains: Mapping[str, Chain], batches: Sequence[Any], *, rounds: int, warm_up: int = WARM_UP
) -> dict[str, Phases]:
    """Return the median seconds of every phase of every chain, over `rounds` batches spread evenly.

    Each round takes all chains over one batch, in reversed order every other time.
    """
    for chain in chains.values():
        for at in range(warm_up):
            _run(watch, chain, batches[-at % len(batches)])
    seconds: dict[str, list[Phases]] = {name: [] for name in chains}
    with _collecting_between() as collect:
        for turn in range(rounds):
            batch = batches[turn * len(batches) // rounds]
            collect()
            for name in list(chains) if turn % 2 == 0 else list(chains)[::-1]:
                seconds[name].append(_run(watch, chains[name], batch))
    return {
        name: {phase: median(one[phase] for one in rounds_of) for phase in rounds_of[0]}
        for name, rounds_of in seconds.items()
    }


def _run(watch: Stopwatch, chain: Chain, value: Any) -> Phases:
    phases: Phases = {}
    for name, step in chain:
        value, seconds = watch.time(step, value)
        phases[name] = phases.get(name, 0.0) + seconds
    return phases


def predicted_ratio(reference: Phases, *candidate: Phases) -> float:
    """Return the ratio that phases timed apart give; the candidate's are of an answer and of what comes with it."""
    return sum(sum(phases.values()) for phases in candidate) / sum(reference.values())


def median_ratio(pairs: Sequence[Pair]) -> tuple[float, tuple[float, float]]:
    """Return the median of the pairs' ratios, and its bootstrap 95% interval (percentiles, pairs drawn)."""
    ratios = np.array([pair.ratio for pair in pairs])
    drawn = resample(len(pairs), lambda indices: np.median(ratios[indices], axis=1), 0, _RESAMPLES)
    return float(np.median(ratios)), percentile_interval(drawn)


def whole_task_ratio(
    pairs: Sequence[Pair], rows: Sequence[int], *, once: float, inputs: int
) -> tuple[float, tuple[float, float]]:
    """Return the ratio for a whole task, with a bootstrap 95% interval (percentiles, pairs drawn).

    Args:
        pairs: Pairs of warm answers, which give the mean seconds of an input.
        rows: The number of inputs of every batch.
        once: Seconds that the candidate needs once for the task.
        inputs: How many inputs the task has.
    """
    counts = np.array([rows[pair.batch] for pair in pairs])
    by_reference = np.array([pair.reference for pair in pairs])
    by_candidate = np.array([pair.candidate for pair in pairs])

    def ratio(drawn: npt.NDArray[Any]) -> npt.NDArray[Any]:
        share = inputs / counts[drawn].sum(axis=1)
        result: npt.NDArray[Any] = once / share + by_candidate[drawn].sum(axis=1)
        return result / by_reference[drawn].sum(axis=1)

    everything = np.arange(len(pairs))[None]
    return float(ratio(everything)[0]), percentile_interval(resample(len(pairs), ratio, 0, _RESAMPLES))


@contextmanager
def _collecting_between() -> Iterator[Callable[[], Any]]:
    """Collect no garbage except when the body asks; that is quick: what was there before is not looked through."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
