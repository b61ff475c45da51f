"""Distances between the tasks' generated updates, within and between categories."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tagi.adapters.bank import LoraBank, delta_products
from tagi.adapters.protocol import Bank, stack_banks
from tagi.data.task import Task
from tagi.evaluation.scoring.statistics import FloatArray
from tagi.methods.protocol import Method

DISTANCE = "||dW_i - dW_j|| / sqrt(mean_k ||dW_k||^2), Frobenius norms over all target modules together"
"""Description of the distance for records: 0 for equal updates, about 1.41 for unrelated ones."""
_DIGITS = 6  # decimals of distances; later decimals are rounding error near 0


def generated_updates(method: Method, tasks: Sequence[Task]) -> Bank:
    """Return the generated bank of every task, in order and on the CPU, one task at a time."""
    return stack_banks([method.prepare([task], truncate=True).bank.map(torch.Tensor.cpu) for task in tasks])


def delta_distances(bank: LoraBank) -> FloatArray:
    """Return the relative Frobenius distances `(task, task)` between the tasks' updates Delta W (`DISTANCE`), in fp64.

    Half of the mean of their squares, over all ordered pairs, is `delta_variance`. All are zero if no task has an
    update.
    """
    products: FloatArray = delta_products(bank).numpy()
    squares = products.diagonal()
    size = squares.mean()
    if not size:
        return np.zeros_like(products)
    apart = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0) / size
    np.fill_diagonal(apart, 0)
    return np.sqrt(apart)


def categories_apart(
    distances: FloatArray, categories: Sequence[str], seed: int = 0, permutations: int = 10_000
) -> dict[str, Any] | None:
    """Test whether tasks of the same category are closer to each other than tasks of different categories.

    Args:
        distances: Distances `(task, task)`.
        categories: The category of each task.
        seed: Seed of the permutations.
        permutations: Number of random permutations of the categories.

    Returns None unless there are pairs within a category and pairs between categories. Otherwise `auc` is the
    probability that a pair within a category is closer than a pair between categories, with ties counted half: 0.5 if
    distances do not depend on categories, 1 if they separate them. `p` is the share of permutations, including the
    given labels, with an `auc` at least as high. `chance` is the central 95% of the permutations' `auc`. `within` and
    `between` are mean distances.
    """
    labels = np.unique(np.asarray(categories), return_inverse=True)[1]
    one, other = np.triu_indices(len(labels), 1)
    pairs = np.round(distances[one, other], _DIGITS)
    within = labels[one] == labels[other]
    same, different = int(within.sum()), int((~within).sum())
    if not same or not different:
        return None
    ranks = _middle_ranks(pairs)

    def auc(labels: npt.NDArray[Any]) -> float:
        above = ranks[labels[one] == labels[other]].sum() - same * (same + 1) / 2
        return float(1 - above / (same * different))

    rng = np.random.default_rng(seed)
    found = auc(labels)
    drawn = np.array([auc(rng.permutation(labels)) for _ in range(permutations)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "auc": found,
        "chance": [float(low), float(high)],
        "p": float((1 + (drawn >= found).sum()) / (1 + permutations)),
        "permutations": permutations,
        "within": float(pairs[within].mean()),
        "between": float(pairs[~within].mean()),
    }


def adapter_report(bank: LoraBank, tasks: Sequence[Task], seed: int = 0) -> dict[str, Any]:
    """Return the distances between the tasks' updates, in task order, and `categories_apart`, ready for a record."""
    distances = delta_distances(bank)
    categories = [task.category for task in tasks]
    return {
        "distance": DISTANCE,
        "tasks": [task.name for task in tasks],
        "categories": categories,
        "distances": np.round(distances, _DIGITS).tolist(),
        "categories_apart": categories_apart(distances, categories, seed),
    }


def plane(distances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return points `(task, 2)` whose distances approximate these, and each axis' share of the variance.

    Classical multidimensional scaling: for distances of updates, their two main components. The largest coordinate of
    an axis is positive.
    """
    tasks = len(distances)
    centre = np.eye(tasks) - 1 / tasks
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    points, shares = np.zeros((tasks, 2)), np.zeros(2)
    for axis in range(min(2, tasks)):
        along = vectors[:, axis]
        points[:, axis] = along * np.sign(along[np.abs(along).argmax()]) * np.sqrt(values[axis])
        shares[axis] = values[axis] / values.sum() if values.sum() else 0
    return points, shares


def _middle_ranks(values: FloatArray) -> FloatArray:
    """Return ranks from 1. Equal values get the mean of their ranks."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: FloatArray = (counts.cumsum() - (counts - 1) / 2)[at]
    return ranks
