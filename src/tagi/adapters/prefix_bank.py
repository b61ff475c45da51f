"""Generated prefixes of keys and values for attention modules."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tagi.adapters.attach import AttentionPrefix
from tagi.adapters.protocol import PlacedBank

KeysAndValues = tuple[Float[Tensor, "task heads token d_kv"], Float[Tensor, "task heads token d_kv"]]


@dataclass(frozen=True)
class PrefixBank(PlacedBank):
    """Prefixes of keys and values by attention module.

    They have no position, are visible to every query, and are not in the KV cache: lengths and positions are the same
    with and without them.
    """

    factors: Mapping[str, KeysAndValues]

    module = "prefix"
    parts = ("keys", "values")

    @property
    def form(self) -> tuple[()]:
        """Empty: a prefix has no other settings."""
        return ()

    @property
    def tokens(self) -> int:
        """Length of the prefix of every attention."""
        return next(iter(self.factors.values()))[0].shape[2]

    def zero(self) -> "PrefixBank":
        """Return prefixes of length 0: keys and values of 0 would still take part in the softmax."""
        return self.map(lambda tensor: tensor[:, :, :0])

    def mean(self) -> "PrefixBank":
        """Return a bank with one task with the mean keys and values. Its effect on attention is not the mean effect."""
        return self.map(lambda tensor: tensor.mean(0, keepdim=True))

    def acting(self, place: str, shared: bool) -> AttentionPrefix:
        """Return the prefix of the attention module at `place`."""
        return AttentionPrefix(*self.factors[place], shared)
