"""Generated prefixes: keys and values that attentions read before their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tagi.adapters.attach import AttentionPrefix
from tagi.adapters.protocol import PlacedBank

KeysAndValues = tuple[Float[Tensor, "task heads token d_kv"], Float[Tensor, "task heads token d_kv"]]


@dataclass(frozen=True)
class PrefixBank(PlacedBank):
    """Keys and values by attention.

    They have no position, are visible to every query, and are in no cache: lengths and positions of what a model
    reads and generates are the same with and without them.
    """

    factors: Mapping[str, KeysAndValues]

    module = "prefix"
    parts = ("keys", "values")

    @property
    def form(self) -> tuple[()]:
        """Nothing: a prefix has no other settings."""
        return ()

    @property
    def tokens(self) -> int:
        """Length of the prefix of every attention."""
        return next(iter(self.factors.values()))[0].shape[2]

    def zero(self) -> "PrefixBank":
        """Return prefixes without tokens: keys and values of 0 would still take a share of every attention."""
        return self.map(lambda tensor: tensor[:, :, :0])

    def mean(self) -> "PrefixBank":
        """Return one task with the mean keys and values, whose effect on attention is not the mean effect."""
        return self.map(lambda tensor: tensor.mean(0, keepdim=True))

    def acting(self, place: str, shared: bool) -> AttentionPrefix:
        """Return what the attention at `place` reads before its own keys and values."""
        return AttentionPrefix(*self.factors[place], shared)
