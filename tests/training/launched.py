"""What each of several launched processes runs: `launched.py KIND FOLDER OPTIMIZER`. Weights and records remain.

Micro-batches differ much in their number of target tokens, and there is no dropout.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file

from tagi.data.batches import Sample
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Trainable
from tagi.methods.tagi import TAGI
from tagi.settings.text import TextSettings
from tagi.settings.training import TrainingSettings
from tagi.training.distributed import is_main_process, process_count
from tagi.training.loop import MethodTrainer
from tagi.training.trainer import train
from tests.models import fresh_generator, tasks, tiny_backbone, words

STEPS = 10
MICRO_BATCHES = 4
"""In a step, over all processes."""


class Batches(Sequence[list[Sample]]):
    """Micro-batch i: one to three rows, with targets of one to thirteen words."""

    def __len__(self) -> int:
        return STEPS * MICRO_BATCHES

    def __getitem__(self, index: int) -> list[Sample]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        task = tasks()[index % 3]
        length = 1 + (index * 7) % 13
        return [
            Sample(task, task.instruction, words(index * 5 + row, 4 + row), words(index + row, length))
            for row in range(1 + index % 3)
        ]


def model(kind: str, dropout: float = 0.0) -> Trainable:
    backbone = tiny_backbone(dropout_rate=dropout)
    if kind == "tagi":
        return TAGI(fresh_generator(backbone))
    return Concatenation(backbone, TextSettings("plain", 0, 17, 21, 15))


def settings(processes: int, **changed: Any) -> TrainingSettings:
    given = {"steps": STEPS, "learning_rate": 3e-3, "log_every": 1, "save_every": 4, "report_to": (), **changed}
    micro_batches = {"tasks_per_batch": 1, "queries_per_task": 1, "accumulation": MICRO_BATCHES // processes}
    return TrainingSettings(**{**micro_batches, "warmup_ratio": 0.0, **given})


def weights(folder: Path, name: str, trained: Trainable) -> None:
    """What a caller would save: plain tensors, alike on all processes."""
    if is_main_process():
        tensors = {key: tensor.detach().contiguous() for key, tensor in trained.trained_tensors().items()}
        save_file(tensors, folder / f"{name}.safetensors")


def let_the_second_process_lag(seconds: float = 0.2) -> None:
    """Where checkpoints are written: they are whole only with its part."""
    write = MethodTrainer._save_rng_state

    def late(self: MethodTrainer, folder: str) -> None:
        time.sleep(0 if is_main_process() else seconds)
        write(self, folder)

    MethodTrainer._save_rng_state = late  # type: ignore[method-assign]


def run(kind: str, folder: Path, optimizer: str) -> None:
    """Without dropout, to compare with one process; then with dropout, validated, straight and resumed, to compare."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = model(kind)
    given = settings(process_count(), optimizer=optimizer)
    train(plain, Batches(), given, folder / "plain", identity="a", progress=False)
    weights(folder, "plain", plain)
    (folder / f"seed-{PartialState().process_index}").write_text(str(torch.initial_seed()))
    for name in ("straight", "resumed"):
        validated(kind, folder, name, optimizer)


def validated(kind: str, folder: Path, name: str, optimizer: str) -> None:
    """A score that is best at step 3, so that the run stops after step 9; it is taken up from step 8."""
    checked = {"validate_every": 3, "patience": 2, "save_every": 4, "keep_checkpoints": 9}
    given = settings(process_count(), optimizer=optimizer, **checked)
    trained = model(kind, dropout=0.3)
    start = {key: tensor.detach().clone() for key, tensor in trained.trained_tensors().items()}

    def validate() -> float:
        torch.rand(17)  # what a method may do that samples
        return -float(sum((w.cpu() - start[key]).abs().sum() for key, w in trained.trained_tensors().items()))

    if name == "resumed" and is_main_process():
        shutil.copytree(folder / "straight", folder / name)
        shutil.rmtree(folder / name / "checkpoint-9")
    PartialState().wait_for_everyone()
    train(
        trained,
        Batches(),
        given,
        folder / name,
        identity="a",
        resume=name == "resumed",
        progress=False,
        validate=validate,
    )
    weights(folder, name, trained)


if __name__ == "__main__":
    let_the_second_process_lag()
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
