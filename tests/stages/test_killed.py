"""Fault injection: stages killed at any moment, also while they write a checkpoint, end as if they had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tagi.training.checkpoints import MARKER

STEPS = 24
COMMON = [
    *(f"training.steps={STEPS}", "training.save_every=4", "training.keep_checkpoints=2", "training.dropout=0.1"),
    *("training.tasks_per_batch=3", "training.queries_per_task=2", "data.instances_per_task=9"),
    *("losses.contrast=0.1", "training.report_to=[]"),
]
STAGES = ("backbone", "metatrain", "teachers", "pretrain", "finetune", "single")
KILLS = 5
LIMIT = 240.0


def command(stage: str, out: Path, teachers: Path) -> list[str]:
    recipe = "toy-backbone" if stage == "backbone" else "toy"
    settings = [*COMMON, *([] if stage == "backbone" else [f"training.{stage}.steps={STEPS}"])]
    if stage == "teachers":
        settings.append("training.teachers.save_every=4")
    if stage == "finetune":
        settings.append("run.stages=['teachers', 'finetune']")
    given = ["--teachers", str(teachers)] if stage == "finetune" else []
    overrides = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "tagi", "train", stage, recipe, "--out", str(out), "--resume", *given, *overrides]


def whole(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr


def killed(arguments: list[str], moment: Callable[[], bool]) -> bool:
    """Start, and kill as soon as `moment` has come; whether it came before the end."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < LIMIT:
        if moment():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def checkpoints(out: Path) -> list[Path]:
    """Folders of checkpoints that are there at this moment; some may vanish while one looks."""
    return [Path(at) / name for at, names, _ in os.walk(out) for name in names if name.startswith("checkpoint-")]


def half_written(out: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any(path.exists() and not (path / MARKER).exists() for path in checkpoints(out))


def weights(out: Path) -> dict[str, bytes]:
    files = [path for path in sorted(out.rglob("*.safetensors")) if "checkpoints" not in path.parts]
    assert files
    return {
        f"{path.relative_to(out)}:{name}": tensor.numpy().tobytes()
        for path in files
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA teachers of two steps each."""
    out = tmp_path_factory.mktemp("teachers") / "run"
    arguments = command("teachers", out, out)
    whole([*arguments, "--set", "training.teachers.steps=2"])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_it_ends_the_same(stage: str, tmp_path: Path, teachers: Path) -> None:
    whole(command(stage, tmp_path / "whole", teachers))
    expected = weights(tmp_path / "whole")
    out = tmp_path / "killed"
    arguments = command(stage, out, teachers)
    rng = random.Random(f"kills of {stage}")
    assert killed(arguments, lambda: half_written(out)), "no checkpoint was ever caught half-written"
    assert half_written(out)
    hits = 1
    for _ in range(KILLS - 1):
        wanted = rng.randrange(STEPS)  # of the newest checkpoint, and then a little later
        delay = rng.random() * 0.3

        def moment(wanted: int = wanted, delay: float = delay) -> bool:
            steps = [int(path.name.split("-")[1]) for path in checkpoints(out)]
            if max(steps, default=0) < wanted:
                return False
            time.sleep(delay)
            return True

        hits += killed(arguments, moment)
    assert hits >= 2
    whole(arguments)
    found = weights(out)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
