"""Generated bottleneck adapters: two small layers on a sublayer's output, or beside a feed-forward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from tagi.adapters.attach import OutputHook
from tagi.adapters.protocol import Bank, row_fault

Activation = Callable[[Tensor], Tensor]


class Bottleneck(NamedTuple):
    """One place's two layers for several tasks: `up(act(down(x)))`, with both biases."""

    down: Float[Tensor, "task width d_model"]
    down_bias: Float[Tensor, "task width"]
    up: Float[Tensor, "task d_model width"]
    up_bias: Float[Tensor, "task d_model"]


@dataclass(frozen=True)
class BottleneckBank(Bank):
    """Bottleneck adapters by place, each `x -> up(act(down(x)))`.

    They are added to what the module at the place returns. Without `parallel` they also read that (Houlsby's
    sequential form, as in Hypter); with it they read what the module reads (as in HINT). `activation` is a name that
    transformers knows.
    """

    factors: Mapping[str, Bottleneck]
    activation: str
    parallel: bool

    module = "bottleneck"

    @property
    def places(self) -> tuple[str, ...]:
        """Where the adapters are."""
        return tuple(self.factors)

    @property
    def width(self) -> int:
        """Of the bottleneck."""
        return next(iter(self.factors.values())).down.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Both matrices and both biases of every place."""
        return {
            f"{place}.{part}": tensor
            for place, layers in self.factors.items()
            for part, tensor in zip(Bottleneck._fields, layers, strict=True)
        }

    def like(self, tensors: Mapping[str, Tensor]) -> "BottleneckBank":
        """Other matrices and biases, acting in the same way."""
        return self._with(
            {place: Bottleneck(*(tensors[f"{place}.{part}"] for part in Bottleneck._fields)) for place in self.factors}
        )

    def joins(self, other: Bank) -> bool:
        """Whether it is bottlenecks that act in the same way."""
        mine = (self.activation, self.parallel)
        return isinstance(other, BottleneckBank) and (other.activation, other.parallel) == mine

    def zero(self) -> "BottleneckBank":
        """The same shapes with `up` and its bias 0: a bank that changes nothing, to the bit."""
        return self._with(
            {
                place: layers._replace(up=torch.zeros_like(layers.up), up_bias=torch.zeros_like(layers.up_bias))
                for place, layers in self.factors.items()
            }
        )

    def mean(self) -> "BottleneckBank":
        """One task whose update of any x is, place by place, the mean of all tasks' updates.

        As with LoRA, hidden units are joined: the result is `tasks * width` wide.
        """
        joined = {}
        for place, (down, down_bias, up, up_bias) in self.factors.items():
            joined[place] = Bottleneck(
                down.flatten(0, 1).unsqueeze(0),
                down_bias.flatten().unsqueeze(0),
                up.permute(1, 0, 2).flatten(1).unsqueeze(0) / self.tasks,
                up_bias.mean(0, keepdim=True),
            )
        return self._with(joined)

    def acting(self, place: str, shared: bool) -> OutputHook:
        """The adapter's output added to the module's."""
        adapter = _shared if shared else _per_row
        return _hook(adapter(self.factors[place], ACT2FN[self.activation]), self.parallel)

    def _with(self, factors: Mapping[str, Bottleneck]) -> "BottleneckBank":
        return BottleneckBank(factors, self.activation, self.parallel)


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
