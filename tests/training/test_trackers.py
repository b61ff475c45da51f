"""What TensorBoard is told, and what happens where it cannot be."""

import builtins
import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TensorBoardCallback

from tagi.errors import TrainingError
from tagi.training.trainer import train
from tests.training.test_trainer import BATCHES, SETTINGS, Line

TRACKED = replace(SETTINGS, report_to=("tensorboard",), validate_every=3)


def scalars(logs: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(logs))
    found.Reload()
    return {name: [(at.step, at.value) for at in found.Scalars(name)] for name in found.Tags()["scalars"]}


def run(folder: Path, resume: bool = False) -> dict[str, Any]:
    return train(Line(), BATCHES, TRACKED, folder, identity="a", progress=False, resume=resume, validate=lambda: 0.5)


def test_losses_and_scores_go_to_tensorboard_each_step_once(tmp_path: Path) -> None:
    record = run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-6")
    run(tmp_path, resume=True)
    found = scalars(tmp_path / "logs")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    assert [value for _, value in found["train/loss"]] == pytest.approx(losses)
    assert found["train/validation"] == [(3, 0.5), (6, 0.5)]
    assert len(found["train/half"]) == 6


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training.report_to: expected some of .*wandb.*, got 'tensorbored'"):
        train(Line(), BATCHES, replace(SETTINGS, report_to=("tensorbored",)), tmp_path, identity="a", progress=False)


def test_a_tracker_that_is_not_installed_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        TrainingError, match=r"expected the package of 'tensorboard', got none: .*tagi-adapters\[train\]"
    ):
        run(tmp_path)


def test_logs_that_cannot_be_written_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TensorBoardCallback, "on_log", full)
    assert run(tmp_path)["steps"] == 6
    assert capsys.readouterr().err.count("No space left on device: no more is logged") == 1
