"""Few-shot refinement: a generated adapter trained further on labelled examples, and whether that helped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.data.batches import TaskBatches
from tagi.data.digest import tasks_digest
from tagi.data.task import Example, Instance, Task
from tagi.errors import InputError, TrainingError
from tagi.evaluation.metrics import Prediction, score_predictions
from tagi.files import write_text
from tagi.hypernetwork import TaskAdapter
from tagi.hypernetwork.adapter_folder import digest_of
from tagi.methods.refining import Refined
from tagi.pipeline.generating import ORIGIN, open_adapter, origin_of_adapter
from tagi.pipeline.machine import best_device
from tagi.training import TrainingSettings, fingerprint, train

ADAPTER = "adapter"
RECORD = "refined.json"
_CHECKPOINTS = "checkpoints"
_TASK = "refined"


@dataclass(frozen=True, slots=True)
class Refinement:
    """How an adapter is trained further; the last `held_out` examples are kept out and scored before and after."""

    steps: int = 100
    learning_rate: float = 1e-3
    batch_size: int = 8
    seed: int = 0
    held_out: int = 0


def refine(
    adapter: Path,
    examples: Sequence[Example],
    out: Path,
    how: Refinement | None = None,
    *,
    generator: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train an adapter's LoRA on examples into `out/adapter`, an adapter folder like any; the record.

    Raises `InputError` for no example to train on and for an adapter that is not LoRA, `TrainingError` if `out` holds
    a run that is not to be taken up, or another's.
    """
    how = how or Refinement()
    kept = examples[len(examples) - how.held_out :] if how.held_out else []
    shown = examples[: len(examples) - how.held_out]
    if not shown:
        raise InputError(f"expected examples to train on, got {len(examples)} of which {how.held_out} are held out")
    opened = open_adapter(adapter, generator)
    try:
        model = Refined(opened)
    except ValueError as error:
        raise InputError(f"{adapter}: {error}") from error
    task = _task(opened, shown)
    begun_with = digest_of(opened.bank)
    identity = fingerprint("refine", begun_with, tasks_digest([task]), how)
    finished = _earlier(out, identity, resume)
    if finished is not None:
        return finished
    model.to(best_device())
    before = _scores(opened, kept)
    settings = TrainingSettings(
        steps=how.steps,
        learning_rate=how.learning_rate,
        seed=how.seed,
        save_every=max(1, how.steps // 4),
        log_every=min(10, how.steps),
    )
    batches = TaskBatches(
        [task], length=how.steps, tasks_per_batch=1, queries_per_task=min(how.batch_size, len(shown)), seed=how.seed
    )
    outcome = train(model, batches, settings, out / _CHECKPOINTS, identity=identity, resume=resume, progress=progress)
    said = {"examples": len(shown), "steps": how.steps, "learning_rate": how.learning_rate, "seed": how.seed}
    refined = model.refined({**said, "batch_size": how.batch_size, "from": begun_with})
    refined.save(out / ADAPTER, overwrite=True)
    write_text(out / ADAPTER / ORIGIN, origin_of_adapter(adapter, generator) + "\n")
    losses = [entry["loss"] for entry in outcome["history"] if "loss" in entry]
    record = {
        "identity": identity,
        "adapter": str(out / ADAPTER),
        **refined.refined,
        "loss": {"first": losses[0], "last": losses[-1]},
        "seconds": round(outcome["seconds"], 1),
        "held_out": {"examples": len(kept), "before": before, "after": _scores(refined, kept)} if kept else None,
    }
    write_text(out / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _task(adapter: TaskAdapter, examples: Sequence[Example]) -> Task:
    instances = tuple(Instance(str(at), one.input, (one.output,)) for at, one in enumerate(examples))
    return Task(_TASK, _TASK, adapter.instruction or _TASK, instances)


def _scores(adapter: TaskAdapter, examples: Sequence[Example]) -> dict[str, float] | None:
    """ROUGE-L and exact match in percent, as natural-instructions has them."""
    if not examples:
        return None
    answers = adapter.predict([one.input for one in examples], truncate=True)
    rows = [Prediction(_TASK, _TASK, answer, (one.output,)) for answer, one in zip(answers, examples, strict=True)]
    overall = score_predictions(rows)["overall"]
    return {name: overall[name] for name in ("rougeL", "exact_match")}


def _earlier(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """The record of a finished refinement of the same identity, if it is to be taken up; None if there is work."""
    if not out.exists() or not any(out.iterdir()):
        return None
    if not resume:
        raise TrainingError(
            f"{out}: expected a new folder, got one that holds files: take a refinement up with --resume"
        )
    if not (out / RECORD).is_file():
        return None
    record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
    if record["identity"] != identity:
        raise TrainingError(f"{out}: expected a refinement of this adapter, examples and settings, got another")
    return record
