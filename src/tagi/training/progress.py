"""Progress, remaining time and losses of a training run on the terminal."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback

Report = Callable[[int, int], None]
"""Called with the number of steps done and the total. An exception ends the training."""
_LINE_EVERY_SECONDS = 30.0
_WATCHED_STEPS = 1000
"""Number of steps after which L_ins is checked, or half of a shorter training."""
_FALL = 0.05
"""Minimum relative decrease of L_ins."""


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
        self._alignment_watched = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar at the first step."""
        self._began = self._last = time.monotonic()
        self._first_step = state.global_step
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, losses="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar, or print a line if the last one is old."""
        self._bar.update(self._task, completed=state.global_step, losses=self._losses)
        if self._bar.disable and time.monotonic() - self._last >= _LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            pace = (self._last - self._began) / (state.global_step - self._first_step)
            left = pace * (state.max_steps - state.global_step)
            rate = f"{pace:.2f} s/step  {left / 60:.1f} min left"
            print(f"step {state.global_step}/{state.max_steps}  {rate}  {self._losses}", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Store the latest losses for display."""
        skipped = {"grad_norm", "learning_rate", "epoch"}
        shown = {name: value for name, value in (logs or {}).items() if name not in skipped and "train_" not in name}
        self._losses = "  ".join(f"{name} {value:.4f}" for name, value in shown.items() if isinstance(value, float))
        if not self._alignment_watched and state.global_step >= min(_WATCHED_STEPS, state.max_steps // 2):
            self._alignment_watched = True
            flat = alignment_fault(state.log_history)
            if flat is not None:
                self._bar.console.print(f"warning: {flat}", highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the bar."""
        if not self._bar.disable:  # it would print an empty line
            self._bar.stop()


def alignment_fault(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a warning if L_ins has fallen by less than 5% between its first and last entry, else None."""
    values = [(int(entry["step"]), entry["ins"]) for entry in history if "ins" in entry]
    if len(values) < 2:
        return None
    (first_step, first), (last_step, last) = values[0], values[-1]
    if last <= (1 - _FALL) * first:
        return None
    return (
        f"losses.ins: expected L_ins to fall by {_FALL:.0%} or more, got {first:.3g} at step {first_step} and "
        f"{last:.3g} at step {last_step}: the LoRA teachers have no effect. Set losses.ins_normalized = true, or a "
        "larger losses.ins"
    )


class _Reported(TrainerCallback):
    """Calls a function after every step."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call the function."""
        self._report(state.global_step, state.max_steps)


def progress_callbacks(progress: bool | Report) -> list[TrainerCallback]:
    """Return the callback that shows or reports progress."""
    if isinstance(progress, bool):
        return [Progress()] if progress else []
    return [_Reported(progress)]
