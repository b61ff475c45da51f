"""Two processes launched by a test, and what they left compared with what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagi.training.checkpoints import MARKER
from tagi.training.trainer import train
from tests.training import launched

ASSETS = "src/tagi/assets/accelerate"
SCRIPT = Path(launched.__file__)
ROUNDING = 1e-5
"""In losses near 5 and weights near 1, after ten steps of AdamW: ten times what was seen."""


def trained_alike(repo_root: Path, folder: Path, configuration: str, kind: str, optimizer: str = "adamw") -> None:
    """Train on two processes and on one, and compare."""
    launch(repo_root, configuration, SCRIPT, kind, folder / "two", optimizer)
    compare(folder / "two", alone(kind, folder / "one", optimizer))


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


def alone(kind: str, folder: Path, optimizer: str = "adamw") -> Path:
    """The same number of micro-batches to a step, in this process."""
    trained = launched.model(kind)
    given = launched.settings(1, optimizer=optimizer)
    train(trained, launched.Batches(), given, folder / "plain", identity="a", progress=False)
    launched.weights(folder, "plain", trained)
    return folder
