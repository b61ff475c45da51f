"""Merged weights, without writing to a parameter: W + dW - dW is not W in floating point."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.attach import is_attached
from tagi.adapters.bank import LoraBank

M = TypeVar("M", bound=nn.Module)


def view_with_weights(model: M, weights: Mapping[str, Tensor]) -> M:
    """A second module tree over the same tensors, but with `weights` at the named modules.

    The tree costs a few kilobytes a module. Parameters and buffers are shared with `model`, which is not changed. The
    view is in evaluation mode, without what is attached to `model` at the moment.

    Args:
        model: The model.
        weights: Module path -> the tensor in place of that module's `weight`.
    """
    view = _twin(model, {})
    for path, weight in weights.items():
        view.get_submodule(path).weight = nn.Parameter(weight, requires_grad=False)
    return view.eval()


def view_with_parameters(model: M, parameters: Mapping[str, Tensor]) -> M:
    """As `view_with_weights`, with `parameters` in place of those of the same names.

    A parameter that several modules share is replaced in all of them.
    """
    twins: dict[nn.Module, nn.Module] = {}
    view = _twin(model, twins)
    own = dict(model.named_parameters())
    replaced = {id(own[name]): nn.Parameter(tensor, requires_grad=False) for name, tensor in parameters.items()}
    for module, twin in twins.items():
        for name, parameter in module._parameters.items():
            if id(parameter) in replaced:
                twin._parameters[name] = replaced[id(parameter)]
    return view.eval()


def _twin(module: M, twins: dict[nn.Module, nn.Module]) -> M:
    # Not `copy.deepcopy`: it would take along the hooks of a call that runs in another thread.
    if module not in twins:
        twin = twins[module] = module.__new__(type(module))
        twin.__dict__ = {
            name: value.copy() if isinstance(value, dict | set) else value
            for name, value in list(module.__dict__.items())
        }
        twin._forward_hooks = OrderedDict(
            (key, hook) for key, hook in list(module._forward_hooks.items()) if not is_attached(hook)
        )
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else _twin(child, twins)
    return cast(M, twins[module])


@torch.no_grad()
def merge(model: M, bank: LoraBank, task: int = 0) -> M:
    """Return a view of `model` whose weights include the bank's update for `task`: W + Delta W.

    Added in fp32 or better and rounded once to the weight's own type.
    """
    whole, merged = bank.whole(), {}
    for layer in whole.factors:
        module, delta = model.get_submodule(layer), whole.delta(layer, task)
        weight = cast(Tensor, module.weight)
        if isinstance(module, Conv1D):  # which keeps its weight transposed
            delta = delta.T
        merged[layer] = (weight.to(delta.dtype) + delta).to(weight.dtype).contiguous()
    return view_with_weights(model, merged)
