"""The trainer: batches in their own order, checkpoints that are whole or ignored, resuming to the bit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tagi.errors import TrainingError
from tagi.methods import Trainable
from tagi.training import TrainingSettings, fingerprint, train
from tagi.training.checkpoints import MARKER, mark_complete, newest_complete

SETTINGS = TrainingSettings(steps=6, learning_rate=0.05, save_every=2, keep_checkpoints=9, log_every=1, accumulation=2)


class Line(Trainable):
    """A regression with dropout, that notes which batches it was shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.4), nn.Linear(7, 1))
        self.fixed = nn.Linear(2, 3).requires_grad_(False)
        self.seen: list[int] = []

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        self.seen.append(samples[0])
        random = torch.Generator().manual_seed(samples[0])
        return {"x": torch.randn(11, 5, generator=random)}

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        torch.save(self.state_dict(), folder)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        loss = (self.net(x).squeeze(-1) - x.sum(-1)).square().mean()
        return {"loss": loss, "half": loss.detach() / 2}


BATCHES = [[index] for index in range(12)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_taken_in_their_own_order_and_terms_are_logged(tmp_path: Path) -> None:
    model = Line()
    record = train(model, BATCHES, SETTINGS, tmp_path, identity="a", progress=False)
    assert model.seen == list(range(12))
    assert record["steps"] == 6
    assert [set(entry) >= {"loss", "half", "learning_rate"} for entry in record["history"]] == [True] * 6
    assert record["history"][0]["half"] == pytest.approx(record["history"][0]["loss"] / 2, rel=1e-4)


def test_frozen_parameters_stay_and_checkpoints_hold_trained_ones_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = Line()
    before = weights(model)
    train(model, BATCHES, SETTINGS, tmp_path, identity="a", progress=False)
    after = weights(model)
    assert same({k: v for k, v in before.items() if "fixed" in k}, {k: v for k, v in after.items() if "fixed" in k})
    assert not torch.equal(before["net.0.weight"], after["net.0.weight"])
    assert set(load_file(tmp_path / "checkpoint-4" / "model.safetensors")) == {k for k in after if "net" in k}


@pytest.mark.parametrize("cut", ["no marker", "a file cut short", "whole"])
def test_resuming_ends_with_the_same_weights(tmp_path: Path, cut: str) -> None:
    straight = Line()
    train(straight, BATCHES, SETTINGS, tmp_path / "straight", identity="a", progress=False)
    first = Line()
    train(first, BATCHES, SETTINGS, tmp_path / "cut", identity="a", progress=False)
    import shutil

    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    newest = tmp_path / "cut" / "checkpoint-4"
    if cut == "no marker":
        (newest / MARKER).unlink()
    elif cut == "a file cut short":
        weights_file = newest / "model.safetensors"
        weights_file.write_bytes(weights_file.read_bytes()[:-1])
    resumed = Line()
    train(resumed, BATCHES, SETTINGS, tmp_path / "cut", identity="a", resume=True, progress=False)
    assert resumed.seen == list(range(8 if cut == "whole" else 4, 12))
    assert same(weights(straight), weights(resumed))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(Line(), BATCHES, SETTINGS, tmp_path, identity="a", progress=False)
    with pytest.raises(TrainingError, match=r"expected a checkpoint of this run \(b\), got one of another \(a\)"):
        train(Line(), BATCHES, SETTINGS, tmp_path, identity="b", resume=True, progress=False)


def test_newest_complete_goes_by_number_not_by_name(tmp_path: Path) -> None:
    assert newest_complete(tmp_path, "a") is None
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "file").write_text("x")
        mark_complete(folder, "a")
    (tmp_path / "checkpoint-11").mkdir()
    assert newest_complete(tmp_path, "a") == tmp_path / "checkpoint-10"


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(Line):
        calls = 0

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            self.calls += 1
            return {"loss": super().forward(x)["loss"] * (torch.nan if self.calls > 4 else 1)}

    with pytest.raises(TrainingError, match="step 3: expected a finite loss, got nan"):
        train(Broken(), BATCHES, SETTINGS, tmp_path, identity="a", progress=False)


def test_the_record_is_written(tmp_path: Path) -> None:
    record = train(Line(), BATCHES, SETTINGS, tmp_path, identity="a", progress=False)
    assert json.loads((tmp_path / "training.json").read_text()) == record


def test_a_fingerprint_is_of_content() -> None:
    assert fingerprint("a", {"b": 1, "c": 2}) == fingerprint("a", {"c": 2, "b": 1})
    assert fingerprint("a", {"b": 1}) != fingerprint("a", {"b": 2})
