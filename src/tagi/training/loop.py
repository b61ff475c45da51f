"""transformers' Trainer with ordered batches, token-weighted losses and complete checkpoints."""

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, save_fsdp_optimizer  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from tagi.errors import TrainingError
from tagi.methods.protocol import Trainable
from tagi.settings.text import IGNORED
from tagi.settings.training import TrainingSettings
from tagi.training import distributed
from tagi.training.checkpoints import WEIGHTS, checkpoint_at, drop_old, mark_complete, writing
from tagi.training.validation import undisturbed


class MethodTrainer(Trainer):
    """Trains on micro-batches in order, weights them by tokens, and logs every loss term.

    `whole` is the unsharded model: the trained model itself, or under FSDP and DeepSpeed its original, into which
    weights are copied for validation.
    """

    control: Any

    def __init__(
        self,
        *args: Any,
        whole: Trainable,
        identity: str,
        settings: TrainingSettings,
        validate: Callable[[], float] | None,
        seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # count target tokens over micro-batches and processes
        self.whole = whole
        self.identity = identity
        self.settings = settings
        self.validate = validate
        self.folder = Path(str(self.args.output_dir))
        self._began = time.monotonic() - seconds
        self._terms: dict[str, list[Any]] = defaultdict(lambda: [0.0, 0.0])
        self._tokens: Tensor | int = 0

    @property
    def seconds(self) -> float:
        """Training time in seconds so far, over all parts of a resumed run."""
        return time.monotonic() - self._began

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # The data set is in training order. Process r of R takes micro-batches r, r + R, ...: a step has the same
        # micro-batches as in one process with R times the accumulation.
        dataset: Sized = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(dataset)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        distributed.keep_gathered(self.model)
        return prepared

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return a step's micro-batches and their number of target tokens on all processes; also counts tokens."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in samples:
            self._tokens = self._tokens + _count_tokens(batch)
        return samples, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute the loss of a micro-batch, weighted so that a step's sum is the mean over its target tokens.

        Batches without labels have equal weights.
        """
        terms: dict[str, Tensor] = model(**inputs)
        loss = terms["loss"].to(torch.promote_types(terms["loss"].dtype, torch.float32))
        processes = self.accelerator.num_processes
        if num_items_in_batch is None:  # the Trainer divides by the number of micro-batches
            share: Any = 1.0 / (self.current_gradient_accumulation_steps * processes)
        else:
            share = inputs["labels"].ne(IGNORED).sum() / num_items_in_batch
            loss = loss * (share * processes)  # gradients are averaged over processes
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"step {self.state.global_step + 1}: expected a finite loss, got {float(loss.detach())}; "
                "the newest checkpoint is from before it: begin anew with a smaller learning rate"
            )
        for name, value in terms.items():
            if name != "loss":
                noted = self._terms[name]
                noted[0], noted[1] = noted[0] + value.detach().float() * share, noted[1] + share
        return (loss, terms) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean of every loss term since the last log, over all processes, weighted like the loss."""
        if "loss" in logs:
            terms_here = {name: (float(total), float(weight)) for name, (total, weight) in self._terms.items()}
            gathered = distributed.of_all_processes(terms_here)
            for name in sorted({name for terms in gathered for name in terms}):
                totals, weights = zip(*(terms[name] for terms in gathered if name in terms), strict=True)
                logs[name] = sum(totals) / sum(weights)
            self._terms.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the current weights; the main process's score counts for all."""
        assert self.validate is not None
        sharded = self.whole is not self.model
        if sharded:
            self.whole.copy_trained(distributed.full_tensors(self.model, self.whole))
            self.whole.to(self.accelerator.device)
        with undisturbed(self.whole):
            score = float(self.validate())
        if sharded:  # a second model would use the memory that sharding saves
            self.whole.to("cpu")
        score = broadcast_object_list([score])[0]
        if not math.isfinite(score):
            raise TrainingError(f"step {self.state.global_step}: expected a finite validation score, got {score}")
        self.log({"validation": score})
        metrics = {"eval_validation": score}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best: bool = super()._determine_best_metric(metrics, trial)
        if self.patience_is_over():
            self.control.should_training_stop = True
        self.control.should_save |= best or self.control.should_training_stop
        return best

    def patience_is_over(self) -> bool:
        """Whether the last `patience` validations had no improvement, from the log, which checkpoints store."""
        best, patience = self.state.best_global_step, self.settings.patience
        if best is None or patience is None:
            return False
        return sum("validation" in entry and entry["step"] > best for entry in self.state.log_history) >= patience

    def _run_epoch(self, **kwargs: Any) -> None:
        if self.patience_is_over():  # a resumed run that had stopped early takes no further step
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained tensors, unsharded."""
        folder = self.folder if output_dir is None else Path(output_dir)
        tensors = distributed.full_tensors(self.accelerator.unwrap_model(self.model), self.whole)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Do nothing: the weights were loaded before the model was sharded."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer would also write the whole model with frozen parts.
        state = self.accelerator.state
        save_fsdp_optimizer(state.fsdp_plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.count_tokens()
        step, processes = self.state.global_step, self.accelerator.num_processes
        checkpoint = checkpoint_at(self.folder, step)
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)  # left by an interrupted part: do not mix files
        self.accelerator.wait_for_everyone()
        with writing(checkpoint):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # every process has written its part
            if self.args.should_save:
                mark_complete(checkpoint, self.identity, seconds=self.seconds, processes=processes)
        if self.args.should_save:
            best = self.state.best_global_step
            drop_old(self.folder, step, self.settings.keep_checkpoints, () if best is None else (best,))

    def count_tokens(self) -> None:
        """Store the token counts of all processes in the state, which checkpoints save."""
        self.state.num_input_tokens_seen += sum(distributed.of_all_processes(int(self._tokens)))
        self._tokens = 0


def _count_tokens(batch: dict[str, Tensor]) -> Tensor | int:
    """Return the number of tokens of a micro-batch without padding, inputs and targets."""
    read = sum(value.ne(0).sum() for name, value in batch.items() if name.endswith("_mask"))
    return read + batch["labels"].ne(IGNORED).sum() if "labels" in batch else read
