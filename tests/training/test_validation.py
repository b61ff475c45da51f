"""Validation in the midst of training: it changes nothing, the best weights are left, and patience survives a kill."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tagi.errors import TrainingError
from tagi.training.trainer import train
from tagi.training.validation import undisturbed
from tests.training.test_trainer import SETTINGS, Line, same, weights

BATCHES = [[index] for index in range(13)]  # one more than is trained on: it is read ahead
VALIDATED = replace(SETTINGS, steps=12, accumulation=1, validate_every=2, save_every=3, keep_checkpoints=99)
SCORES = {2: 0.1, 4: 0.7, 6: 0.7, 8: 0.3, 10: 0.9, 12: 0.2}
"""By step. With a patience of 2 training stops after 8: a score that only equals the best is no better."""


class Judge:
    """Gives each step the score that it is to have, and disturbs what it can."""

    def __init__(self, model: Line, scores: dict[int, float]) -> None:
        self.model, self.scores = model, scores
        self.asked: list[int] = []

    def __call__(self) -> float:
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in self.model.modules())
        torch.rand(3), random.random(), np.random.rand()
        self.asked.append(max(self.model.seen))
        return self.scores[self.asked[-1]]


def run(
    folder: Path, scores: dict[int, float] = SCORES, *, resume: bool = False, **changed: Any
) -> tuple[Line, Judge, dict[str, Any]]:
    model = Line()
    judge = Judge(model, scores)
    settings = replace(VALIDATED, **changed)
    record = train(model, BATCHES, settings, folder, identity="a", resume=resume, progress=False, validate=judge)
    return model, judge, record


def test_a_look_leaves_no_trace() -> None:
    model = Line()
    model.train()
    model.net[0].eval()

    def state() -> tuple[Any, ...]:
        numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
        modes = [module.training for module in model.modules()]
        return random.getstate(), numpy, torch.get_rng_state().tolist(), modes, torch.is_grad_enabled()

    def look() -> None:
        with undisturbed(model):
            random.random(), np.random.rand(), torch.rand(2)
            assert not any(module.training for module in model.modules())
            raise KeyError

    before = state()
    with pytest.raises(KeyError):
        look()
    assert state() == before


def kept(folder: Path, step: int) -> dict[str, Tensor]:
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


def test_a_validated_run_ends_with_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    plain = Line()
    settings = replace(VALIDATED, validate_every=None)
    record = train(plain, BATCHES, settings, tmp_path / "plain", identity="a", progress=False)
    model, judge, validated = run(tmp_path / "validated", {step: step / 10 for step in SCORES})
    assert judge.asked == [2, 4, 6, 8, 10, 12]
    assert same(weights(plain), weights(model))
    assert [entry for entry in validated["history"] if "loss" in entry] == record["history"]
    assert (record["best"], validated["best"]) == (None, {"step": 12, "score": 1.2})


def test_the_best_weights_are_left_and_their_checkpoint_is_kept(tmp_path: Path) -> None:
    model, _, record = run(tmp_path, keep_checkpoints=1)
    assert record["best"] == {"step": 10, "score": 0.9}
    assert record["stopped_early"] is False
    found = {entry["step"]: entry["validation"] for entry in record["history"] if "validation" in entry}
    assert found == SCORES
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-12"]
    assert same(kept(tmp_path, 10), weights(model))
    assert not same(kept(tmp_path, 12), weights(model))
    assert not any(module.training for module in model.modules())


def test_the_last_step_is_validated_wherever_it_falls(tmp_path: Path) -> None:
    _, judge, record = run(tmp_path, {5: 0.3, 10: 0.2, 12: 0.4}, validate_every=5)
    assert judge.asked == [5, 10, 12]
    assert record["best"] == {"step": 12, "score": 0.4}


# Checkpoints: 2 and 4 are the best of their time, 3 and 6 are due, 8 is where training stops.
@pytest.mark.parametrize("newest", [0, 2, 3, 4, 6, 8])
def test_patience_ends_a_run_also_when_it_was_cut_between(tmp_path: Path, newest: int) -> None:
    straight, judge, record = run(tmp_path / "straight", patience=2)
    assert judge.asked == [2, 4, 6, 8]
    assert record["best"] == {"step": 4, "score": 0.7}
    assert (record["steps"], record["stopped_early"]) == (8, True)
    assert same(kept(tmp_path / "straight", 4), weights(straight))
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "straight").glob("checkpoint-*"))
    assert steps == [2, 3, 4, 6, 8]

    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    for step in steps:
        if step > newest:
            shutil.rmtree(tmp_path / "cut" / f"checkpoint-{step}")
    resumed, judge, again = run(tmp_path / "cut", patience=2, resume=True)
    assert judge.asked == [step for step in (2, 4, 6, 8) if step > newest]
    assert same(weights(straight), weights(resumed))
    assert same(kept(tmp_path / "straight", 8), kept(tmp_path / "cut", 8))
    assert {key: again[key] for key in ("steps", "best", "stopped_early", "history")} == {
        key: record[key] for key in ("steps", "best", "stopped_early", "history")
    }


def test_a_run_whose_best_checkpoint_is_gone_is_not_taken_up(tmp_path: Path) -> None:
    run(tmp_path, patience=2)
    (tmp_path / "checkpoint-4" / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"checkpoint-4: expected the checkpoint of the best validation, got none"):
        run(tmp_path, patience=2, resume=True)


def test_a_score_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 4: expected a finite validation score, got nan"):
        run(tmp_path, {**SCORES, 4: float("nan")})


def test_half_of_what_validation_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training.validate_every: expected something to validate on, got none"):
        train(Line(), BATCHES, replace(SETTINGS, validate_every=2), tmp_path, identity="a", progress=False)
    with pytest.raises(ValueError, match=r"expected validate_every with it, got 3 alone"):
        replace(SETTINGS, patience=3)
