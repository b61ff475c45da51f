"""Matrix products as PyTorch's own counter sees them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Counted:
    """FLOPs of a block: all, and inside modules whose dotted name ends with `name`."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter = counter

    @property
    def total(self) -> int:
        return self._counter.get_total_flops()

    def inside(self, name: str) -> int:
        """Of the one module of that name."""
        (found,) = [key for key in self._counter.get_flop_counts() if key.endswith(name)]
        return sum(self._counter.get_flop_counts()[found].values())


@contextmanager
def counting() -> Iterator[Counted]:
    """On a CPU the counter does not see fused attention, so it is taken apart into the products it is made of."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        yield Counted(counter)


def flops(call: Callable[[], Any]) -> int:
    """What a call takes."""
    with counting() as counted:
        call()
    return counted.total
