"""Merged weights, without writing to a parameter: W + dW - dW is not W in floating point."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.attach import is_attached
from tagi.adapters.bank import LoraBank

M = TypeVar("M", bound=nn.Module)


def merged_weights(
    bank: LoraBank, weights: Mapping[str, Float[Tensor, "_d_out _d_in"]], task: int = 0
) -> dict[str, Tensor]:
    """W + Delta W per site, added in fp32 or better and rounded once to the weight's own type."""
    merged = {}
    for site, weight in weights.items():
        delta = bank.delta(site, task)
        merged[site] = (weight.detach().to(delta.dtype) + delta).to(weight.dtype)
    return merged


def view_with_weights(model: M, weights: Mapping[str, Tensor]) -> M:
    """A second module tree over the same tensors, but with `weights` at the named modules.

    The tree costs a few kilobytes a module; parameters and buffers are shared with `model`, which is left as
    it is. Keys are module paths; the replaced tensor is each module's `weight`. In evaluation mode, and
    without what is attached to `model` at the moment.
    """
    view = _twin(model, {})
    for path, weight in weights.items():
        view.get_submodule(path).weight = nn.Parameter(weight, requires_grad=False)
    return view.eval()


def view_with_parameters(model: M, parameters: Mapping[str, Tensor]) -> M:
    """A second module tree over the same tensors, but with `parameters` in place of those of the same names.

    A parameter that several modules share is replaced in all of them. Otherwise as `view_with_weights`.
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
    """A view of `model` whose site weights include the bank's update for `task`."""
    whole = bank.whole()
    layers = {layer: model.get_submodule(layer) for layer in whole.factors}
    weights = {layer: _turned(module, cast(Tensor, module.weight)) for layer, module in layers.items()}
    merged = merged_weights(whole, weights, task)
    return view_with_weights(model, {layer: _turned(layers[layer], weight) for layer, weight in merged.items()})


def _turned(module: nn.Module, weight: Float[Tensor, "_one _other"]) -> Tensor:
    """From a layer's own orientation to `(d_out, d_in)`, or back: a `Conv1D` keeps its weight transposed."""
    return weight.T.contiguous() if isinstance(module, Conv1D) else weight
