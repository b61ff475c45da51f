"""Generated bottleneck adapters, on the output of a sublayer or parallel to a feed-forward layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from tagi.adapters.attach import OutputHook
from tagi.adapters.protocol import PlacedBank, row_fault

Activation = Callable[[Tensor], Tensor]


class Bottleneck(NamedTuple):
    """Weights and biases of `up(act(down(x)))` for several tasks."""

    down: Float[Tensor, "task width d_model"]
    down_bias: Float[Tensor, "task width"]
    up: Float[Tensor, "task d_model width"]
    up_bias: Float[Tensor, "task d_model"]


@dataclass(frozen=True)
class BottleneckBank(PlacedBank):
    """Bottleneck adapters `up(act(down(x)))`, whose output is added to the output of a module.

    Args:
        factors: Weights and biases by place.
        activation: Name of the activation in transformers.
        parallel: Whether x is the module's input (as in HINT) or its output (sequential adapters, as in Hypter).
    """

    factors: Mapping[str, Bottleneck]
    activation: str
    parallel: bool

    module = "bottleneck"
    parts = Bottleneck._fields
    packed = Bottleneck._make
    zeroed = ("up", "up_bias")

    @property
    def form(self) -> tuple[str, bool]:
        """Activation and input."""
        return (self.activation, self.parallel)

    @property
    def width(self) -> int:
        """Width of the bottleneck."""
        return next(iter(self.factors.values())).down.shape[1]

    def mean(self) -> "BottleneckBank":
        """Return a bank with one task, whose update of any x is the mean over all tasks.

        Hidden units are concatenated, so the result has width `tasks * width`.
        """
        joined = {}
        for place, (down, down_bias, up, up_bias) in self.factors.items():
            joined[place] = Bottleneck(
                down.flatten(0, 1).unsqueeze(0),
                down_bias.flatten().unsqueeze(0),
                up.permute(1, 0, 2).flatten(1).unsqueeze(0) / self.tasks,
                up_bias.mean(0, keepdim=True),
            )
        return replace(self, factors=joined)

    def acting(self, place: str, shared: bool) -> OutputHook:
        """Return a hook that adds the adapter's output to the module's."""
        adapter = _shared if shared else _per_row
        return _hook(adapter(self.factors[place], ACT2FN[self.activation]), self.parallel)


def _hook(adapter: Activation, parallel: bool) -> OutputHook:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        update = adapter(args[0] if parallel else output)
        return output + update.to(output.dtype)

    return hook


def _shared(layers: Bottleneck, act: Activation) -> Activation:
    down, down_bias, up, up_bias = (tensor[0] for tensor in layers)

    def adapter(x: Tensor) -> Tensor:
        hidden = act(linear(x, down.to(x.dtype), down_bias.to(x.dtype)))
        return linear(hidden, up.to(hidden.dtype), up_bias.to(hidden.dtype))

    return adapter


def _per_row(layers: Bottleneck, act: Activation) -> Activation:
    down, down_bias, up, up_bias = layers.down.mT, layers.down_bias[:, None], layers.up.mT, layers.up_bias[:, None]

    def adapter(x: Tensor) -> Tensor:
        if x.shape[0] != down.shape[0]:
            raise row_fault(down.shape[0], x.shape[0])
        hidden = act(x @ down.to(x.dtype) + down_bias.to(x.dtype))
        return hidden @ up.to(hidden.dtype) + up_bias.to(hidden.dtype)

    return adapter
