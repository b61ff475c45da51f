"""Memory of a call: what it makes is counted while it lives, what was there before is not."""

import pytest
import torch
from torch import Tensor

from tagi.evaluation.timing.memory import CPU, held_bytes, peak_bytes

CPU_DEVICE = torch.device("cpu")
_WEIGHT = torch.ones(500, 300)  # 600,000 bytes


def at_once() -> Tensor:
    first = _WEIGHT + 1
    return first * 2


def one_after_the_other() -> None:
    for _ in range(5):
        assert (_WEIGHT + 1).shape == _WEIGHT.shape


def views_and_in_place() -> Tensor:
    made = _WEIGHT + 1
    made.add_(3)
    return made.view(-1)[: made.numel() // 2].reshape(3, -1)


def nothing_new() -> Tensor:
    return _WEIGHT.T[:7].unsqueeze(0)


@pytest.mark.parametrize(
    ("call", "wanted"),
    [(at_once, 1_200_000), (one_after_the_other, 600_000), (views_and_in_place, 600_000), (nothing_new, 0)],
)
def test_the_most_that_lives_at_once(call: object, wanted: int) -> None:
    assert peak_bytes(call, CPU_DEVICE) == (wanted, CPU)  # type: ignore[arg-type]


def test_shared_storage_is_held_once() -> None:
    assert held_bytes([_WEIGHT, _WEIGHT.T, _WEIGHT[3], torch.ones(5)]) == 600_000 + 20
