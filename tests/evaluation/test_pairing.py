"""Differences are taken instance by instance, and only where both scores are."""

import numpy as np
import pytest

from tagi.evaluation.scoring.metrics import clustered_bootstrap_interval
from tagi.evaluation.scoring.paired import by_task, paired_difference
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
        "interval": list(clustered_bootstrap_interval(differences, ["a", "c", "c"], seed=0)),
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
