"""Trackers of losses and scores, and the peak memory of a run."""

import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from tagi.errors import TrainingError


def trackers(names: Sequence[str], logs: Path, step: int) -> list[TrainerCallback]:
    """One callback per name; TensorBoard writes to `logs`, where what it was told after `step` no longer counts.

    Raises `TrainingError` if a name is not known or its package is not installed.
    """
    callbacks: list[TrainerCallback] = []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise TrainingError(f"training.report_to: expected some of {known}, or none, got {name!r}")
        try:
            callbacks.append(TensorBoard(logs, step) if name == "tensorboard" else INTEGRATION_TO_CALLBACK[name]())
        except (ImportError, RuntimeError) as fault:
            extra = " with tagi-adapters[train]" if name == "tensorboard" else ""
            raise TrainingError(
                f"training.report_to: expected the package of {name!r}, got none: install it{extra}, "
                "or set training.report_to=[]"
            ) from fault
    return callbacks


class TensorBoard(TensorBoardCallback):
    """transformers' own, in a folder of our choice; where that cannot be written, training goes on without it."""

    def __init__(self, logs: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        self.logging_dir = str(logs)
        # Called when training begins, on the main process alone. A resumed run takes up at `step`: what an earlier
        # part logged beyond it is logged again.
        purge = step + 1 if step else None
        self._SummaryWriter: Any = lambda log_dir: SummaryWriter(log_dir, purge_step=purge)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Open the files."""
        self._try(super().on_train_begin, *args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Write what is logged."""
        self._try(super().on_log, *args, **kwargs)

    def close(self) -> None:
        """Write what is still to be written, also after a failure; a second time does nothing."""
        self._try(self.on_train_end, None, None, None)

    def _try(self, act: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self._SummaryWriter is None:  # said once
            return
        try:
            act(*args, **kwargs)
        except OSError as fault:
            self.tb_writer = self._SummaryWriter = None
            print(f"{self.logging_dir}: expected to write there, got {fault}: no more is logged", file=sys.stderr)


def peak_memory() -> int:
    """The most bytes held so far: on the GPU where there is one, else by the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
