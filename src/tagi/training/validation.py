"""Validation during training without side effects."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from tagi.backbones.modes import evaluating


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode without gradients, then restore modes and random states."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with evaluating(model), torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
