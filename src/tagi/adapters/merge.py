"""Merging of LoRA into copies of weights. Parameters are not changed: W + dW - dW is not W in floating point."""

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
    """Return a second module tree over the same tensors, with other weights at some modules.

    Parameters and buffers are shared with `model`, which is not changed; the tree itself takes a few kilobytes per
    module. The view is in evaluation mode and has no hooks of `model`.

    Args:
        model: The model.
        weights: The new `weight` tensors by module path.
    """
    view = _twin(model, {})
    for path, weight in weights.items():
        view.get_submodule(path).weight = nn.Parameter(weight, requires_grad=False)
    return view.eval()


def view_with_parameters(model: M, parameters: Mapping[str, Tensor]) -> M:
    """Like `view_with_weights`, for `parameters` by name. A shared parameter is replaced in all modules."""
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
    # Not `copy.deepcopy`, which would copy the hooks of a call in another thread.
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
    """Return a view of `model` with the merged weights W + Delta W for `task`.

    The sum is computed in fp32 or higher precision and rounded once to the type of the weight.
    """
    whole, merged = bank.whole(), {}
    for layer in whole.factors:
        module, delta = model.get_submodule(layer), whole.delta(layer, task)
        weight = cast(Tensor, module.weight)
        if isinstance(module, Conv1D):  # stores its weight transposed
            delta = delta.T
        merged[layer] = (weight.to(delta.dtype) + delta).to(weight.dtype).contiguous()
    return view_with_weights(model, merged)
