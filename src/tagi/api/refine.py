"""Few-shot refinement: a generated adapter trained further on labelled examples, and whether that helped."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tagi.adapters.bank import LoraBank
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.machine import best_device
from tagi.data.batches import TaskBatches
from tagi.data.digest import files_digest, tasks_digest
from tagi.data.readers.jsonl import Labelled, read_labelled
from tagi.data.task import Example, Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import InputError, TrainingError
from tagi.evaluation.scoring.free_form import rouge_scores
from tagi.evaluation.scoring.statistics import means
from tagi.files import write_text
from tagi.formats.task_adapter import ORIGIN, STATES, digest_of, generator_digest, open_adapter, origin_of_adapter
from tagi.methods.refining import Refined
from tagi.settings.trainer import TrainingSettings
from tagi.training.trainer import fingerprint, train

ADAPTER = "adapter"
RECORD = "refined.json"
_CHECKPOINTS = "checkpoints"
_TASK = "refined"
_LOGS, _SAVES = 20, 4  # of a run, whatever its steps
_WARMUP = 0.02


@dataclass(frozen=True, slots=True)
class Refinement:
    """How an adapter is trained further; the last `held_out` examples are kept out and scored before and after.

    With `truncate` examples over the generator's limits are cut, else they are refused.
    """

    steps: int = 100
    learning_rate: float = 1e-3
    batch_size: int = 8
    seed: int = 0
    held_out: int = 0
    truncate: bool = False


def refine(
    adapter: Path,
    examples: Path | Sequence[Example],
    out: Path,
    how: Refinement | None = None,
    *,
    generator: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train an adapter's LoRA on examples, or on a file of them, into the adapter folder `out/adapter`.

    Gives a record, also in `out/refined.json`: what the adapter says of its refinement (`refine_adapter`), digest of
    its `generator`, `seconds`, and `held_out`: None, or how many examples and their scores `before` and `after`.

    Raises what `refine_adapter` does, `DataError` for a file that cannot be read, and `TrainingError` if `out` holds a
    run that is not to be taken up, or another's.
    """
    how = how or Refinement()
    _refuse_used(out, adapter, resume)
    given = read_labelled(examples) if isinstance(examples, Path) else _placed(examples)
    origin = origin_of_adapter(adapter, generator)
    opened = open_adapter(adapter, generator, kind=TaskAdapter).to(best_device())
    _check_lora(opened, f"{adapter}: ")
    shown, kept = _parted(_of_task(given, opened.instruction), opened.generator.text, how)
    made_by = generator_digest(opened.generator)
    begun_with = [digest_of(opened.bank), files_digest([adapter / STATES]), made_by]
    identity = fingerprint("refine", begun_with, tasks_digest([_task(shown), *([_task(kept)] if kept else [])]), how)
    finished = _finished(out, identity)
    if finished is not None:
        return finished
    before = _scores(opened, kept)
    refined, seconds = _refined(opened, shown, how, out / _CHECKPOINTS, identity, resume, progress)
    refined.save(out / ADAPTER, overwrite=True)
    write_text(out / ADAPTER / ORIGIN, origin + "\n")
    record = {
        "identity": identity,
        "adapter": str(out / ADAPTER),
        "generator": made_by,
        **refined.refined,
        "seconds": round(seconds, 1),
        "held_out": {"examples": len(kept), "before": before, "after": _scores(refined, kept)} if kept else None,
    }
    write_text(out / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def refine_adapter(
    adapter: TaskAdapter, examples: Sequence[Example], how: Refinement | None = None, *, progress: bool = False
) -> TaskAdapter:
    """An adapter with its LoRA trained on examples; the one given and its generator stay as they are.

    Its `refined` says how: number of `examples` and digest of the `data`, the `steps`, `learning_rate`, `batch_size`
    and `seed`, the `loss` of the `first` and `last` steps (None without a step), digest of the LoRA it is `from`, and
    as `earlier` how that was refined if it was.

    Raises `InputError` for no example to train on, for one that is empty or over the generator's limits, and for an
    adapter that is not LoRA.
    """
    how = how or Refinement()
    _check_lora(adapter)
    shown, _ = _parted(_placed(examples), adapter.generator.text, how)
    with tempfile.TemporaryDirectory() as folder:
        return _refined(adapter, shown, how, Path(folder), "", resume=False, progress=progress)[0]


def _refined(
    adapter: TaskAdapter,
    examples: Sequence[Example],
    how: Refinement,
    folder: Path,
    identity: str,
    resume: bool,
    progress: bool,
) -> tuple[TaskAdapter, float]:
    """The trained adapter and the seconds it took; checkpoints go to `folder`."""
    task, steps = _task(examples), how.steps
    settings = TrainingSettings(
        steps=steps,
        learning_rate=how.learning_rate,
        warmup_ratio=_WARMUP if steps * _WARMUP >= 1 else 0.0,  # of few steps none is spent at rate 0
        seed=how.seed,
        save_every=max(1, steps // _SAVES),
        log_every=max(1, steps // _LOGS),
    )
    queries = min(how.batch_size, len(examples))
    batches = TaskBatches([task], length=steps, tasks_per_batch=1, queries_per_task=queries, seed=how.seed)
    model = Refined(adapter)
    outcome: dict[str, Any] = {"history": [], "seconds": 0.0}
    try:
        if steps:
            outcome = train(model, batches, settings, folder, identity=identity, resume=resume, progress=progress)
    finally:
        model.release()
    losses = [entry["loss"] for entry in outcome["history"] if "loss" in entry]
    said = {
        "examples": len(examples),
        "data": tasks_digest([task]),
        "steps": steps,
        "learning_rate": how.learning_rate,
        "batch_size": how.batch_size,
        "seed": how.seed,
        "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
        "from": digest_of(adapter.bank),
        **({"earlier": adapter.refined} if adapter.refined else {}),
    }
    return model.refined(said), outcome["seconds"]


def _check_lora(adapter: TaskAdapter, where: str = "") -> None:
    if not isinstance(adapter.bank, LoraBank):
        raise InputError(f"{where}expected an adapter of LoRA, got one of {adapter.bank.module}")


def _placed(examples: Sequence[Example]) -> list[Labelled]:
    return [Labelled(one, f"example {number}") for number, one in enumerate(examples, start=1)]


def _of_task(given: Sequence[Labelled], instruction: str) -> list[Labelled]:
    """All examples, or those under the adapter's instruction where they are of several tasks."""
    tasks = {one.instruction for one in given}
    if None in tasks and len(tasks) > 1:
        odd = next(one for one in given if (one.instruction is None) != (given[0].instruction is None))
        first, other = ("examples", "one of a task") if given[0].instruction is None else ("a task's", "one of none")
        raise InputError(f"{odd.where}: expected {first} alone as before it, got {other}")
    own = list(given) if len(tasks) < 2 else [one for one in given if one.instruction == instruction]
    if given and not own:
        raise InputError(f"expected examples of one task, or of {instruction!r} among others, got {len(tasks)} others")
    return own


def _parted(
    given: Sequence[Labelled], text: TextEncoder, how: Refinement
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Examples to train on and those held out, each of which the generator can read."""
    for one in given:
        try:
            text.input(one.example.input, truncate=how.truncate)
            text.target(one.example.output, truncate=how.truncate)
        except InputError as error:
            raise InputError(f"{one.where}: {error}") from error
    count = len(given) - how.held_out
    if count < 1:
        raise InputError(f"expected examples to train on, got {len(given)} of which {how.held_out} are to be held out")
    examples = tuple(one.example for one in given)
    return examples[:count], examples[count:]


def _task(examples: Sequence[Example]) -> Task:
    """Examples as the trainer takes them; what the task is, the adapter knows."""
    instances = tuple(Instance(str(at), one.input, (one.output,)) for at, one in enumerate(examples))
    return Task(_TASK, _TASK, _TASK, instances)


def _scores(adapter: TaskAdapter, examples: Sequence[Example]) -> dict[str, float] | None:
    """ROUGE-L and exact match in percent, as natural-instructions has them, and the mean loss of a target's tokens."""
    if not examples:
        return None
    inputs = [one.input for one in examples]
    answers = adapter.predict(inputs, truncate=True)
    overall = means(rouge_scores((answer, (one.output,)) for answer, one in zip(answers, examples, strict=True)))
    told = adapter.score(inputs, [[one.output] for one in examples], reduction="mean", truncate=True)
    return {name: overall[name] for name in ("rougeL", "exact_match")} | {"loss": -fmean(row[0] for row in told)}


def _refuse_used(out: Path, adapter: Path, resume: bool) -> None:
    """Only what a refinement left may be written over, and never the adapter that is refined."""
    if (out / ADAPTER).resolve() == adapter.resolve():
        raise TrainingError(f"{out}: expected another folder than that of the adapter given, got one whose it is")
    if out.is_file():
        raise TrainingError(f"{out}: expected a new folder, got one that is a file")
    if not out.exists() or not any(out.iterdir()):
        return
    begun = (out / RECORD).is_file() or (out / _CHECKPOINTS).is_dir()
    if not begun:
        raise TrainingError(f"{out}: expected a new folder, got one that holds files, none of a refinement")
    if not resume:
        raise TrainingError(
            f"{out}: expected a new folder, got one that holds files: take a refinement up with --resume"
        )


def _finished(out: Path, identity: str) -> dict[str, Any] | None:
    """The record of a refinement that is done, if it is of this identity; None if there is work."""
    path = out / RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, _ = record["identity"], [record[key] for key in ("steps", "examples", "loss", "held_out")]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: expected the record of a refinement, got a damaged one: {error}") from error
    if found != identity:
        raise TrainingError(f"{out}: expected a refinement of this adapter, examples and settings, got another")
    if not (out / ADAPTER / STATES).is_file():  # lost since: made again
        return None
    return {**record, "adapter": str(out / ADAPTER)}
