"""The LoRA bank as a value: its algebra, and what it does to a linear layer."""

import pytest
import torch
from torch import nn

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank, delta_products, delta_variance
from tagi.adapters.protocol import stack_banks
from tagi.backbones.protocol import TargetModule
from tests.models import ROUNDING, rounding

D_IN, D_OUT, D_VALUE, RANK, TASKS, ROWS, TOKENS = 6, 5, 9, 4, 3, 7, 2
SITES = (TargetModule("q", 0, "q", D_IN, D_OUT), TargetModule("v", 0, "v", D_IN, D_VALUE))


def make_bank(tasks: int = TASKS, seed: int = 0, scale: float = 1.7) -> LoraBank:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return LoraBank(
        {module.path: (draw(tasks, RANK, module.d_in), draw(tasks, module.d_out, RANK)) for module in SITES}, scale
    )


@pytest.fixture
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {module.path: nn.Linear(module.d_in, module.d_out, dtype=torch.float64) for module in SITES}


def test_sizes() -> None:
    bank = make_bank()
    assert (bank.tasks, bank.rank) == (TASKS, RANK)
    assert bank.parameters_per_task == RANK * (D_IN + D_OUT) + RANK * (D_IN + D_VALUE)


def test_delta_is_scale_times_b_times_a() -> None:
    bank = make_bank()
    a, b = bank.factors["v"]
    by_hand = torch.zeros(D_VALUE, D_IN, dtype=torch.float64)
    for out in range(D_VALUE):
        for into in range(D_IN):
            by_hand[out, into] = 1.7 * sum(b[2, out, r] * a[2, r, into] for r in range(RANK))
    assert rounding(bank.delta("v", 2), by_hand) < ROUNDING
    narrow = bank.map(lambda tensor: tensor.bfloat16())
    assert narrow.delta("q").dtype == torch.float32
    assert narrow.factors["q"][1].dtype == torch.bfloat16


def test_every_row_gets_its_task(modules: dict[str, nn.Module]) -> None:
    bank = make_bank()
    rows = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    x = torch.randn(ROWS, TOKENS, D_IN, dtype=torch.float64)
    for path, module in modules.items():
        bare = module(x)
        with Attachment(bank.hooks(modules, rows)).active():
            found = module(x)
        for row, task in enumerate(rows.tolist()):
            assert rounding(found[row], bare[row] + x[row] @ bank.delta(path, task).T) < ROUNDING


def test_one_task_serves_any_number_of_rows(modules: dict[str, nn.Module]) -> None:
    bank = make_bank(tasks=1)
    x = torch.randn(ROWS, TOKENS, D_IN, dtype=torch.float64)
    bare = modules["q"](x)
    for rows in (None, torch.zeros(ROWS, dtype=torch.long)):
        with Attachment(bank.hooks(modules, rows)).active():
            assert rounding(modules["q"](x), bare + x @ bank.delta("q").T) < ROUNDING


def test_rows_that_do_not_fit_are_an_error(modules: dict[str, nn.Module]) -> None:
    bank = make_bank()
    with pytest.raises(ValueError, match="bank of 3 tasks needs to know which row"):
        bank.hooks(modules)
    with pytest.raises(ValueError, match="'v', which is no target module"):
        bank.hooks({"q": modules["q"]}, torch.tensor([0]))
    x = torch.randn(1, TOKENS, D_IN, dtype=torch.float64)
    with (
        Attachment(bank.hooks(modules, torch.tensor([0, 1, 2]))).active(),
        pytest.raises(ValueError, match="laid out for 3 rows, the call has 1"),
    ):
        modules["q"](x)


def test_select_repeats_and_reorders() -> None:
    bank = make_bank()
    chosen = bank.select(torch.tensor([2, 0, 0, 1]))
    assert (chosen.tasks, chosen.scale) == (4, bank.scale)
    for at, task in enumerate([2, 0, 0, 1]):
        for module in ("q", "v"):
            assert torch.equal(chosen.delta(module, at), bank.delta(module, task))


def test_zero_changes_nothing_to_the_bit(modules: dict[str, nn.Module]) -> None:
    bank = make_bank()
    x = torch.randn(3, TOKENS, D_IN, dtype=torch.float64)
    bare = modules["v"](x)
    with Attachment(bank.zero().hooks(modules, torch.tensor([1, 2, 0]))).active():
        assert torch.equal(modules["v"](x), bare)
    assert torch.equal(bank.zero().factors["v"][0], bank.factors["v"][0])
    assert bank.delta("v").abs().max() > 0


def test_the_mean_is_the_mean_of_updates() -> None:
    bank = make_bank()
    mean = bank.mean()
    assert (mean.tasks, mean.rank) == (1, TASKS * RANK)
    for module in ("q", "v"):
        wanted = torch.stack([bank.delta(module, task) for task in range(TASKS)]).mean(0)
        assert rounding(mean.delta(module), wanted) < ROUNDING


def test_stacked_banks_keep_their_tasks() -> None:
    one, two = make_bank(1, seed=1), make_bank(2, seed=2)
    stacked = stack_banks([one, two])
    assert stacked.tasks == 3
    assert torch.equal(stacked.delta("v", 0), one.delta("v"))
    assert torch.equal(stacked.delta("v", 2), two.delta("v", 1))
    other_scale = LoraBank(one.factors, 2.0)
    other_sites = LoraBank({"q": one.factors["q"]}, one.scale)
    for odd in (other_scale, other_sites):
        with pytest.raises(ValueError, match="target modules and scales are equal"):
            stack_banks([one, odd])


def test_variance_of_updates() -> None:
    bank = make_bank()
    same = bank.select(torch.tensor([1, 1, 1]))
    assert delta_variance(same) < ROUNDING
    a, b = bank.factors["q"]
    opposite = LoraBank({"q": (a[[0, 0]], torch.stack([b[0], -b[0]]))}, bank.scale)
    assert delta_variance(opposite) == pytest.approx(1.0)
    assert delta_variance(bank.zero()) == 0
    mixed = LoraBank({"q": opposite.factors["q"], "v": tuple(f[[1, 1]] for f in bank.factors["v"])}, bank.scale)
    assert 0 < delta_variance(mixed) < 1
    assert delta_variance(LoraBank({"v": mixed.factors["v"]}, bank.scale)) < ROUNDING
    flat = flat_updates(bank)
    by_hand = flat.var(0, correction=0).sum() / flat.square().mean(0).sum()
    assert delta_variance(bank) == pytest.approx(float(by_hand))


def flat_updates(bank: LoraBank) -> torch.Tensor:
    """Delta W of every target module, one row a task."""
    return torch.stack(
        [torch.cat([bank.delta(module, task).flatten() for module in bank.factors]) for task in range(bank.tasks)]
    )


def test_inner_products_of_updates() -> None:
    bank = make_bank()
    flat = flat_updates(bank)
    found = delta_products(bank)
    assert found.shape == (TASKS, TASKS)
    assert rounding(found, flat @ flat.T) < ROUNDING
