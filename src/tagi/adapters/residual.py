"""Generated residuals on top of a shared LoRA: per-rank scales, low-rank factors, or both."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tagi.adapters.attach import Attached
from tagi.adapters.bank import Factors, LoraBank
from tagi.adapters.protocol import Bank

Scales = Float[Tensor, "task shared_rank"]


@dataclass(frozen=True)
class ResidualBank(Bank):
    """Generated residuals of several tasks. They have an effect only in combination with the shared LoRA.

    Args:
        factors: A `(task, rank, d_in)` and B `(task, d_out, rank)` by target module; empty if only scales are
            generated.
        scales: Relative changes of the ranks of the shared LoRA, `(task, shared_rank)` by target module: rank i is
            multiplied by `1 + scale_i`. Empty if only factors are generated.
        scale: alpha / rank of the factors.
    """

    factors: Mapping[str, Factors]
    scales: Mapping[str, Scales]
    scale: float

    module = "lora"
    zeroed = ("B", "scale")

    @property
    def places(self) -> tuple[str, ...]:
        """The target modules."""
        return tuple(self.factors or self.scales)

    def tensors(self) -> dict[str, Tensor]:
        """All generated tensors by `place.part`: parts A, B and scale."""
        found: dict[str, Tensor] = {}
        for place in self.places:
            if self.factors:
                found[f"{place}.A"], found[f"{place}.B"] = self.factors[place]
            if self.scales:
                found[f"{place}.scale"] = self.scales[place]
        return found

    def like(self, tensors: Mapping[str, Tensor]) -> "ResidualBank":
        """The bank with other tensors under the same names."""
        factors = {place: (tensors[f"{place}.A"], tensors[f"{place}.B"]) for place in self.factors}
        return ResidualBank(factors, {place: tensors[f"{place}.scale"] for place in self.scales}, self.scale)

    @property
    def form(self) -> tuple[float]:
        """The scale of the factors."""
        return (self.scale,)

    def mean(self) -> "ResidualBank":
        """Return one residual whose update is the mean over all tasks.

        Factors are concatenated along the rank, because the mean of products is not the product of means.
        """
        factors = dict(LoraBank(self.factors, self.scale).mean().factors) if self.factors else {}
        return ResidualBank(
            factors, {place: scale.mean(0, keepdim=True) for place, scale in self.scales.items()}, self.scale
        )

    def acting(self, place: str, shared: bool) -> Attached:
        """Raise `ValueError`: a residual has no effect without the shared LoRA."""
        raise ValueError(f"the residual for {place!r} acts only together with the shared LoRA: join them first")

    def joined(self, shared: Mapping[str, Factors]) -> LoraBank:
        """Combine the shared LoRA with these residuals into one LoRA per task.

        Args:
            shared: A `(1, shared_rank, d_in)` and B `(1, d_out, shared_rank)` of every target module, at scale 1.

        Returns:
            A bank with scale 1 whose rank is the sum of both ranks. The shared LoRA's ranks come first.
        """
        tasks, joined = self.tasks, {}
        for place, (shared_a, shared_b) in shared.items():
            a, b = shared_a.expand(tasks, -1, -1), shared_b.expand(tasks, -1, -1)
            if self.scales:
                b = b * (1 + self.scales[place]).unsqueeze(1)
            if self.factors:
                own_a, own_b = self.factors[place]
                a, b = torch.cat([a, own_a.to(a.dtype)], 1), torch.cat([b, own_b.to(b.dtype) * self.scale], 2)
            joined[place] = (a, b)
        return LoraBank(joined, 1.0)
