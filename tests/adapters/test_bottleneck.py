"""The bottleneck bank: what it adds and to what, its mean, and tasks that never mix."""

import math

import pytest
import torch
from torch import Tensor, nn

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank, as_lora, delta_variance
from tagi.adapters.bottleneck import Bottleneck, BottleneckBank
from tagi.adapters.protocol import Bank, stack_banks
from tests.models import ROUNDING, rounding

TASKS, WIDTH, D_IN, D_MODEL, TOKENS, ROWS = 3, 4, 5, 6, 8, 7
PLACES = ("one", "two")


def make(parallel: bool = False, tasks: int = TASKS, seed: int = 0, activation: str = "gelu_new") -> BottleneckBank:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    read = D_IN if parallel else D_MODEL
    layers = {
        place: Bottleneck(
            draw(tasks, WIDTH, read), draw(tasks, WIDTH), draw(tasks, D_MODEL, WIDTH), draw(tasks, D_MODEL)
        )
        for place in PLACES
    }
    return BottleneckBank(layers, activation, parallel)


@pytest.fixture
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {place: nn.Linear(D_IN, D_MODEL).double() for place in PLACES}


def by_hand(bank: BottleneckBank, place: str, task: int, x: Tensor) -> Tensor:
    down, down_bias, up, up_bias = (tensor[task] for tensor in bank.factors[place])
    hidden = x @ down.T + down_bias
    if bank.activation == "relu":
        hidden = hidden.clamp(min=0)
    else:
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return hidden @ up.T + up_bias


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
@pytest.mark.parametrize("parallel", [False, True])
def test_every_row_gets_its_task(modules: dict[str, nn.Module], parallel: bool, activation: str) -> None:
    """On what the module returns, or beside it on what the module reads."""
    bank, rows = make(parallel, activation=activation), torch.tensor([2, 0, 1, 1, 2, 0, 2])
    x = torch.randn(ROWS, TOKENS, D_IN, dtype=torch.float64)
    for place, module in modules.items():
        bare = module(x)
        with Attachment(bank.hooks(modules, rows)).active():
            found = module(x)
        for row, task in enumerate(rows.tolist()):
            read = x[row] if parallel else bare[row]
            assert rounding(found[row], bare[row] + by_hand(bank, place, task, read)) < ROUNDING
        alone = bank.select(torch.tensor([1]))
        for given in (None, torch.zeros(ROWS, dtype=torch.long)):
            with Attachment(alone.hooks(modules, given)).active():
                shared = module(x)
            assert rounding(shared, bare + by_hand(bank, place, 1, x if parallel else bare)) < ROUNDING


def test_sizes() -> None:
    bank = make()
    assert (bank.tasks, bank.width, bank.module, bank.places) == (TASKS, WIDTH, "bottleneck", PLACES)
    assert bank.parameters_per_task == 2 * (2 * WIDTH * D_MODEL + WIDTH + D_MODEL)
    assert make(parallel=True).parameters_per_task == 2 * (WIDTH * (D_IN + D_MODEL) + WIDTH + D_MODEL)


def test_rows_that_do_not_fit_are_an_error(modules: dict[str, nn.Module]) -> None:
    bank = make()
    with pytest.raises(ValueError, match="bank of 3 tasks needs to know which row"):
        bank.hooks(modules)
    with pytest.raises(ValueError, match="'two', which is no target module"):
        bank.hooks({"one": modules["one"]}, torch.tensor([0]))
    with (
        Attachment(bank.hooks(modules, torch.tensor([0, 1, 2]))).active(),
        pytest.raises(ValueError, match="laid out for 3 rows, the call has 1"),
    ):
        modules["one"](torch.randn(1, TOKENS, D_IN, dtype=torch.float64))


@pytest.mark.parametrize("parallel", [False, True])
def test_zero_changes_nothing_to_the_bit(modules: dict[str, nn.Module], parallel: bool) -> None:
    bank = make(parallel)
    x = torch.randn(3, TOKENS, D_IN, dtype=torch.float64)
    bare = modules["two"](x)
    for zero, rows in ((bank.zero(), torch.tensor([1, 2, 0])), (make(parallel, tasks=1).zero(), None)):
        with Attachment(zero.hooks(modules, rows)).active():
            assert torch.equal(modules["two"](x), bare)
    assert torch.equal(bank.zero().factors["one"].down, bank.factors["one"].down)


@pytest.mark.parametrize("parallel", [False, True])
def test_the_mean_is_the_mean_of_updates(modules: dict[str, nn.Module], parallel: bool) -> None:
    bank = make(parallel)
    mean = bank.mean()
    assert (mean.tasks, mean.width) == (1, TASKS * WIDTH)
    x = torch.randn(1, TOKENS, D_IN, dtype=torch.float64)
    for place, module in modules.items():
        bare = module(x)
        read = x[0] if parallel else bare[0]
        wanted = torch.stack([by_hand(bank, place, task, read) for task in range(TASKS)]).mean(0)
        with Attachment(mean.hooks(modules)).active():
            assert rounding(module(x)[0] - bare[0], wanted) < ROUNDING


def test_stacked_and_selected_banks_keep_their_tasks() -> None:
    one, two = make(tasks=1, seed=1), make(tasks=2, seed=2)
    stacked = stack_banks([one, two])
    assert stacked.tasks == 3
    chosen = stacked.select(torch.tensor([2, 0, 2, 1]))
    for part in Bottleneck._fields:
        tensor = getattr(chosen.factors["two"], part)
        assert torch.equal(tensor[[0, 2]], getattr(two.factors["two"], part)[[1, 1]])
        assert torch.equal(tensor[1], getattr(one.factors["two"], part)[0])
        assert torch.equal(tensor[3], getattr(two.factors["two"], part)[0])


def test_banks_of_another_kind_are_not_joined() -> None:
    one = make()
    lora = LoraBank({"one": (torch.ones(1, 2, 3), torch.ones(1, 4, 2))}, 1.0)
    fewer = BottleneckBank({"one": one.factors["one"]}, one.activation, one.parallel)
    others: list[Bank] = [lora, make(parallel=True), make(activation="relu"), fewer]
    for other in others:
        with pytest.raises(ValueError, match="can be joined only if"):
            stack_banks([one, other])


def test_only_lora_has_a_delta() -> None:
    with pytest.raises(ValueError, match="L_ins: expected a bank of LoRA, got bottleneck"):
        as_lora(make(), "L_ins")
    lora = LoraBank({"one": (torch.ones(1, 2, 3), torch.ones(1, 4, 2))}, 1.0)
    assert as_lora(lora, "L_ins") is lora
    assert delta_variance(lora) == 0
