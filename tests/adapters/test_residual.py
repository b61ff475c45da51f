"""Residuals on top of a shared LoRA."""

import pytest
import torch

from tagi.adapters.bank import LoraBank
from tagi.adapters.residual import ResidualBank

TASKS, RANK, SHARED, D_IN, D_OUT = 3, 2, 5, 7, 11
PLACE = "layer.q"


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


A, B = random(TASKS, RANK, D_IN, seed=1), random(TASKS, D_OUT, RANK, seed=2)
SCALES = random(TASKS, SHARED, seed=3)
SHARED_A, SHARED_B = random(1, SHARED, D_IN, seed=4), random(1, D_OUT, SHARED, seed=5)


def residual(*, factors: bool = True, scales: bool = True) -> ResidualBank:
    return ResidualBank({PLACE: (A, B)} if factors else {}, {PLACE: SCALES} if scales else {}, 1.5)


def joined(bank: ResidualBank) -> LoraBank:
    return bank.joined({PLACE: (SHARED_A, SHARED_B)})


@pytest.mark.parametrize(("factors", "scales"), [(True, True), (True, False), (False, True)])
def test_the_joined_update_is_scaled_shared_ranks_and_factors(factors: bool, scales: bool) -> None:
    bank = joined(residual(factors=factors, scales=scales))
    assert bank.scale == 1.0
    assert bank.rank == SHARED + (RANK if factors else 0)
    for task in range(TASKS):
        weights = 1 + SCALES[task] if scales else torch.ones(SHARED, dtype=torch.float64)
        wanted = SHARED_B[0] @ torch.diag(weights) @ SHARED_A[0]
        if factors:
            wanted = wanted + 1.5 * B[task] @ A[task]
        torch.testing.assert_close(bank.delta(PLACE, task), wanted)


def test_a_zero_residual_leaves_the_shared_lora() -> None:
    bank = joined(residual().zero())
    for task in range(TASKS):
        torch.testing.assert_close(bank.delta(PLACE, task), SHARED_B[0] @ SHARED_A[0])


def test_the_mean_residual_has_the_mean_update() -> None:
    every, mean = joined(residual()), joined(residual().mean())
    assert mean.tasks == 1
    wanted = torch.stack([every.delta(PLACE, task) for task in range(TASKS)]).mean(0)
    torch.testing.assert_close(mean.delta(PLACE), wanted)


def test_tensors_go_round() -> None:
    bank = residual()
    assert set(bank.tensors()) == {f"{PLACE}.A", f"{PLACE}.B", f"{PLACE}.scale"}
    again = bank.like(bank.tensors())
    assert again.scales[PLACE] is SCALES
    chosen = bank.select(torch.tensor([2]))
    assert chosen.tasks == 1
    assert torch.equal(chosen.scales[PLACE][0], SCALES[2])
    assert bank.form == again.form
    assert bank.form != ResidualBank({PLACE: (A, B)}, {}, 2.0).form


def test_a_residual_does_not_act_alone() -> None:
    with pytest.raises(ValueError, match="only together with the shared LoRA"):
        residual().acting(PLACE, shared=True)
