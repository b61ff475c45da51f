"""Training stages: each turns a recipe into a checkpoint and a record of how it came about."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tagi.backbones.protocol import count_parameters
from tagi.errors import TrainingError
from tagi.formats.finding import MODEL, find_checkpoint
from tagi.formats.records import RECORD, read_record, write_record
from tagi.methods.load import start_from
from tagi.methods.protocol import Method, Trainable
from tagi.settings.recipe import Recipe
from tagi.settings.tables import Stage
from tagi.stages.building import (
    Sources,
    StageParts,
    build_stage,
    check_shared_lora,
    measure_instructions,
)
from tagi.stages.evaluate import validation_score
from tagi.stages.identity import stage_identity
from tagi.stages.single import train_single
from tagi.stages.tasks import refuse_training
from tagi.stages.teachers import train_teachers
from tagi.training.distributed import is_main_process, once
from tagi.training.trainer import train

CHECKPOINTS = "checkpoints"
_UNTRAINED: dict[str, Any] = {"steps": 0, "seconds": 0.0, "tokens": 0, "peak_memory": 0, "history": []}
"""The outcome of a stage that has nothing to train (metatrain.tune = "none")."""
_MANY = {"teachers": train_teachers, "single": train_single}
"""Stages of many models, one for each category or task."""


def train_stage(
    recipe: Recipe,
    stage: Stage,
    out: Path,
    *,
    sources: Sources | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run one stage of a recipe into `out` and return its record.

    `sources` names what the stage rests on: checkpoints whose parameters it begins with (every one that both have), the
    LoRA teachers, the meta-trained model. `out/model` is the finished checkpoint (of `teachers`, `out` itself is the
    catalogue), `out/record.json` how it came about, `out/checkpoints` what a resumed run starts from. With `resume` an
    interrupted run is taken up where its newest complete checkpoint left it, and a finished one is left alone; without,
    `out` must hold no run. Raises `ConfigError` for the everyday benchmark, whatever the stage.
    """
    refuse_training(recipe)
    sources = sources or Sources()
    identity = stage_identity(recipe, stage, sources)
    finished = _earlier_run(out, identity, resume)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    common = {"kind": "training", "stage": stage, "identity": identity}
    if stage in _MANY:
        content = _MANY[stage](recipe, out, sources, identity=identity, resume=resume, progress=progress)
        return _write(out, recipe, {**common, "start": sources.revisions(), **content})
    parts = build_stage(recipe, stage, out, sources)
    taken = [start_from(parts.model, find_checkpoint(name)) for name in sources.start]
    check_shared_lora(parts)
    measure_instructions(parts, progress=progress)
    outcome = _UNTRAINED
    if parts.model.trained_tensors():
        outcome = train(
            parts.model,
            parts.batches,
            recipe.training_for(stage),
            out / CHECKPOINTS,
            identity=identity,
            resume=resume,
            progress=progress,
            validate=_validator(recipe, parts),
        )
    content = {
        **common,
        "start": {**sources.revisions(), "parameters": taken},
        "data": parts.data,
        "training": outcome,
        "parameters": _parameters(parts.model),
    }
    if is_main_process():
        provenance = {"recipe": recipe.name, "stage": stage, "steps": outcome["steps"], "seed": recipe.seed}
        parts.model.save(out / MODEL, {**provenance, "start": sources.revisions()["start"]})
    return _write(out, recipe, content)


def _write(out: Path, recipe: Recipe, content: dict[str, Any]) -> dict[str, Any]:
    """Write the record, the last of a stage's files; no process goes on to another stage before it is there."""
    once((out / RECORD).exists, lambda: write_record(out / RECORD, recipe, content))
    return read_record(out / RECORD)


def _earlier_run(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """The record of a finished run of the same identity in `out`, if it is to be taken up; None if there is work."""
    if not ((out / RECORD).exists() or (out / CHECKPOINTS).exists()):
        if not resume and out.exists() and any(out.iterdir()):
            raise TrainingError(f"{out}: expected a new folder, got one that holds files")
        return None
    if not resume:
        raise TrainingError(f"{out}: expected a new folder, got one that holds a run: take it up with --resume")
    if not (out / RECORD).exists():
        return None
    record = read_record(out / RECORD)
    if record.get("identity") != identity:
        found = record.get("identity")
        raise TrainingError(
            f"{out}: expected a run of this recipe ({identity}), got a finished one of another ({found})"
        )
    return record


def _validator(recipe: Recipe, parts: StageParts) -> Callable[[], float] | None:
    if parts.validation is None or not isinstance(parts.model, Method):
        return None
    method, count = parts.model, recipe.data.validation_instances
    tasks = [replace(task, instances=task.instances[:count]) for task in parts.validation.tasks]
    return lambda: validation_score(method, tasks, recipe)


def _parameters(model: Trainable) -> dict[str, int]:
    trained = count_parameters(model, trained=True)
    return {"trained": trained, "frozen": count_parameters(model) - trained}
