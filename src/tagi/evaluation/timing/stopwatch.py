"""Timing of one method relative to another in pairs, so that noise affects both equally.

A pair is the same batch answered by both, one directly after the other. A ratio is the candidate's time divided by the
reference's: below 1, the candidate is faster.
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
        synchronize: Waits for the device, before and after a call. Does nothing on a CPU.
    """

    clock: Clock = time.perf_counter
    synchronize: Callable[[], object] = lambda: None

    def time(self, step: Step, given: Any) -> tuple[Any, float]:
        """Return the result of `step(given)` and its time in seconds."""
        self.synchronize()
        begun = self.clock()
        made = step(given)
        self.synchronize()
        return made, self.clock() - begun


def stopwatch(device: torch.device, kind: ClockKind = "wall") -> Stopwatch:
    """Return a stopwatch for a device: wall-clock time, or the processor time of all threads of this process.

    Processor time does not include other processes. It is meaningless on an accelerator: `InputError`.
    """
    if kind == "processor":
        if device.type != "cpu":
            raise InputError(f"--clock processor: expected what runs on a processor, got {device.type}")
        return Stopwatch(time.process_time)
    return Stopwatch(synchronize=torch.cuda.synchronize) if device.type == "cuda" else Stopwatch()


@dataclass(frozen=True, slots=True)
class Pair:
    """Times of one batch in seconds. `swapped` means that the candidate ran first."""

    batch: int
    swapped: bool
    reference: float
    candidate: float

    @property
    def ratio(self) -> float:
        """The candidate's time divided by the reference's."""
        return self.candidate / self.reference


def time_pairs(
    watch: Stopwatch, reference: Step, candidate: Step, batches: Sequence[Any], *, pairs: int, warm_up: int = WARM_UP
) -> list[Pair]:
    """Time every batch with both methods, in as many passes over the batches as give at least `pairs` pairs.

    The order alternates within a pass, and for every batch between passes. Python's garbage collector runs only between
    pairs.
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
    """Return the median time of every phase of every chain in seconds, over `rounds` evenly spaced batches.

    Each round runs all chains on one batch. The order of chains is reversed in every other round.
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
    """Return the ratio predicted from separately timed phases; all of the candidate's are added."""
    return sum(sum(phases.values()) for phases in candidate) / sum(reference.values())


def median_ratio(pairs: Sequence[Pair]) -> tuple[float, tuple[float, float]]:
    """Return the median of the pairs' ratios, and its 95% percentile bootstrap interval over pairs."""
    ratios = np.array([pair.ratio for pair in pairs])
    drawn = resample(len(pairs), lambda indices: np.median(ratios[indices], axis=1), 0, _RESAMPLES)
    return float(np.median(ratios)), percentile_interval(drawn)


def whole_task_ratio(
    pairs: Sequence[Pair], rows: Sequence[int], *, once: float, inputs: int
) -> tuple[float, tuple[float, float]]:
    """Return the ratio for a whole task, with a 95% percentile bootstrap interval over pairs.

    Args:
        pairs: Pairs of warm answers, from which the mean time per input is computed.
        rows: Number of inputs in each pair's batch.
        once: Time that the candidate needs once per task, in seconds.
        inputs: Number of inputs of the task.
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
    """Collect garbage only when the body requests it. Existing objects are frozen, so collection is fast."""
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
