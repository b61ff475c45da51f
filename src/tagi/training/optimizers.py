"""The optimizers of `training.optimizer`, for whole models and for those that FSDP spreads over processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.optimization import Adafactor

from tagi.settings.training import TrainingSettings


class GatheredAdafactor(Adafactor):
    """Adafactor that gathers one matrix after another, since its steps depend on whole rows and columns.

    Every process makes the same step on the whole matrix and keeps its own part of the outcome. The state, a row and a
    column for each matrix, is whole on every process.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step. What is not spread over processes is stepped as it is."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            options = {name: value for name, value in group.items() if name in self.defaults}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                whole = nn.Parameter(_whole(parameter))
                whole.grad = _whole(parameter.grad)
                single = Adafactor([whole], **options)
                single.state[whole] = self.state[parameter]
                single.step()
                if isinstance(parameter, DTensor):
                    # Every process has the whole: none has to send it.
                    part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
                    parameter.copy_(part)
        return loss


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def optimizer_of(settings: TrainingSettings, *, sharded: bool) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the optimizer's class and arguments; which parameters decay is the Trainer's own rule.

    Args:
        settings: The stage's settings.
        sharded: Whether FSDP spreads the parameters over processes.
    """
    if settings.optimizer == "adamw":
        return torch.optim.AdamW, {"lr": settings.learning_rate}
    scaled = settings.optimizer == "adafactor-scaled"
    arguments = {"lr": settings.learning_rate, "scale_parameter": scaled, "relative_step": False}
    return GatheredAdafactor if sharded else Adafactor, arguments
