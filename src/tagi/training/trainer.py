"""The one trainer: transformers' Trainer over any `Trainable`, resumable to the bit."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from tagi.backbones import Backbone
from tagi.errors import TrainingError
from tagi.files import write_text
from tagi.methods.protocol import Trainable
from tagi.training.checkpoints import mark_complete, newest_complete
from tagi.training.progress import Progress
from tagi.training.settings import TrainingSettings

_WEIGHTS = "model.safetensors"


class MethodTrainer(Trainer):
    """Takes micro-batches in their own order, logs every named loss term, saves trained tensors alone."""

    def __init__(self, *args: Any, fingerprint: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fingerprint = fingerprint
        self._terms: dict[str, list[Tensor]] = defaultdict(list)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # The data set is a function of the index already: its order is the training order, on any number of ranks.
        dataset: Sized = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(dataset)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """All of a step's computation is in the method's forward; here it is only checked and noted."""
        terms: dict[str, Tensor] = model(**inputs)
        loss = terms["loss"]
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"step {self.state.global_step + 1}: expected a finite loss, got {float(loss.detach())}; "
                "the newest checkpoint is from before it: resume with a smaller training.learning_rate"
            )
        for name, value in terms.items():
            if name != "loss":
                self._terms[name].append(value.detach())
        return (loss, terms) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every loss term since the last log."""
        for name, values in self._terms.items():
            logs[name] = float(torch.stack(values).mean())
        self._terms.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.accelerator.unwrap_model(self.model).trained_tensors()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model).trained_tensors()
        with torch.no_grad():
            for name, tensor in load_file(Path(resume_from_checkpoint) / _WEIGHTS).items():
                target[name].copy_(tensor)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            mark_complete(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}", self.fingerprint)


def fingerprint(*parts: Any) -> str:
    """A digest of what decides a run's outcome: a resumed run must have the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train(
    model: Trainable,
    batches: Sequence[Any],
    settings: TrainingSettings,
    folder: Path,
    *,
    identity: str,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train to the end and return the log: losses by step, seconds, examples.

    `batches[i]` is micro-batch i. Checkpoints go to `folder/checkpoint-STEP`; with `resume` the newest complete one
    of the same `identity` is taken up, and the result is the same as without the interruption. Raises
    `TrainingError` if the loss is not finite or if a checkpoint is of another run.
    """
    checkpoint = newest_complete(folder, identity) if resume else None
    arguments = _arguments(settings, folder)
    if settings.gradient_checkpointing:
        for module in model.modules():
            if isinstance(module, Backbone):
                module.checkpoint_gradients()
    trainer = MethodTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=lambda items: model.collate(items[0]),
        fingerprint=identity,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if progress:
        trainer.add_callback(Progress())
    torch.manual_seed(settings.seed)
    outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    record = {"steps": trainer.state.global_step, "seconds": outcome.metrics["train_runtime"], "history": history}
    write_text(folder / "training.json", json.dumps(record, indent=2) + "\n")
    model.eval()
    return record


def _arguments(settings: TrainingSettings, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # one item of the data set is a whole micro-batch
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        optim="adamw_torch" if settings.optimizer == "adamw" else "adafactor",
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * settings.steps),
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=settings.keep_checkpoints,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
    )
