"""Adafactor that gathers matrices: on whole ones the same steps. Spread ones: `test_processes.py`, with FSDP."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tagi.settings.training import TrainingSettings
from tagi.training.optimizers import GatheredAdafactor, optimizer_of

SHAPES = ((7, 4), (5,), (3, 2, 6), (1,))


@pytest.mark.parametrize("name", ["adafactor", "adafactor-scaled"])
def test_gathered_steps_are_adafactors(name: str) -> None:
    settings = TrainingSettings(
        steps=1, tasks_per_batch=1, queries_per_task=1, learning_rate=0.03, optimizer=name, weight_decay=0.1
    )
    trained = []
    for sharded in (False, True):
        random = torch.Generator().manual_seed(2)
        parameters = [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]
        unused = nn.Parameter(torch.ones(2))
        kind, arguments = optimizer_of(settings, sharded=sharded)
        assert (kind is GatheredAdafactor) == sharded
        build: Callable[..., torch.optim.Optimizer] = kind
        optimizer = build([*parameters, unused], weight_decay=settings.weight_decay, **arguments)
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=random)
            optimizer.step()
        assert torch.equal(unused, torch.ones(2))
        assert {"step"} <= set(optimizer.state_dict()["state"][0])
        trained.append(parameters)
    for one, other in zip(*trained, strict=True):
        assert torch.equal(one, other)
