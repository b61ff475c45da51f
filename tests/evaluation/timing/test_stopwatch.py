"""Pairs, ratios, intervals and predictions on planted durations: no test here knows how fast anything is."""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tagi.errors import InputError
from tagi.evaluation.timing.stopwatch import (
    Pair,
    Stopwatch,
    median_ratio,
    predicted_ratio,
    stopwatch,
    time_pairs,
    time_phases,
    whole_task_ratio,
)


class Planted:
    """A clock that moves only when a step says so, and a log of who was called with what."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[tuple[str, Any]] = []
        self.watch = Stopwatch(clock=lambda: self.now)

    def step(self, name: str, seconds: Sequence[float] | float) -> Any:
        """Takes `seconds`, or the seconds at the place that the batch names; gives the batch back."""

        def run(batch: Any) -> Any:
            self.log.append((name, batch))
            self.now += seconds if isinstance(seconds, int | float) else seconds[batch]
            return batch

        return run

    def timed(self, calls: int) -> list[tuple[str, Any]]:
        """The last `calls` of the log."""
        return self.log[-calls:]


@pytest.fixture
def planted() -> Planted:
    return Planted()


def pair(reference: float, candidate: float, batch: int = 0) -> Pair:
    return Pair(batch, False, reference, candidate)


def test_a_pair_is_one_batch_by_both_and_its_ratio_is_theirs(planted: Planted) -> None:
    reference, candidate = planted.step("reference", [2.0, 4.0, 10.0]), planted.step("candidate", [1.0, 3.0, 15.0])
    pairs = time_pairs(planted.watch, reference, candidate, [0, 1, 2], pairs=3)
    assert [(one.batch, one.reference, one.candidate) for one in pairs] == [
        (0, 2.0, 1.0),
        (1, 4.0, 3.0),
        (2, 10.0, 15.0),
    ]
    assert [one.ratio for one in pairs] == [0.5, 0.75, 1.5]
    calls = planted.timed(6)
    assert [batch for _, batch in calls] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("batches", [1, 4, 5])
def test_who_goes_first_alternates_between_batches_and_for_every_batch(planted: Planted, batches: int) -> None:
    steps = planted.step("reference", 2.0), planted.step("candidate", 1.0)
    pairs = time_pairs(planted.watch, *steps, list(range(batches)), pairs=4 * batches)
    assert [one.swapped for one in pairs[:batches]] == [index % 2 == 1 for index in range(batches)]
    for batch in range(batches):
        assert [one.swapped for one in pairs if one.batch == batch] == [
            batch % 2 == (turn + 1) % 2 for turn in range(4)
        ]
    first = [name for name, _ in planted.timed(2 * len(pairs))[::2]]
    assert first == ["candidate" if one.swapped else "reference" for one in pairs]
    assert {one.ratio for one in pairs} == {0.5}


@pytest.mark.parametrize(("batches", "asked", "given"), [(100, 20, 100), (4, 20, 20), (3, 20, 21), (1, 7, 7)])
def test_every_batch_is_in_as_many_pairs_as_every_other(planted: Planted, batches: int, asked: int, given: int) -> None:
    steps = planted.step("reference", 1.0), planted.step("candidate", 1.0)
    pairs = time_pairs(planted.watch, *steps, list(range(batches)), pairs=asked)
    assert len(pairs) == given
    assert {sum(one.batch == batch for one in pairs) for batch in range(batches)} == {given // batches}


def test_first_calls_are_not_timed(planted: Planted) -> None:
    slow = iter([50.0, 50.0])

    def candidate(_batch: int) -> None:
        planted.now += next(slow, 1.0)

    pairs = time_pairs(planted.watch, planted.step("reference", 2.0), candidate, [0, 1], pairs=2)
    assert [one.candidate for one in pairs] == [1.0, 1.0]


def test_a_device_is_waited_for_before_and_after() -> None:
    """A device works on after a call has returned: what it was told before is not this step's."""
    now, queued = 0.0, 7.0

    def synchronize() -> None:
        nonlocal now, queued
        now, queued = now + queued, 0.0

    def step(_given: int) -> str:
        nonlocal now, queued
        now, queued = now + 1.0, queued + 3.0
        return "made"

    assert Stopwatch(lambda: now, synchronize).time(step, 0) == ("made", 4.0)


@pytest.fixture
def collector() -> Iterator[None]:
    was_on = gc.isenabled()
    yield
    (gc.enable if was_on else gc.disable)()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("on", [True, False])
def test_no_garbage_is_collected_inside_a_pair_but_between(
    planted: Planted, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    (gc.enable if on else gc.disable)()
    steps = [lambda _: seen.append(gc.isenabled())] * 2
    time_pairs(Stopwatch(map(float, range(100)).__next__), *steps, [0], pairs=3, warm_up=0)
    time_phases(planted.watch, {"a": [("one", steps[0])]}, [0], rounds=2, warm_up=0)
    assert seen == [False] * 8
    assert gc.isenabled() is on
    monkeypatch.setattr(gc, "collect", lambda: planted.log.append(("collected", None)))
    time_pairs(planted.watch, planted.step("a", 1.0), planted.step("b", 1.0), [0], pairs=2, warm_up=0)
    assert [name for name, _ in planted.log] == ["collected", "collected", "a", "b", "collected", "b", "a"]
    assert gc.get_freeze_count() == 0
    with pytest.raises(ZeroDivisionError):
        time_pairs(planted.watch, lambda _: 1 // 0, steps[1], [0], pairs=1, warm_up=0)
    assert gc.isenabled() is on


def test_phases_are_medians_by_name_and_steps_of_one_name_are_one(planted: Planted) -> None:
    chain = [("words", planted.step("in", 1.0)), ("encode", planted.step("encode", [2.0, 3.0, 30.0]))]
    chain.append(("words", planted.step("out", 0.5)))
    other = [("decode", planted.step("decode", 9.0))]
    phases = time_phases(planted.watch, {"first": chain, "second": other}, [0, 1, 2], rounds=3)
    assert phases == {"first": {"words": 1.5, "encode": 3.0}, "second": {"decode": 9.0}}
    calls = [name for name, _ in planted.timed(12)]
    assert calls == ["in", "encode", "out", "decode", "decode", "in", "encode", "out", "in", "encode", "out", "decode"]


@pytest.mark.parametrize(("rounds", "taken"), [(3, [0, 3, 6]), (9, list(range(9))), (18, [i // 2 for i in range(18)])])
def test_rounds_are_spread_over_the_batches(planted: Planted, rounds: int, taken: list[int]) -> None:
    time_phases(planted.watch, {"a": [("one", planted.step("a", 1.0))]}, list(range(9)), rounds=rounds)
    assert [batch for _, batch in planted.timed(rounds)] == taken


def test_a_step_is_given_what_the_one_before_it_made(planted: Planted) -> None:
    chain = [("one", lambda given: given + "b"), ("two", lambda given: planted.log.append(("two", given)))]
    time_phases(planted.watch, {"a": chain}, ["a"], rounds=1, warm_up=0)
    assert planted.log == [("two", "ab")]


def test_the_predicted_ratio_is_of_sums_and_a_cold_one_adds_the_instruction() -> None:
    reference, candidate = {"encode": 6.0, "decode": 2.0}, {"encode": 3.0, "decode": 2.5}
    assert predicted_ratio(reference, candidate) == 5.5 / 8
    assert predicted_ratio(reference, candidate, {"read": 2.0, "generate": 0.5}) == 5.5 / 8 + 2.5 / 8


def test_the_median_of_ratios_and_its_interval() -> None:
    ratio, (low, high) = median_ratio([pair(2.0, 1.0), pair(1.0, 10.0), pair(4.0, 3.0)])
    assert (ratio, low, high) == (0.75, 0.5, 10.0)
    assert median_ratio([pair(4.0, 3.0)] * 5) == (0.75, (0.75, 0.75))
    # Of 101 values the median's interval lies at ranks 51 -+ 1.96 * sqrt(101) / 2.
    many = [pair(1.0, float(value)) for value in range(101)]
    ratio, interval = median_ratio(many)
    assert ratio == 50
    assert interval == pytest.approx((40, 60), abs=1.5)
    assert median_ratio(many) == (ratio, interval)


def test_a_whole_task_reads_its_instruction_once() -> None:
    pairs = [pair(8.0, 4.0, 0), pair(2.0, 1.0, 1)]
    ratio, interval = whole_task_ratio(pairs, [4, 1], once=5.0, inputs=20)
    assert ratio == pytest.approx((5 + 20 * 5 / 5) / (20 * 10 / 5))
    assert interval[0] == interval[1] == pytest.approx(ratio)  # both batches take 2 and 1 seconds an input
    assert whole_task_ratio(pairs, [4, 1], once=0.0, inputs=20)[0] == pytest.approx(0.5)
    uneven = [pair(2.0, 1.0, 1), pair(2.0, 3.0, 1)]
    ratio, (low, high) = whole_task_ratio(uneven, [4, 1], once=0.0, inputs=20)
    assert (low, ratio, high) == pytest.approx((0.5, 1.0, 1.5))


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 3.0)
    monkeypatch.setattr("time.process_time", lambda: 5.0)
    assert stopwatch(torch.device("cpu"), "processor").clock() == 5.0
    with pytest.raises(InputError, match="expected what runs on a processor, got cuda"):
        stopwatch(torch.device("cuda"), "processor")
    assert stopwatch(torch.device("cuda")).synchronize is torch.cuda.synchronize
