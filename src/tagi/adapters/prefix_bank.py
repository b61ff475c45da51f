"""Generated prefixes: keys and values that attentions read before their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tagi.adapters.attach import AttentionPrefix
from tagi.adapters.protocol import Bank

KeysAndValues = tuple[Float[Tensor, "task heads token d_kv"], Float[Tensor, "task heads token d_kv"]]


@dataclass(frozen=True)
class PrefixBank(Bank):
    """Keys and values by attention.

    They have no position, are visible to every query, and stand in no cache: lengths and positions of what a model
    reads and writes are as without them.
    """

    factors: Mapping[str, KeysAndValues]

    module = "prefix"

    @property
    def places(self) -> tuple[str, ...]:
        """The attentions' paths."""
        return tuple(self.factors)

    @property
    def tokens(self) -> int:
        """Of the prefix of every attention."""
        return next(iter(self.factors.values()))[0].shape[2]

    def tensors(self) -> dict[str, Tensor]:
        """Keys and values of every attention."""
        return {
            f"{place}.{part}": tensor
            for place, pair in self.factors.items()
            for part, tensor in zip(("keys", "values"), pair, strict=True)
        }

    def like(self, tensors: Mapping[str, Tensor]) -> "PrefixBank":
        """Other keys and values of the same attentions."""
        return PrefixBank({place: (tensors[f"{place}.keys"], tensors[f"{place}.values"]) for place in self.factors})

    def joins(self, other: Bank) -> bool:
        """Whether it is prefixes: nothing else is fixed."""
        return isinstance(other, PrefixBank)

    def zero(self) -> "PrefixBank":
        """Prefixes without a token: keys and values of 0 would still take a share of every attention."""
        return self.map(lambda tensor: tensor[:, :, :0])

    def mean(self) -> "PrefixBank":
        """One task with the mean keys and the mean values: what attention makes of them is no mean."""
        return self.map(lambda tensor: tensor.mean(0, keepdim=True))

    def acting(self, place: str, shared: bool) -> AttentionPrefix:
        """What the attention reads before its own."""
        return AttentionPrefix(*self.factors[place], shared)
