"""The trainer: batches in their own order, checkpoints that are whole or ignored, resuming to the bit."""

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tagi.errors import TrainingError
from tagi.methods.protocol import Trainable
from tagi.settings.training import TrainingSettings
from tagi.training import loop
from tagi.training.checkpoints import MARKER, drop_old, mark_complete, newest_complete, read_marker
from tagi.training.trainer import fingerprint, train

SETTINGS = TrainingSettings(
    steps=6,
    tasks_per_batch=1,
    queries_per_task=1,
    learning_rate=0.05,
    save_every=2,
    keep_checkpoints=9,
    log_every=1,
    accumulation=2,
    report_to=(),
)


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


def test_whoever_wants_is_told_of_every_step(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    train(Line(), BATCHES, SETTINGS, tmp_path, identity="a", progress=lambda *steps: told.append(steps))
    assert told == [(step, 6) for step in range(1, 7)]


def test_frozen_parameters_stay_and_checkpoints_hold_trained_ones_alone(tmp_path: Path) -> None:
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


class Words(Trainable):
    """Micro-batches of as many words as a sample says, and what is predicted of each: how much they count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net = nn.Linear(5, 1)

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Words and their labels, and as many labels of padding."""
        random = torch.Generator().manual_seed(7)
        start, count = samples[0]
        x = torch.randn(11, 5, generator=random)[start : start + count]
        labels = torch.tensor([3] * count + [-100] * count)
        return {"x": x, "x_mask": torch.ones(count), "labels": labels}

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor, x_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = (self.net(x).squeeze(-1) - labels[labels != -100]).square().mean()
        return {"loss": loss, "double": loss.detach() * 2}


def test_a_step_is_the_mean_over_its_tokens_however_they_are_split(tmp_path: Path) -> None:
    whole, split = Words(), Words()
    once = replace(SETTINGS, steps=1, accumulation=1, warmup_ratio=0.0, max_grad_norm=1e9)
    one = train(whole, [[(0, 11)]], once, tmp_path / "whole", identity="a", progress=False)
    parts = [[(0, 1)], [(1, 8)], [(9, 2)]]
    other = train(split, parts, replace(once, accumulation=3), tmp_path / "split", identity="a", progress=False)
    for name in ("loss", "double", "grad_norm"):
        assert other["history"][0][name] == pytest.approx(one["history"][0][name], rel=1e-5)
    assert other["history"][0]["double"] == pytest.approx(2 * other["history"][0]["loss"], rel=1e-5)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], tensor)
    assert one["tokens"] == other["tokens"] == 22


def test_tokens_and_seconds_of_all_parts_are_counted(tmp_path: Path) -> None:
    batches = [[(index % 5, 1 + index % 6)] for index in range(12)]
    straight = train(Words(), batches, SETTINGS, tmp_path, identity="a", progress=False)
    assert straight["tokens"] == 2 * sum(1 + index % 6 for index in range(12))
    assert straight["tokens_per_second"] == pytest.approx(straight["tokens"] / straight["seconds"], rel=0.01)
    assert 2**26 < straight["peak_memory"] < 2**36
    shutil.rmtree(tmp_path / "checkpoint-6")
    marker = read_marker(tmp_path / "checkpoint-4")
    assert marker is not None
    assert 0 < marker["seconds"] < straight["seconds"]
    mark_complete(tmp_path / "checkpoint-4", "a", seconds=1000.0)
    resumed = train(Words(), batches, SETTINGS, tmp_path, identity="a", resume=True, progress=False)
    assert resumed["tokens"] == straight["tokens"]
    assert 1000 < resumed["seconds"] < 1000 + 60


def test_a_run_that_lacks_micro_batches_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected 12 micro-batches \(6 steps x 2 x 1 process\(es\)\), got 11"):
        train(Line(), BATCHES[:11], SETTINGS, tmp_path, identity="a", progress=False)


def test_bf16_needs_no_gpu_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = Line()
    record = train(model, BATCHES, replace(SETTINGS, bf16=True), tmp_path, identity="a", progress=False)
    plain = train(Line(), BATCHES, SETTINGS, tmp_path / "plain", identity="a", progress=False)
    assert 1e-6 < abs(record["history"][0]["loss"] / plain["history"][0]["loss"] - 1) < 0.05
    assert "_original_forward" not in vars(model)
    assert not hasattr(model.forward, "__wrapped__")  # accelerate's autocast


def test_old_checkpoints_go_when_a_new_one_is_whole(tmp_path: Path) -> None:
    train(Line(), BATCHES, replace(SETTINGS, keep_checkpoints=2), tmp_path, identity="a", progress=False)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize(
    ("keep", "kept", "left"),
    [(1, (), [8, 9]), (2, (), [7, 8, 9]), (7, (), [3, 5, 6, 7, 8, 9]), (1, (5,), [5, 8, 9]), (3, (5,), [5, 7, 8, 9])],
)
def test_how_many_are_kept(tmp_path: Path, keep: int, kept: tuple[int, ...], left: list[int]) -> None:
    for step in (3, 5, 6, 7, 8, 9):  # 9 is of an earlier time: not to be touched
        (tmp_path / f"checkpoint-{step}").mkdir()
    drop_old(tmp_path, 8, keep, kept)
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == left


def test_a_checkpoint_is_whole_only_with_what_is_in_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "optimizer" / "part").write_text("abc")
    mark_complete(folder, "a")
    assert newest_complete(tmp_path, "a") == folder
    (folder / "optimizer" / "part").write_text("ab")
    assert newest_complete(tmp_path, "a") is None


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    mark_complete(tmp_path / "checkpoint-1", "a", processes=3)
    with pytest.raises(TrainingError, match=r"expected a checkpoint of 2 process\(es\), got one of 3: resume with as"):
        newest_complete(tmp_path, "a", processes=2)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # torch.save's words for it
]


@pytest.mark.parametrize("fault", FULL, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("step", [2, 6])
def test_a_full_disk_costs_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, step: int
) -> None:
    straight = Line()
    train(straight, BATCHES, SETTINGS, tmp_path / "straight", identity="a", progress=False)
    saved: list[int] = []
    save_file = loop.save_file

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        saved.append(len(saved))
        save_file(tensors, path)
        if 2 * len(saved) == step:
            raise fault

    monkeypatch.setattr(loop, "save_file", full)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    newest = "is checkpoint-4, nothing up to it is lost" if step == 6 else "is none"
    with pytest.raises(
        TrainingError, match=f"checkpoint-{step}: .* got no space left on device; the newest .* {newest}"
    ):
        train(Line(), BATCHES, SETTINGS, tmp_path / "cut", identity="a", progress=False)
    assert not (tmp_path / "cut" / f"checkpoint-{step}").exists()
    monkeypatch.undo()
    resumed = Line()
    train(resumed, BATCHES, SETTINGS, tmp_path / "cut", identity="a", resume=True, progress=False)
    assert resumed.seen[0] == (8 if step == 6 else 0)
    assert same(weights(straight), weights(resumed))


def test_other_faults_of_writing_name_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(loop, "save_file", broken)
    with pytest.raises(TrainingError, match=r"checkpoint-2: .* got \[Errno 5\] Input/output error; .* is none: resume"):
        train(Line(), BATCHES, SETTINGS, tmp_path, identity="a", progress=False)


def test_adafactor_is_refused_where_no_matrix_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP gathers matrices for it, DeepSpeed does not."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    adafactor = replace(SETTINGS, optimizer="adafactor")
    with pytest.raises(TrainingError, match=r"^training\.optimizer: expected 'adamw' with DeepSpeed, .*fsdp2\.yaml"):
        train(Line(), BATCHES, adafactor, tmp_path, identity="a", progress=False)
