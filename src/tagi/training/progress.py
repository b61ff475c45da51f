"""Progress, remaining time and losses of a training run on the terminal."""

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback

Report = Callable[[int, int], None]
"""Is told the steps that are done and those that there are; what it raises ends the training."""
_LINE_EVERY_SECONDS = 30.0


class Progress(TrainerCallback):
    """A bar with the remaining time on a terminal, otherwise a line every half minute."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        losses = TextColumn("{task.fields[losses]}")
        self._bar = Bar(*columns, losses, console=console, disable=not console.is_terminal)
        self._losses = ""
        self._began = self._last = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar at the step that training starts from."""
        self._began = self._last = time.monotonic()
        self._first_step = state.global_step
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, losses="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar, or print a line if the last is old."""
        self._bar.update(self._task, completed=state.global_step, losses=self._losses)
        if self._bar.disable and time.monotonic() - self._last >= _LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            pace = (self._last - self._began) / (state.global_step - self._first_step)
            left = pace * (state.max_steps - state.global_step)
            rate = f"{pace:.2f} s/step  {left / 60:.1f} min left"
            print(f"step {state.global_step}/{state.max_steps}  {rate}  {self._losses}", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the newest losses for display."""
        skipped = {"grad_norm", "learning_rate", "epoch"}
        shown = {name: value for name, value in (logs or {}).items() if name not in skipped and "train_" not in name}
        self._losses = "  ".join(f"{name} {value:.4f}" for name, value in shown.items() if isinstance(value, float))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the bar."""
        if not self._bar.disable:  # it would print an empty line
            self._bar.stop()


class _Reported(TrainerCallback):
    """Tells somebody of every step."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell of the step."""
        self._report(state.global_step, state.max_steps)


def progress_callbacks(progress: bool | Report) -> list[TrainerCallback]:
    """Return what shows or reports a training's progress."""
    if isinstance(progress, bool):
        return [Progress()] if progress else []
    return [_Reported(progress)]
