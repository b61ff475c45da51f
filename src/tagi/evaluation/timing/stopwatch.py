"""Wall-clock time of one way to answer against another, in pairs: what noise there is hits both alike.

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
from tagi.evaluation.scoring.metrics import interval_of

Clock = Callable[[], float]
ClockKind = Literal["wall", "processor"]
Step = Callable[[Any], Any]
Chain = Sequence[tuple[str, Step]]
"""Named steps, each given what the one before it made. Steps of one name are one phase."""
Phases = dict[str, float]
"""Seconds by phase."""

WARM_UP = 2
"""Untimed calls of everything before its first timed one."""
_RESAMPLES = 2000
_DRAWN_AT_ONCE = 2_000_000


def _nothing() -> None:
    """A processor has always finished what it was told."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock in seconds, and what waits for a device to finish what it was told: before a call and after it."""

    clock: Clock = time.perf_counter
    synchronize: Callable[[], None] = _nothing

    def time(self, step: Step, given: Any) -> tuple[Any, float]:
        """What `step(given)` gives, and its seconds."""
        self.synchronize()
        begun = self.clock()
        made = step(given)
        self.synchronize()
        return made, self.clock() - begun


def stopwatch(device: torch.device, kind: ClockKind = "wall") -> Stopwatch:
    """For what runs on `device`: wall-clock seconds, or the process's own on its processors, all threads together.

    The latter leave out what other processes take away, and mean nothing where a device does the work.
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
    """Every batch by both, in as many whole passes over the batches as give at least `pairs` pairs.

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
                by_reference, by_candidate = reversed(seconds) if swapped else seconds
                timed.append(Pair(index, swapped, by_reference, by_candidate))
    return timed


def time_phases(
    watch: Stopwatch, chains: Mapping[str, Chain], batches: Sequence[Any], *, rounds: int, warm_up: int = WARM_UP
) -> dict[str, Phases]:
    """Median seconds of every phase of every chain, over `rounds` batches spread evenly.

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


def _run(watch: Stopwatch, chain: Chain, batch: Any) -> Phases:
    phases: Phases = {}
    value = batch
    for name, step in chain:
        value, seconds = watch.time(step, value)
        phases[name] = phases.get(name, 0.0) + seconds
    return phases


def predicted_ratio(reference: Phases, candidate: Phases, once: Phases | None = None) -> float:
    """The ratio that phases timed apart give; `once` are those that a cold instruction adds to the candidate's."""
    return (sum(candidate.values()) + sum((once or {}).values())) / sum(reference.values())


def median_ratio(pairs: Sequence[Pair], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """The median of the pairs' ratios, and a bootstrap 95% interval of that median (percentiles, pairs drawn)."""
    ratios = np.array([pair.ratio for pair in pairs])
    return float(np.median(ratios)), _interval(len(pairs), lambda drawn: np.median(ratios[drawn], axis=1), seed)


def whole_task_ratio(
    pairs: Sequence[Pair], rows: Sequence[int], *, once: float, inputs: int, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """`inputs` answers at the pairs' mean seconds an input, `once` added to the candidate's: what a task takes.

    `rows` is the number of inputs of every batch. With a bootstrap 95% interval (percentiles, pairs drawn).
    """
    counts = np.array([rows[pair.batch] for pair in pairs])
    by_reference, by_candidate = (
        np.array([getattr(pair, name) for pair in pairs]) for name in ("reference", "candidate")
    )

    def ratio(drawn: npt.NDArray[Any]) -> npt.NDArray[Any]:
        share = inputs / counts[drawn].sum(axis=1)
        result: npt.NDArray[Any] = once / (share * by_reference[drawn].sum(axis=1))
        return result + by_candidate[drawn].sum(axis=1) / by_reference[drawn].sum(axis=1)

    everything = np.arange(len(pairs))[None]
    return float(ratio(everything)[0]), _interval(len(pairs), ratio, seed)


def _interval(count: int, statistic: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], seed: int) -> tuple[float, float]:
    """Percentiles of a statistic of resamples; it is given indices, a resample a row."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // count)
    found = np.concatenate(
        [
            statistic(generator.integers(count, size=(min(at_once, _RESAMPLES - start), count)))
            for start in range(0, _RESAMPLES, at_once)
        ]
    )
    return interval_of(found)


@contextmanager
def _collecting_between() -> Iterator[Callable[[], Any]]:
    """No garbage is collected but when the body asks; that is quick: what was there before is not looked through."""
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
