"""Two processes train as one does: same micro-batches in a step, same weights of tokens, same result when resumed."""

import json
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tagi.training.distributed import is_main_process, process_count
from tests.commands import Run
from tests.training.processes import ASSETS, launch, trained_alike


def test_two_processes_train_as_one_does(repo_root: Path, tmp_path: Path) -> None:
    trained_alike(repo_root, tmp_path, "ddp", "concatenation")


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
@pytest.mark.parametrize(("kind", "optimizer"), [("concatenation", "adamw"), ("tagi", "adamw"), ("tagi", "adafactor")])
def test_two_processes_that_share_one_model_train_as_one_does(
    repo_root: Path, tmp_path: Path, kind: str, optimizer: str
) -> None:
    trained_alike(repo_root, tmp_path, "fsdp2", kind, optimizer)


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
