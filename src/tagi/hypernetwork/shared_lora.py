"""The shared LoRA: one LoRA for all tasks, to which generated residuals are added."""

from collections.abc import Sequence

import torch
from torch import nn

from tagi.adapters.bank import Factors, LoraBank
from tagi.backbones.protocol import TargetModule, initial_factors


class SharedLora(nn.Module):
    """One LoRA for all tasks with scale 1: alpha / rank of the trained LoRA is folded into B.

    Args:
        target modules: The target modules.
        rank: Rank of the shared LoRA.
        seed: Seed of A; B starts at zero.
        trained: Whether it is trained together with the hypernetwork. If not, its tensors are frozen.
    """

    def __init__(self, target_modules: Sequence[TargetModule], rank: int, *, seed: int, trained: bool = False) -> None:
        super().__init__()
        self.rank = rank
        self.paths = [module.path for module in target_modules]
        start = initial_factors(target_modules, rank, seed)
        self.a = nn.ParameterList(nn.Parameter(start[module.path], requires_grad=trained) for module in target_modules)
        self.b = nn.ParameterList(
            nn.Parameter(torch.zeros(module.d_out, rank), requires_grad=trained) for module in target_modules
        )

    def factors(self) -> dict[str, Factors]:
        """A `(1, rank, d_in)` and B `(1, d_out, rank)` by target module."""
        pairs = zip(self.paths, self.a, self.b, strict=True)
        return {path: (a.unsqueeze(0), b.unsqueeze(0)) for path, a, b in pairs}

    @torch.no_grad()
    def copy_from(self, bank: LoraBank) -> None:
        """Copy a trained LoRA (a bank with one task).

        Raises `ValueError` if its target modules or its rank differ.
        """
        if bank.tasks != 1 or bank.rank != self.rank or list(bank.factors) != self.paths:
            raise ValueError(
                f"expected one LoRA of rank {self.rank} for {len(self.paths)} target modules, got {bank.tasks} of rank "
                f"{bank.rank} for {len(bank.factors)}"
            )
        for path, a, b in zip(self.paths, self.a, self.b, strict=True):
            own_a, own_b = bank.factors[path]
            a.copy_(own_a[0])
            b.copy_(bank.scale * own_b[0])
