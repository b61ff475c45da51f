"""Training of any `Trainable`: exactly resumable, on any number of processes."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from tagi.activity import activity
from tagi.backbones.protocol import Backbone
from tagi.errors import TrainingError
from tagi.files import write_text
from tagi.methods.protocol import Trainable
from tagi.settings.training import TrainingSettings
from tagi.training import distributed
from tagi.training.checkpoints import WEIGHTS, checkpoint_at, newest_complete, read_marker
from tagi.training.loop import MethodTrainer
from tagi.training.optimizers import optimizer_of
from tagi.training.progress import Report, progress_callbacks
from tagi.training.trackers import TensorBoard, peak_memory, trackers

_LOGS = "logs"
_WORKERS = 8


def fingerprint(*parts: Any) -> str:
    """Return a digest of everything that affects the result of a run."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train(
    model: Trainable,
    batches: Sequence[Any],
    settings: TrainingSettings,
    folder: Path,
    *,
    identity: str,
    resume: bool = False,
    progress: bool | Report = True,
    validate: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Train `model` in place and return the record, which is also written to `folder/training.json`.

    All processes must call this in the same way and share the folder. The main process writes the files, its score from
    `validate` is used, and afterwards every process has the weights in its `model`. Under FSDP and DeepSpeed a copy is
    trained, and `model` is on the CPU except during validation.

    Args:
        model: The model.
        batches: Micro-batches: steps x accumulation x `process_count()`.
        settings: Training settings of the stage.
        folder: Folder for `checkpoint-STEP`, TensorBoard's `logs` and `training.json`.
        identity: Identity of the run. Checkpoints with another identity are not resumed.
        resume: Continue from the latest complete checkpoint. The result is the same as without the interruption.
        progress: Show progress on stderr, or a function that is called after every step.
        validate: Returns a score of `model`, higher is better. It is called every `settings.validate_every` steps and
            after the last step, and does not affect training. `model` ends with the weights of the best step, whose
            checkpoint is kept.

    Record: `steps`, `seconds` and `tokens` (read and predicted) of all parts of a resumed run, `tokens_per_second`,
    `peak_memory` in bytes (the largest of the processes in this part), `processes`, `best` (`step` and `score`, or
    None), `stopped_early`, and `history`: entries with `step` and either `loss` and its terms, or `validation`.

    Raises `TrainingError` if a loss or score is not finite, if a checkpoint is of another run, or cannot be written.
    """
    _check(settings, batches, validate)
    processes = distributed.process_count()
    checkpoint = newest_complete(folder, identity, processes=processes) if resume else None
    step, seconds = (0, 0.0) if checkpoint is None else _take_up(checkpoint, model)
    reports = trackers(settings.report_to, folder / _LOGS, step)
    trainer = MethodTrainer(
        model=_trained_form(model, settings),
        args=_arguments(settings, folder),
        train_dataset=batches,
        eval_dataset=batches,  # never read: `evaluate` asks `validate`
        data_collator=lambda items: model.collate(items[0]),
        optimizer_cls_and_kwargs=optimizer_of(settings, sharded=distributed.is_sharded()),
        callbacks=[*reports, *(progress_callbacks(progress) if distributed.is_main_process() else [])],
        whole=model,
        identity=identity,
        settings=settings,
        validate=validate,
        seconds=seconds,
    )
    _run(trainer, None if checkpoint is None else str(checkpoint))
    _leave_weights(trainer, model)
    return _record(trainer)


def _trained_form(model: Trainable, settings: TrainingSettings) -> Trainable:
    """Return the model, or a copy for sharding by FSDP or DeepSpeed."""
    if settings.gradient_checkpointing:
        for module in model.modules():
            if isinstance(module, Backbone):
                module.checkpoint_gradients()
    return distributed.shardable(model) if distributed.is_sharded() else model


def _run(trainer: MethodTrainer, checkpoint: str | None) -> None:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    distributed.leave_at_exit()
    distributed.prepare_fsdp(trainer.accelerator, trainer.settings.bf16)
    torch.manual_seed(trainer.settings.seed + distributed.process_index())  # each process has its own dropout
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with activity(None):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        for report in trainer.callback_handler.callbacks:
            if isinstance(report, TensorBoard):
                report.close()


def _check(settings: TrainingSettings, batches: Sequence[Any], validate: Callable[[], float] | None) -> None:
    processes = distributed.process_count()
    wanted = settings.steps * settings.accumulation * processes
    if len(batches) < wanted:
        raise TrainingError(
            f"expected {wanted} micro-batches ({settings.steps} steps x {settings.accumulation} x {processes} "
            f"process(es)), got {len(batches)}"
        )
    if distributed.is_deepspeed() and settings.optimizer != "adamw":
        raise TrainingError(
            f"training.optimizer: expected 'adamw' with DeepSpeed, got {settings.optimizer!r}, which needs every "
            "matrix whole: launch with FSDP (fsdp2.yaml)"
        )
    if settings.validate_every is not None and validate is None:
        raise TrainingError("training.validate_every: expected something to validate on, got none")


def _take_up(checkpoint: Path, model: Trainable) -> tuple[int, float]:
    """Load a checkpoint's weights into the model. Returns its step and training time in seconds."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    best = state.best_global_step
    if best is not None and read_marker(checkpoint_at(checkpoint.parent, best)) is None:
        raise TrainingError(
            f"{checkpoint_at(checkpoint.parent, best)}: expected the checkpoint of the best validation, got none that "
            "is whole: begin anew"
        )
    model.copy_trained(load_file(checkpoint / WEIGHTS))
    marker = read_marker(checkpoint)
    return state.global_step, marker["seconds"] if marker else 0.0


def _leave_weights(trainer: MethodTrainer, model: Trainable) -> None:
    """Copy the best weights (without validation, the last) into the model, and unwrap it."""
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.wait_for_everyone()
    best = trainer.state.best_global_step
    if best is not None:
        model.copy_trained(load_file(checkpoint_at(trainer.folder, best) / WEIGHTS))
    elif model is not trainer.model:
        model.copy_trained(distributed.full_tensors(trainer.model, model))
    distributed.forget_launch()
    model.to(trainer.accelerator.device)
    model.eval()


def _record(trainer: MethodTrainer) -> dict[str, Any]:
    trainer.count_tokens()
    state, seconds = trainer.state, trainer.seconds
    best = None if state.best_global_step is None else {"step": state.best_global_step, "score": state.best_metric}
    record = {
        "steps": state.global_step,
        "seconds": round(seconds, 3),
        "tokens": state.num_input_tokens_seen,
        "tokens_per_second": round(state.num_input_tokens_seen / seconds, 1),
        "peak_memory": max(distributed.of_all_processes(peak_memory())),
        "processes": trainer.accelerator.num_processes,
        "best": best,
        "stopped_early": state.global_step < state.max_steps,
        "history": [entry for entry in state.log_history if "loss" in entry or "validation" in entry],
    }
    if distributed.is_main_process():
        write_text(trainer.folder / "training.json", json.dumps(record, indent=2) + "\n")
    return record


def _arguments(settings: TrainingSettings, folder: Path) -> TrainingArguments:
    distributed.settle_launch(settings.bf16)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # an item of the data set is a micro-batch
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * settings.steps),
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=None,  # the Trainer would delete an older checkpoint before the new one is complete
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        # Collating includes tokenization, which a GPU would wait for.
        dataloader_num_workers=min(_WORKERS, os.cpu_count() or 1) if torch.cuda.is_available() else 0,
        disable_tqdm=True,
        eval_strategy="no" if settings.validate_every is None else "steps",
        eval_steps=settings.validate_every,
        metric_for_best_model="validation",
        greater_is_better=True,
    )
    distributed.allow_fsdp_on_cpus(arguments.distributed_state)
    if arguments.n_gpu > 1:  # one GPU per process: the Trainer would split micro-batches over all visible GPUs
        arguments._n_gpu = 1
    return arguments
