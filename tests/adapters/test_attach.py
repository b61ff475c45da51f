"""Attachments: in force for their scope and thread alone, and gone without a trace."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tagi.adapters.attach import Attachment, OutputHook, detached, reenter
from tests.models import traces


def add(number: float) -> OutputHook:
    return lambda _module, _args, output: output + number


def times(number: float) -> OutputHook:
    return lambda _module, _args, output: output * number


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 5)


X = torch.arange(6.0).reshape(2, 3)


def test_in_force_inside_its_scope_only(linear: nn.Linear) -> None:
    bare = linear(X)
    with Attachment({linear: add(1)}).active():
        assert torch.equal(linear(X), bare + 1)
    assert torch.equal(linear(X), bare)


def test_functions_of_one_module_apply_in_order(linear: nn.Linear) -> None:
    bare = linear(X)
    with Attachment({linear: add(1)}, {linear: times(2)}).active():
        assert torch.equal(linear(X), (bare + 1) * 2)


def test_the_innermost_alone_is_in_force(linear: nn.Linear) -> None:
    bare = linear(X)
    with Attachment({linear: add(1)}).active():
        with Attachment({linear: add(10)}).active():
            assert torch.equal(linear(X), bare + 10)
        with detached():
            assert torch.equal(linear(X), bare)
        assert torch.equal(linear(X), bare + 1)


def test_entered_inside_itself_it_applies_once(linear: nn.Linear) -> None:
    bare, attachment = linear(X), Attachment({linear: add(1)})
    with attachment.active(), attachment.active():
        assert torch.equal(linear(X), bare + 1)


def test_nothing_is_left_also_after_an_exception(linear: nn.Linear) -> None:
    def fail(_module: nn.Module, _args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        raise KeyError("hook")

    model = nn.Sequential(linear, nn.ReLU())
    before = list(traces(model))
    with Attachment({linear: add(1)}, {model[1]: times(2)}).active():
        assert list(traces(model)) != before
        model(X)
    assert list(traces(model)) == before
    with pytest.raises(ZeroDivisionError), Attachment({linear: add(1)}).active():
        raise ZeroDivisionError
    assert list(traces(model)) == before
    with pytest.raises(KeyError, match="hook"), Attachment({linear: fail}).active():
        model(X)
    assert list(traces(model)) == before
    bare = linear(X)
    with Attachment({linear: add(1)}).active():
        assert torch.equal(linear(X), bare + 1)


def in_threads(*bodies: Callable[[], None]) -> None:
    faults: list[BaseException] = []

    def run(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("shared", [False, True])
def test_two_threads_do_not_see_one_another(linear: nn.Linear, shared: bool) -> None:
    bare = linear(X)
    meet = threading.Barrier(3, timeout=30)
    one = Attachment({linear: add(1)})

    def attached(attachment: Attachment, number: float) -> Callable[[], None]:
        def body() -> None:
            for _ in range(20):
                with attachment.active():
                    meet.wait()  # both attachments stand on the module now
                    found = linear(X)
                    meet.wait()
                assert torch.equal(found, bare + number)

        return body

    def without() -> None:
        for _ in range(20):
            meet.wait()
            found = linear(X)
            meet.wait()
            assert torch.equal(found, bare)

    other = (one, 1.0) if shared else (Attachment({linear: add(10)}), 10.0)
    in_threads(attached(one, 1.0), attached(*other), without)


def test_recomputation_sees_what_the_forward_pass_saw(linear: nn.Linear) -> None:
    calls: list[int] = []

    def scale(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append(id(module))
        return output.square() * 3

    def gradient(context: bool) -> Tensor:
        linear.zero_grad()
        with Attachment({linear: scale}).active():
            result = checkpoint(linear, X, use_reentrant=False, context_fn=reenter) if context else linear(X)
        result.sum().backward()
        assert linear.weight.grad is not None
        return linear.weight.grad.clone()

    plain = gradient(context=False)
    assert len(calls) == 1
    assert torch.equal(gradient(context=True), plain)
    assert len(calls) == 3  # forward, and again in backward
    assert list(linear._forward_hooks) == []


def test_recomputation_without_an_attachment_sees_none(linear: nn.Linear) -> None:
    def gradient(inside: bool) -> Tensor:
        linear.zero_grad()
        result = checkpoint(lambda x: linear(x).square(), X, use_reentrant=False, context_fn=reenter)
        if inside:
            with Attachment({linear: times(7)}).active():
                result.sum().backward()
        else:
            result.sum().backward()
        assert linear.weight.grad is not None
        return linear.weight.grad.clone()

    assert torch.equal(gradient(inside=True), gradient(inside=False))


def test_a_graph_kept_alive_is_recomputed_each_time(linear: nn.Linear) -> None:
    with Attachment({linear: lambda _m, _a, output: output.square()}).active():
        result = checkpoint(linear, X, use_reentrant=False, context_fn=reenter).sum()
    result.backward(retain_graph=True)
    assert linear.weight.grad is not None
    first = linear.weight.grad.clone()
    result.backward()
    assert torch.equal(linear.weight.grad, 2 * first)


def test_backward_inside_the_scope_applies_it_once(linear: nn.Linear) -> None:
    gradients = []
    for inside in (False, True):
        linear.zero_grad()
        with Attachment({linear: lambda _m, _a, output: output.square()}).active():
            result = checkpoint(linear, X, use_reentrant=False, context_fn=reenter).sum()
            if inside:
                result.backward()
        if not inside:
            result.backward()
        assert linear.weight.grad is not None
        gradients.append(linear.weight.grad.clone())
    assert torch.equal(*gradients)
