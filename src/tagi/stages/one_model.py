"""Training of one model."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tagi.activity import on_terminal
from tagi.backbones.machine import best_device, counting
from tagi.backbones.protocol import count_parameters
from tagi.errors import ConfigError
from tagi.formats.finding import MODEL, find_checkpoint
from tagi.methods.load import start_from
from tagi.methods.pretraining import generating
from tagi.methods.protocol import Method, Trainable
from tagi.methods.tagi import TAGI
from tagi.settings.stages import Stage
from tagi.stages.evaluate import validation_score
from tagi.stages.protocol import Job
from tagi.stages.shots import wants_shots
from tagi.training.distributed import is_main_process, process_count
from tagi.training.trainer import train

CHECKPOINTS = "checkpoints"
_UNTRAINED: dict[str, Any] = {"steps": 0, "seconds": 0.0, "tokens": 0, "peak_memory": 0, "history": []}
"""Result of a stage without training (metatrain.tune = "none")."""
_MEASURED = 32
"""Number of micro-batches for measuring the statistics of instruction states."""


@dataclass(frozen=True)
class OneModel:
    """A model with its training data.

    Args:
        stage: The stage.
        job: Recipe, folder and sources of the stage.
        model: The model.
        batches: All micro-batches.
        data: The record's entry on the data.
    """

    stage: Stage
    job: Job
    model: Trainable
    batches: Sequence[Any]
    data: dict[str, Any]

    def train(self, *, identity: str, resume: bool, progress: bool) -> dict[str, Any]:
        """Initialise from the sources, train, and write the checkpoint."""
        recipe, out, sources = self.job.recipe, self.job.out, self.job.sources
        taken = [start_from(self.model, find_checkpoint(name)) for name in sources.start]
        check_shared_lora(self.model)
        check_common_start(self.model)
        measure_instructions(self.model, self.batches, progress=progress)
        outcome = _UNTRAINED
        if self.model.trained_tensors():
            outcome = train(
                self.model,
                self.batches,
                recipe.training_for(self.stage),
                out / CHECKPOINTS,
                identity=identity,
                resume=resume,
                progress=progress,
                validate=self._validator(),
            )
        revisions = sources.revisions()
        if is_main_process():
            provenance = {"recipe": recipe.name, "stage": self.stage, "steps": outcome["steps"], "seed": recipe.seed}
            self.model.save(out / MODEL, {**provenance, "start": revisions["start"]})
        trained = count_parameters(self.model, trained=True)
        return {
            "start": {**revisions, "parameters": taken},
            "data": self.data,
            "training": outcome,
            "parameters": {"trained": trained, "frozen": count_parameters(self.model) - trained},
        }

    def _validator(self) -> Callable[[], float] | None:
        method, recipe = self.model, self.job.recipe
        if not recipe.training_for(self.stage).validate_every or not isinstance(method, Method):
            return None
        shots = wants_shots(recipe, [self.stage])
        count, held_out = recipe.data.validation_instances, self.job.data.tasks("validation", shots=shots).tasks
        tasks = [replace(task, instances=task.instances[:count]) for task in held_out]
        return lambda: validation_score(method, tasks, recipe)


def check_shared_lora(model: Trainable) -> None:
    """Raise `ConfigError` if a shared LoRA is neither trained nor copied, and so would stay zero."""
    method = generating(model)
    shared = None if method is None else method.generator.shared
    if shared is None or any(parameter.requires_grad for parameter in shared.parameters()):
        return
    if not any(bool(b.any()) for b in shared.b):
        raise ConfigError(
            "generator.shared_rank: expected a meta-trained LoRA to start from (run.start = 'metatrained', "
            "metatrain.tune = 'lora'; --from CHECKPOINT), or generator.shared_tune = true, got neither"
        )


def check_common_start(model: Trainable) -> None:
    """Raise `ConfigError` if L_ins would compare factors with teachers that started from another A.

    A new generator uses the teachers' A as A0. A generator from a checkpoint has its own A0.
    """
    if not isinstance(model, TAGI) or not model.objective.weights.ins or model.objective.weights.alignment != "factors":
        return
    catalogue, generator = model.objective.catalogue, model.generator
    if catalogue is None or catalogue.seed is None:
        return
    heads = generator.hypernetwork.heads
    for target in generator.targets:
        for place, start in target.starts(catalogue.seed).items():
            if not torch.equal(heads.start(place).cpu(), start):
                raise ConfigError(
                    "losses.ins: expected a generator whose LoRA starts from the teachers' A, drawn by seed "
                    f"{catalogue.seed}, got a checkpoint to start from with an A of another seed: train both with one "
                    "seed, or set losses.alignment = 'product'"
                )


def measure_instructions(model: Trainable, batches: Sequence[Any], *, progress: bool = False) -> None:
    """Measure the statistics of instruction states for standardisation on the first micro-batches.

    The backbone must be the one for training. Does nothing if they are already measured or not needed.
    """
    method = generating(model)
    if method is None or not method.generator.wants_measuring:
        return
    if process_count() == 1:
        model.to(best_device())  # on the device for training
    count = min(len(batches), _MEASURED)
    if progress and sys.stderr and not on_terminal():  # there is no progress bar
        print(f"measuring instructions: {count} batches", file=sys.stderr, flush=True)
    with counting("measuring instructions", count, progress) as advance:

        def collated() -> Iterator[dict[str, Any]]:
            for index in range(count):
                yield model.collate(batches[index])
                advance(1)

        method.measure(collated())
