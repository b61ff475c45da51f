"""Means, intervals and paired differences: by hand, and where the formula is known."""

import numpy as np
import pytest

from tagi.evaluation.scoring.statistics import (
    bootstrap_interval,
    by_task,
    mean_over_seeds,
    paired_difference,
    task_interval,
)
from tests.evaluation.echo import tasks


def test_scores_are_parted_by_task() -> None:
    parted = by_task(np.arange(7.0), tasks())
    assert {name: own.tolist() for name, own in parted.items()} == {"a": [0], "b": [1, 2, 3, 4], "c": [5, 6]}
    with pytest.raises(ValueError, match="a score for each of 7 instances, got 6"):
        by_task(np.arange(6.0), tasks())


def test_the_difference_is_over_the_tasks_at_hand() -> None:
    right = by_task(np.array([9.0, 1, 2, 3, 4, 50, 70]), tasks())
    own = by_task(np.array([10.0, 20, 20]), [tasks()[0], tasks()[2]])
    found = paired_difference(own, right)
    differences = [1.0, -30, -50]
    assert found == {
        "mean": pytest.approx(np.mean(differences)),
        "interval": list(bootstrap_interval(differences, ["a", "c", "c"], seed=0)),
        "tasks": 2,
        "n": 3,
    }


def test_what_all_instances_share_cancels() -> None:
    random = np.random.default_rng(2)
    right = by_task(random.normal(50, 30, size=7), tasks())
    own = {name: values - 3 for name, values in right.items()}
    found = paired_difference(own, right)
    assert found["mean"] == pytest.approx(-3)
    assert found["interval"] == pytest.approx([-3, -3])


def test_seeds_are_put_together_instance_by_instance() -> None:
    first = {"a": np.array([0.0, 100.0]), "b": np.array([100.0, 100.0, 0.0])}
    second = {"a": np.array([100.0, 100.0]), "b": np.array([0.0, 100.0, 0.0])}
    values = mean_over_seeds([first, second])
    assert values["a"].tolist() == [50.0, 100.0]
    assert values["b"].tolist() == [50.0, 100.0, 0.0]
    found = task_interval(values)
    assert (found["mean"], found["n"], found["tasks"]) == (60.0, 5, 2)
    low, high = found["interval"]
    assert low <= 60.0 <= high


def test_seeds_of_other_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="the same tasks and instances"):
        mean_over_seeds([{"a": np.zeros(2)}, {"a": np.zeros(3)}])


def test_a_difference_is_paired_by_instance_and_drawn_by_task() -> None:
    ours = {"a": np.full(2, 80.0), "b": np.full(3, 50.0)}
    theirs = {"a": np.full(2, 60.0), "b": np.full(3, 50.0)}
    found = paired_difference(ours, theirs)
    assert found["mean"] == pytest.approx(8.0)
    assert found["interval"] == pytest.approx([0.0, 20.0])
    assert found["tasks"] == 2


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(3).normal(40, 15, size=900)
    low, high = bootstrap_interval(values, seed=5, resamples=4000)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)
    narrower = bootstrap_interval(values, seed=5, resamples=4000, level=0.8)
    assert low < narrower[0] < values.mean() < narrower[1] < high


def test_intervals_are_a_function_of_the_seed():
    values = list(range(37))
    assert (
        bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    )
    assert bootstrap_interval([4.5], seed=1) == (4.5, 4.5)


def test_large_samples_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(7).normal(size=50)
    whole = bootstrap_interval(values, seed=2, resamples=3000)
    monkeypatch.setattr("tagi.evaluation.scoring.statistics._DRAWN_AT_ONCE", 170)
    assert bootstrap_interval(values, seed=2, resamples=3000) == pytest.approx(whole, abs=0.05)


def test_clusters_are_drawn_whole():
    # Alike within tasks: only the tasks count, and drawing single instances would look four times too sure.
    means = np.random.default_rng(11).normal(size=30)
    values, tasks = np.repeat(means, 16), [f"t{index}" for index in range(30) for _ in range(16)]
    clustered = bootstrap_interval(values, tasks, seed=4, resamples=2000)
    assert clustered == pytest.approx(bootstrap_interval(means, seed=4, resamples=2000))
    single = bootstrap_interval(values, seed=4, resamples=2000)
    assert clustered[1] - clustered[0] == pytest.approx(4 * (single[1] - single[0]), rel=0.1)


def test_clusters_weigh_by_their_instances():
    # Of two clusters one is drawn twice (mean 1 or 0, a quarter of the time each) or both once (mean 3/4).
    values, tasks = [1, 0, 1, 1], ["a", "b", "a", "a"]
    assert bootstrap_interval(values, tasks, seed=0, level=0.2) == (0.75, 0.75)
    assert bootstrap_interval(values, tasks, seed=0, level=0.9) == (0.0, 1.0)


def test_weights_make_a_weighted_mean():
    # As above, but "b" weighs three times as much: both once is (1 + 1 + 1 + 3 * 0) / 6.
    values, tasks, weights = [1, 0, 1, 1], ["a", "b", "a", "a"], [1, 3, 1, 1]
    assert bootstrap_interval(values, tasks, seed=0, level=0.2, weights=weights) == (0.5, 0.5)
    values = np.random.default_rng(2).normal(size=40)
    clusters = [index % 13 for index in range(40)]
    plain = bootstrap_interval(values, clusters, seed=3)
    assert bootstrap_interval(values, clusters, seed=3, weights=[0.25] * 40) == pytest.approx(plain)
    for wrong in ([1.0] * 39, [1.0] * 39 + [0.0]):
        with pytest.raises(ValueError, match="expected a positive weight for each of 40 values"):
            bootstrap_interval(values, clusters, seed=3, weights=wrong)


def test_intervals_of_nothing():
    for values in ([], [1.0, float("nan")], [[1.0], [2.0]]):
        with pytest.raises(ValueError, match="expected a sequence of finite values"):
            bootstrap_interval(np.array(values, dtype=float))
    with pytest.raises(ValueError, match="expected 0 < level < 1, got 95"):
        bootstrap_interval([1.0], level=95.0)
    with pytest.raises(ValueError, match="expected resamples >= 1"):
        bootstrap_interval([1.0], resamples=0)
    with pytest.raises(ValueError, match="expected a cluster for each of 2 values, got 3"):
        bootstrap_interval([1.0, 2.0], "abc")
