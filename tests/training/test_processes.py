"""Two processes train as one does: same micro-batches in a step, same weights of tokens, same result when resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tagi.training.checkpoints import MARKER
from tagi.training.distributed import is_main_process, process_count
from tagi.training.trainer import train
from tests.conftest import Run
from tests.training import launched

ASSETS = "src/tagi/assets/accelerate"
SCRIPT = Path(launched.__file__)
ROUNDING = 1e-5
"""In losses near 5 and weights near 1, after ten steps of AdamW: ten times what was seen."""


def launch(repo_root: Path, configuration: str, *command: str | Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{ASSETS}/{configuration}.yaml"]
    ran = subprocess.run(
        [*launcher, *command],
        cwd=repo_root,
        env={**os.environ, "PYTHONPATH": f"{repo_root / 'src'}:{repo_root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def apart(one: Path, other: Path) -> float:
    """The largest difference between the tensors of two files that hold the same."""
    first, second = load_file(one), load_file(other)
    assert {name: tensor.shape for name, tensor in first.items()} == {n: t.shape for n, t in second.items()}
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def compare(folder: Path, one: Path) -> None:
    """What two processes left in `folder` with what one process did, and with itself."""
    alone, together = record(one / "plain"), record(folder / "plain")
    assert together["processes"] == 2
    assert together["tokens"] == alone["tokens"]
    for term in ("loss", "prediction"):
        curves = [torch.tensor([entry[term] for entry in run["history"]]) for run in (alone, together)]
        torch.testing.assert_close(*curves, rtol=0, atol=ROUNDING)
    assert apart(one / "plain.safetensors", folder / "plain.safetensors") < 5 * ROUNDING
    assert apart(folder / "plain.safetensors", folder / "plain" / "checkpoint-10" / "model.safetensors") == 0

    assert (folder / "seed-0").read_text() != (folder / "seed-1").read_text()  # each drops out what it will
    for checkpoint in folder.glob("*/checkpoint-*"):
        assert {"rng_state_0.pth", "rng_state_1.pth"} < set(json.loads((checkpoint / MARKER).read_text())["files"])

    straight, resumed = record(folder / "straight"), record(folder / "resumed")
    assert straight["best"]["step"] == 3
    scores = [entry["validation"] for entry in straight["history"] if "validation" in entry]
    assert scores[0] > scores[1] > scores[2]
    assert (straight["steps"], straight["stopped_early"]) == (9, True)
    for key in ("steps", "best", "stopped_early", "tokens", "history"):
        assert resumed[key] == straight[key]
    last = Path("checkpoint-9") / "model.safetensors"
    assert apart(folder / "straight" / last, folder / "resumed" / last) == 0
    best = folder / "straight" / "checkpoint-3" / "model.safetensors"
    assert apart(best, folder / "straight.safetensors") == apart(best, folder / "resumed.safetensors") == 0
    assert apart(best, folder / "straight" / last) > 0


def alone(kind: str, folder: Path) -> Path:
    """The same number of micro-batches to a step, in this process."""
    trained = launched.model(kind)
    train(trained, launched.Batches(), launched.settings(1), folder / "plain", identity="a", progress=False)
    launched.weights(folder, "plain", trained)
    return folder


def test_two_processes_train_as_one_does(repo_root: Path, tmp_path: Path) -> None:
    launch(repo_root, "ddp", SCRIPT, "concatenation", tmp_path / "two")
    compare(tmp_path / "two", alone("concatenation", tmp_path / "one"))


def test_two_processes_score_as_one_does(repo_root: Path, tmp_path: Path, run_tagi: Run) -> None:
    """Five tasks and conditions that are made of several tasks; each process answers every other task."""
    command = ("evaluate", "toy", "toy", "--limit", "2", "--tasks", "toy-animal-food-*", "--conditions")
    launch(repo_root, "ddp", "-m", "tagi", *command, "--out", tmp_path / "two")
    ran = run_tagi(*command, "--out", tmp_path / "one")
    assert ran.code == 0, ran.err
    one, two = (json.loads((tmp_path / name / "record.json").read_text()) for name in ("one", "two"))
    assert one["data"]["tasks"] > 2
    assert one == two
    files = {file.name: file.read_bytes() for file in (tmp_path / "one").glob("predictions-*.jsonl")}
    assert len(files) == len(one["results"]) > 2
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "two").glob("predictions-*.jsonl")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["concatenation", "tagi"])
def test_two_processes_that_share_one_model_train_as_one_does(repo_root: Path, tmp_path: Path, kind: str) -> None:
    launch(repo_root, "fsdp2", SCRIPT, kind, tmp_path / "two")
    compare(tmp_path / "two", alone(kind, tmp_path / "one"))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_launch_configurations_are_read_by_accelerate(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(repo_root / ASSETS)
    configuration = load_config_from_file(f"{name}.yaml")
    assert configuration.num_processes == 2
    if name.startswith("zero"):
        file = Path(configuration.deepspeed_config["deepspeed_config_file"])
        assert json.loads(file.read_text())["zero_optimization"]["stage"] == int(name[-1])


@pytest.mark.parametrize(
    ("variables", "count", "main"),
    [
        ({}, 1, True),
        ({"RANK": "0", "WORLD_SIZE": "3"}, 3, True),
        ({"RANK": "2", "WORLD_SIZE": "3"}, 3, False),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "5"}, 5, False),
    ],
)
def test_a_process_knows_its_place_before_anything_is_set_up(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int, main: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (process_count(), is_main_process()) == (count, main)
