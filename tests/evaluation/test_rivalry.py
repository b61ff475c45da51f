"""Scores over seeds, differences, and seconds of one method in pairs with another."""

import numpy as np
import pytest

from tagi.evaluation.reports.seeds import difference, over_seeds, time_ratio
from tagi.evaluation.timing.stopwatch import Stopwatch
from tests.evaluation.echo import Echo, tasks


def test_seeds_are_put_together_instance_by_instance() -> None:
    first = {"a": np.array([0.0, 100.0]), "b": np.array([100.0, 100.0, 0.0])}
    second = {"a": np.array([100.0, 100.0]), "b": np.array([0.0, 100.0, 0.0])}
    scores = over_seeds({3: first, 5: second})
    assert scores.values["a"].tolist() == [50.0, 100.0]
    assert scores.values["b"].tolist() == [50.0, 100.0, 0.0]
    assert (scores.mean, scores.n) == (60.0, 5)
    assert scores.seeds == {3: 60.0, 5: 60.0}
    low, high = scores.interval
    assert low <= 60.0 <= high


def test_seeds_of_other_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="the same tasks and instances"):
        over_seeds({0: {"a": np.zeros(2)}, 1: {"a": np.zeros(3)}})


def test_a_difference_is_paired_by_instance_and_drawn_by_task() -> None:
    ours = over_seeds({0: {"a": np.full(2, 80.0), "b": np.full(3, 50.0)}})
    theirs = over_seeds({0: {"a": np.full(2, 60.0), "b": np.full(3, 50.0)}})
    found = difference(ours, theirs)
    assert found["mean"] == pytest.approx(8.0)
    assert found["interval"] == pytest.approx([0.0, 20.0])
    assert found["tasks"] == 2


class Slow(Echo):
    """An echo that takes time on a clock of its own, by input and for a task."""

    def __init__(self, clock: list[float], each: float, once: float) -> None:
        super().__init__()
        self.clock, self.each, self.once = clock, each, once

    def prepare(self, tasks, *, truncate=False):  # type: ignore[no-untyped-def]
        self.clock[0] += self.once
        return super().prepare(tasks, truncate=truncate)

    def predict(self, states, rows, inputs, **given):  # type: ignore[no-untyped-def]
        assert given["min_new_tokens"] == given["max_new_tokens"] == 7
        self.clock[0] += self.each * len(inputs)
        return super().predict(states, rows, inputs)


def test_time_is_of_inputs_and_not_of_what_is_done_once() -> None:
    clock = [0.0]
    watch = Stopwatch(clock=lambda: clock[0])
    task = tasks()[1]
    found = time_ratio(watch, Slow(clock, 3.0, 500.0), Slow(clock, 2.0, 0.0), task, batch_size=3, output=7, pairs=5)
    assert found["ratio"] == pytest.approx(1.5)
    assert found["interval"] == pytest.approx([1.5, 1.5])
    assert found["pairs"] == 6  # three passes over two batches
