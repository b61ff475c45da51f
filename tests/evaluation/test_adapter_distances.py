"""Distances between generated updates are those of Delta W; categories are found where they are and only there."""

import numpy as np
import pytest
import torch

from tagi.adapters.bank import LoraBank, delta_variance
from tagi.evaluation.adapter_distances import (
    adapter_report,
    categories_apart,
    delta_distances,
    generated_updates,
    plane,
)
from tagi.evaluation.scoring.statistics import FloatArray
from tagi.methods.tagi import TAGI
from tests.models import random_bank, tiny_backbone, tiny_generator
from tests.models import tasks as tiny_tasks

TASKS = 5


def bank() -> LoraBank:
    return random_bank(tiny_backbone().target_modules, tasks=TASKS).map(torch.Tensor.double)


def planted(apart: float, seed: int = 0) -> tuple[FloatArray, list[str]]:
    """Distances of 20 points in 7 dimensions, of four categories whose centres lie `apart` times wider than noise."""
    random = np.random.default_rng(seed)
    categories = [name for name in "wxyz" for _ in range(5)]
    centres = np.repeat(random.normal(size=(4, 7)), 5, axis=0)
    points = apart * centres + random.normal(size=(20, 7))
    return np.linalg.norm(points[:, None] - points[None], axis=2), categories


def test_distances_are_those_of_the_updates_themselves() -> None:
    own = bank()
    deltas = torch.stack(
        [torch.cat([own.delta(module, task).flatten() for module in own.factors]) for task in range(TASKS)]
    )
    assert deltas.dtype == torch.float64
    size = deltas.square().sum(1).mean().sqrt()
    expected = torch.cdist(deltas, deltas, compute_mode="donot_use_mm_for_euclid_dist") / size
    found = delta_distances(own)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)
    assert (found.diagonal() == 0).all()
    assert np.square(found).mean() / 2 == pytest.approx(delta_variance(own), rel=1e-12)


def test_the_same_update_is_at_no_distance_however_it_is_factored() -> None:
    one = bank().select(torch.tensor([1, 1, 3]))
    factors = {module: (a.clone(), b.clone()) for module, (a, b) in one.factors.items()}
    for a, b in factors.values():
        a[1] *= 4
        b[1] /= 4
    found = delta_distances(LoraBank(factors, one.scale))
    assert found[0, 1] < 1e-7
    assert found[0, 2] == pytest.approx(found[1, 2])
    assert found[0, 2] > 1


def test_no_updates_no_distances() -> None:
    assert (delta_distances(bank().zero()) == 0).all()
    report = adapter_report(bank().zero().select(torch.tensor([0, 1, 2])), tiny_tasks())
    assert report["distances"] == [[0.0] * 3] * 3


def test_updates_are_read_task_by_task() -> None:
    method = TAGI(tiny_generator())
    found, whole = generated_updates(method, tiny_tasks()), method.prepare(tiny_tasks()).bank
    for module in found.factors:
        for task in range(3):
            torch.testing.assert_close(found.delta(module, task), whole.delta(module, task))


def test_planted_categories_are_found() -> None:
    found = categories_apart(*planted(apart=2.0), permutations=999)
    assert found is not None
    assert found["auc"] > 0.9
    assert found["p"] == 0.001
    assert found["within"] < found["between"]
    assert found["chance"][0] < 0.5 < found["chance"][1] < found["auc"]


def test_shuffled_labels_are_not() -> None:
    ps = []
    for seed in range(20):
        distances, categories = planted(apart=2.0, seed=seed)
        shuffled = np.random.default_rng(100 + seed).permutation(categories).tolist()
        found = categories_apart(distances, shuffled, permutations=199)
        assert found is not None
        assert 0.25 < found["auc"] < 0.75
        ps.append(found["p"])
    assert sum(p <= 0.05 for p in ps) <= 4  # one in twenty is what is to be expected
    assert 0.3 < np.mean(ps) < 0.7


def test_the_auc_counts_pairs() -> None:
    # Pairs within: ab 1, cd 3. Between: ac 2, ad 3, bc 3, bd 4. Of 2 x 4: ab is closer than 4, cd than 1 and two ties.
    distances = np.array([[0, 1, 2, 3], [1, 0, 3, 4], [2, 3, 0, 3], [3, 4, 3, 0]], dtype=float)
    found = categories_apart(distances, ["x", "x", "y", "y"], permutations=50)
    assert found is not None
    assert found["auc"] == pytest.approx((4 + 1 + 2 / 2) / 8)
    assert (found["within"], found["between"]) == (2.0, 3.0)
    # Of the three ways to part four tasks in two pairs, ac against bd has an AUC of 4.5/8 and ad against bc one of 4/8.
    assert found["p"] == pytest.approx(1 / 3, abs=0.2)


def test_equal_distances_say_nothing() -> None:
    distances, categories = planted(apart=2.0)
    found = categories_apart(np.ones_like(distances), categories, permutations=20)
    assert found is not None
    assert (found["auc"], found["p"]) == (0.5, 1.0)


@pytest.mark.parametrize("categories", [["x"] * 20, [f"c{index}" for index in range(20)]])
def test_nothing_to_compare(categories: list[str]) -> None:
    assert categories_apart(planted(apart=2.0)[0], categories) is None


def test_the_report_is_a_function_of_the_seed() -> None:
    own, names = bank().select(torch.tensor([0, 1, 2])), tiny_tasks()
    assert adapter_report(own, names, 1) == adapter_report(own, names, 1)
    distances, categories = planted(apart=0.3)
    runs = [categories_apart(distances, categories, seed, permutations=200) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_plane_keeps_what_lies_in_one() -> None:
    points = np.array([[0, 0], [6, 1], [2, 5], [7, 3], [1, 1.5]])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    found, shares = plane(distances)
    again = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.testing.assert_allclose(again, distances, atol=1e-12)
    assert shares[0] > shares[1] > 0
    assert shares.sum() == pytest.approx(1)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in found.T)


def test_a_plane_of_one_task_and_of_equal_ones() -> None:
    assert plane(np.zeros((1, 1)))[0].tolist() == [[0, 0]]
    points, shares = plane(np.zeros((3, 3)))
    assert np.abs(points).max() == np.abs(shares).max() == 0
