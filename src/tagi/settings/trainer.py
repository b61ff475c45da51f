"""What the trainer needs to know, as plain values."""

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "adafactor", "adafactor-scaled"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """One stage of training. A step is `accumulation` micro-batches on every process.

    `optimizer="adafactor"` takes steps of the learning rate as it is; `"adafactor-scaled"` is T5's own, whose step is
    relative to each tensor's root mean square: what a T5 from random weights wants.

    Validation, checkpoints and logs are every so many steps. `patience` is how many validations in a row may pass
    without a better score before training stops; None never stops it. `report_to` names trackers: TensorBoard's files
    go to `logs` beside the checkpoints, others (`wandb`, `mlflow`, ...) are set up by their own variables.
    """

    steps: int
    learning_rate: float
    accumulation: int = 1
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup_ratio: float = 0.02
    max_grad_norm: float = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 50
    validate_every: int | None = None
    patience: int | None = None
    report_to: tuple[str, ...] = ("tensorboard",)
    seed: int = 0
