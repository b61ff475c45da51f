"""Experiment trackers, and peak memory."""

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
    """Return one callback per tracker. TensorBoard writes to `logs`, where entries after `step` are discarded.

    Raises `TrainingError` if a tracker is unknown or its package is not installed.
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
    """transformers' TensorBoard callback with another folder. If it cannot be written, training continues."""

    def __init__(self, logs: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        self.logging_dir = str(logs)
        # Called when training begins, on the main process only. A resumed run starts at `step`; later entries of an
        # earlier part are logged again.
        purge = step + 1 if step else None
        self._SummaryWriter: Any = lambda log_dir: SummaryWriter(log_dir, purge_step=purge)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Open the files."""
        self._try(super().on_train_begin, *args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Write log entries."""
        self._try(super().on_log, *args, **kwargs)

    def close(self) -> None:
        """Flush and close, also after a failure. Can be called repeatedly."""
        self._try(self.on_train_end, None, None, None)

    def _try(self, act: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self._SummaryWriter is None:  # warn once
            return
        try:
            act(*args, **kwargs)
        except OSError as fault:
            self.tb_writer = self._SummaryWriter = None
            print(f"{self.logging_dir}: expected to write there, got {fault}: no more is logged", file=sys.stderr)


def peak_memory() -> int:
    """Return peak memory in bytes: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
