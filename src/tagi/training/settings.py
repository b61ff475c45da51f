"""What the trainer needs to know, as plain values."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """One stage of training. A step is `accumulation` micro-batches."""

    steps: int
    learning_rate: float
    accumulation: int = 1
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup_ratio: float = 0.02
    max_grad_norm: float = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 50
    seed: int = 0
