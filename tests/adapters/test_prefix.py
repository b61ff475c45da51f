"""The prefix bank, banks that act together, and prefixes in attachments: in force in their scope and thread alone."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tagi.adapters.attach import Attachment, AttentionPrefix, detached, prefix_of, reenter
from tagi.adapters.bottleneck import Bottleneck, BottleneckBank
from tagi.adapters.prefix_bank import PrefixBank
from tagi.adapters.protocol import JointBank, stack_banks

TASKS, HEADS, LENGTH, D_KV = 3, 4, 5, 6
PLACES = ("first", "second")


def make(tasks: int = TASKS, seed: int = 0, tokens: int = LENGTH) -> PrefixBank:
    random = torch.Generator().manual_seed(seed)
    shape = (tasks, HEADS, tokens, D_KV)
    return PrefixBank({p: (torch.randn(shape, generator=random), torch.randn(shape, generator=random)) for p in PLACES})


@pytest.fixture
def modules() -> dict[str, nn.Module]:
    return {**{place: nn.Identity() for place in PLACES}, "other": nn.Identity()}


def test_sizes() -> None:
    bank = make()
    assert (bank.tasks, bank.tokens, bank.module, bank.places) == (TASKS, LENGTH, "prefix", PLACES)
    assert bank.parameters_per_task == 2 * 2 * HEADS * LENGTH * D_KV


def test_every_row_gets_its_task(modules: dict[str, nn.Module]) -> None:
    bank, rows = make(), torch.tensor([2, 0, 2, 1])
    with Attachment(bank.hooks(modules, rows)).active():
        for place in PLACES:
            found = prefix_of(modules[place])
            assert found is not None
            assert (found.tokens, found.shared) == (LENGTH, False)
            assert torch.equal(found.keys, bank.factors[place][0][rows])
            assert torch.equal(found.values, bank.factors[place][1][rows])
        assert prefix_of(modules["other"]) is None
    with Attachment(make(tasks=1).hooks(modules)).active():
        found = prefix_of(modules["first"])
        assert found is not None
        assert found.shared
    with pytest.raises(ValueError, match="bank of 3 tasks needs to know which row"):
        bank.hooks(modules)


def test_nothing_is_a_prefix_without_tokens_and_the_mean_is_of_numbers() -> None:
    bank = make()
    zero, mean = bank.zero(), bank.mean()
    assert (zero.tasks, zero.tokens) == (TASKS, 0)
    assert zero.parameters_per_task == 0
    assert (mean.tasks, mean.tokens) == (1, LENGTH)
    torch.testing.assert_close(mean.factors["second"][1][0], sum(bank.factors["second"][1]) / TASKS)


def test_stacked_banks_keep_their_tasks() -> None:
    one, two = make(1, seed=1), make(2, seed=2)
    stacked = stack_banks([one, two])
    assert torch.equal(stacked.factors["first"][0][2], two.factors["first"][0][1])
    assert torch.equal(stacked.factors["second"][1][0], one.factors["second"][1][0])


def bottlenecks(tasks: int = TASKS, place: str = "other") -> BottleneckBank:
    layers = Bottleneck(torch.ones(tasks, 2, 7), torch.ones(tasks, 2), torch.ones(tasks, 7, 2), torch.ones(tasks, 7))
    return BottleneckBank({place: layers}, "relu", parallel=False)


def test_banks_act_together(modules: dict[str, nn.Module]) -> None:
    prefixes, both = make(), JointBank([bottlenecks(), make()])
    assert (both.tasks, both.module) == (TASKS, "bottleneck+prefix")
    assert both.places == ("other", *PLACES)
    assert both.parameters_per_task == bottlenecks().parameters_per_task + prefixes.parameters_per_task
    rows = torch.tensor([1, 1, 0, 2])
    x = torch.zeros(4, 3, 7)
    with Attachment(both.hooks(modules, rows)).active():
        assert torch.equal(modules["other"](x), torch.full_like(x, 3.0))
        found = prefix_of(modules["second"])
        assert found is not None
        assert torch.equal(found.values, prefixes.factors["second"][1][rows])
    silent = both.zero()
    with Attachment(silent.hooks(modules, rows)).active():
        assert torch.equal(modules["other"](x), x)
    assert both.mean().tasks == 1
    stacked = stack_banks([both, both.select(torch.tensor([0]))])
    assert isinstance(stacked, JointBank)
    assert [bank.tasks for bank in stacked.banks] == [4, 4]
    with pytest.raises(ValueError, match="can be joined only if"):
        stack_banks([both, JointBank([bottlenecks(), bottlenecks(place="more")])])
    with pytest.raises(ValueError, match="only at places of their own"):
        JointBank([make(), make()])


def test_the_innermost_alone_is_in_force(modules: dict[str, nn.Module]) -> None:
    one, two = (Attachment(make(1, seed=seed).hooks(modules)) for seed in (1, 2))
    attention = modules["first"]
    assert prefix_of(attention) is None
    with one.active():
        outer = prefix_of(attention)
        with two.active():
            inner = prefix_of(attention)
            assert inner is not None
            assert inner is not outer
        with detached():
            assert prefix_of(attention) is None
        with one.active():
            assert prefix_of(attention) is outer
        assert prefix_of(attention) is outer
    with pytest.raises(ZeroDivisionError), one.active():
        raise ZeroDivisionError
    assert prefix_of(attention) is None
    assert not attention._forward_hooks


def test_an_attention_has_one_prefix(modules: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match="one prefix, got two"):
        Attachment(make(1).hooks(modules), make(1, seed=2).hooks(modules))


def test_two_threads_do_not_see_one_another(modules: dict[str, nn.Module]) -> None:
    meet = threading.Barrier(3, timeout=30)
    attachments = [Attachment(make(1, seed=seed).hooks(modules)) for seed in (1, 2)]
    attention, seen = modules["first"], dict[str, AttentionPrefix | None]()

    def look(name: str) -> None:
        meet.wait()
        seen[name] = prefix_of(attention)
        meet.wait()

    def attached(which: int) -> None:
        with attachments[which].active():
            look(str(which))

    threads = [threading.Thread(target=attached, args=(which,)) for which in (0, 1)]
    threads.append(threading.Thread(target=look, args=("bare",)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for which in (0, 1):
        assert seen[str(which)] is attachments[which].prefixes[attention]
    assert seen["bare"] is None


def test_recomputation_sees_what_the_forward_pass_saw(modules: dict[str, nn.Module]) -> None:
    attention, seen = modules["second"], list[AttentionPrefix | None]()

    def reading(x: torch.Tensor) -> torch.Tensor:
        prefix = prefix_of(attention)
        seen.append(prefix)
        return x.square() if prefix is None else x.square() * prefix.keys.sum()

    x = torch.tensor(3.0, requires_grad=True)
    with Attachment(make(1).hooks(modules)).active():
        result = checkpoint(reading, x, use_reentrant=False, context_fn=reenter)
    result.backward()
    assert len(seen) == 2
    assert seen[0] is not None
    assert seen[0] is seen[1]
    assert prefix_of(attention) is None
