"""What a training run says on the terminal."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tagi.training.progress import Progress, alignment_fault


def history(*values: float) -> list[dict[str, float]]:
    return [{"step": 50.0 * (at + 1), "loss": 2.0, "ins": value} for at, value in enumerate(values)]


def test_an_alignment_that_does_not_fall_is_named() -> None:
    assert alignment_fault(history(3.97e-5, 4.00e-5)) == (
        "losses.ins: expected L_ins to fall by 5% or more, got 3.97e-05 at step 50 and 4e-05 at step 100: the LoRA "
        "teachers have no effect. Set losses.ins_normalized = true, or a larger losses.ins"
    )
    assert alignment_fault(history(1.0, 0.96)) is not None
    assert alignment_fault(history(1.0, 0.96, 0.9)) is None
    assert alignment_fault(history(1.0)) is None
    assert alignment_fault([{"step": 50.0, "loss": 2.0}] * 3) is None


@pytest.mark.parametrize(("steps", "said_at"), [(4000, 1000), (400, 200)])
def test_it_is_said_once_after_a_thousand_steps_or_half_of_them(steps: int, said_at: int) -> None:
    progress, said = Progress(), io.StringIO()
    progress._bar.live.console = Console(file=said)
    entries: list[dict[str, Any]] = []
    for step in range(50, steps + 1, 50):
        entries.append({"step": float(step), "loss": 2.0, "ins": 1e-4})
        state = SimpleNamespace(global_step=step, max_steps=steps, log_history=entries)
        progress.on_log(None, state, None, logs=entries[-1])
        assert said.getvalue().count("warning: losses.ins") == (step >= said_at)
