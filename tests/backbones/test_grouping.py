"""Rows in groups of similar length."""

import itertools

import pytest
import torch
from torch import Tensor

from tagi.backbones.grouping import grouped_logits, length_groups
from tests.causal_models import MODELS, close, exact_causal
from tests.hypernetwork.test_causal_generator import IDS, MASK


def cost(groups: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(group) * max(lengths[row] for row in group) + overhead for group in groups)


def partitions(rows: list[int]) -> list[list[list[int]]]:
    """All partitions of a few rows."""
    if not rows:
        return [[]]
    found = []
    for size in range(len(rows)):
        for others in itertools.combinations(rows[1:], size):
            group = [rows[0], *others]
            rest = [row for row in rows if row not in group]
            found += [[group, *more] for more in partitions(rest)]
    return found


@pytest.mark.parametrize("overhead", [0, 3, 11, 1000])
def test_groups_are_the_cheapest_partition(overhead: int) -> None:
    lengths = [7, 31, 5, 8, 30, 12]
    groups = length_groups(lengths, overhead)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    best = min(cost(one, lengths, overhead) for one in partitions(list(range(len(lengths)))))
    assert cost(groups, lengths, overhead) == best


def test_a_dear_group_holds_all_rows_and_a_free_one_a_length_each() -> None:
    assert len(length_groups([3, 9, 4], 100)) == 1
    assert sorted(map(len, length_groups([3, 9, 3], 0))) == [1, 2]


@pytest.mark.parametrize("kind", MODELS)
def test_groups_change_logits_by_rounding_alone(kind: str) -> None:
    backbone = exact_causal(kind)
    labels = torch.randint(5, 20, (len(IDS), 6), generator=torch.Generator().manual_seed(2))
    labels[0, 2:] = labels[3, 4:] = -100
    seen: list[list[int]] = []

    def compute(rows: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        seen.append(rows.tolist())
        return backbone.forced_logits(ids, mask, labels)

    counted = labels != -100
    with torch.no_grad():
        found = grouped_logits(IDS, MASK, labels, compute)
        close(found[counted], backbone.forced_logits(IDS, MASK, labels)[counted])
    assert sorted(row for rows in seen for row in rows) == list(range(len(IDS)))
