"""Training one stage of a recipe."""

from pathlib import Path
from typing import Any

import torch

from tagi.errors import TrainingError
from tagi.formats.records import RECORD, read_record, write_record
from tagi.settings.recipe import Recipe
from tagi.stages.identity import stage_identity
from tagi.stages.one_model import CHECKPOINTS
from tagi.stages.protocol import Job, Sources
from tagi.stages.registry import stage_of
from tagi.stages.tasks import RecipeData, refuse_training
from tagi.training.distributed import once


def train_stage(
    recipe: Recipe,
    stage: str,
    out: Path,
    *,
    sources: Sources | None = None,
    data: RecipeData | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train one stage of a recipe into `out` and return its record.

    Writes the checkpoint to `out/model` (`teachers`: the catalogue to `out`), a record to `out/record.json`, and
    checkpoints for resuming to `out/checkpoints`.

    Args:
        recipe: The recipe.
        stage: The stage's name.
        out: The folder.
        sources: Sources of the stage: checkpoints to initialise from (all parameters that both have), the LoRA
            teachers, the meta-trained model. Finetuning without a checkpoint starts from `run.checkpoint`, if set.
        data: The recipe's tasks, if they are already loaded.
        resume: Continue an interrupted run from its latest complete checkpoint. A finished run is not changed. Without
            it, `out` must not contain a run.
        progress: Show progress on standard error.

    Raises:
        ConfigError: The recipe's tasks are the everyday benchmark, or a source is missing.
        TrainingError: `out` holds something else than a run of this recipe.
    """
    refuse_training(recipe)
    asked = stage_of(stage)
    if not (sources and sources.start):
        sources = asked.from_checkpoint(recipe, sources or Sources())
    job = Job.of(recipe, out, sources, data)
    identity = stage_identity(recipe, stage, job.sources, data=job.data)
    finished = _earlier_run(out, identity, resume)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    training = asked.build(job)
    outcome = training.train(identity=identity, resume=resume, progress=progress)
    content = {"kind": "training", "stage": stage, "identity": identity, **outcome}
    # Written last: no process starts another stage before it exists.
    once((out / RECORD).exists, lambda: write_record(out / RECORD, recipe, content))
    return read_record(out / RECORD)


def _earlier_run(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """Return the record of a finished run with the same identity in `out` when resuming, else None."""
    begun = (out / RECORD).exists() or (out / CHECKPOINTS).exists()
    if not resume and out.exists() and any(out.iterdir()):
        holds = "a run: take it up with --resume" if begun else "files"
        raise TrainingError(f"{out}: expected a new folder, got one that holds {holds}")
    if not (out / RECORD).exists():
        return None
    record = read_record(out / RECORD)
    if (found := record.get("identity")) != identity:
        wanted = f"expected a run of this recipe ({identity})"
        raise TrainingError(f"{out}: {wanted}, got a finished one of another ({found})")
    return record
