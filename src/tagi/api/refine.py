"""The refinement of an adapter folder on labelled examples, and whether it helped."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ConfigDict

from tagi.api.examples import Demonstration
from tagi.api.lora_training import Refinement, check_lora, labelled, split_examples, task_of, train_lora
from tagi.api.task_adapter import TaskAdapter
from tagi.data.digest import files_digest, tasks_digest
from tagi.data.readers.jsonl import Labelled, read_labelled
from tagi.data.task import Example
from tagi.errors import InputError, TrainingError
from tagi.evaluation.scoring.free_form import rouge_scores
from tagi.evaluation.scoring.statistics import means
from tagi.files import write_text
from tagi.formats.records import Record
from tagi.formats.task_adapter import STATES, digest_of, generator_digest
from tagi.training.trainer import fingerprint

ADAPTER = "adapter"
_CHECKPOINTS = "checkpoints"


class RefinementRecord(Record):
    """The keys of a refinement's record that a resumed one needs."""

    model_config = ConfigDict(extra="allow")
    FILE = "refined.json"
    WHAT = "the record of a refinement"
    identity: str
    steps: int
    examples: int
    loss: dict[str, float] | None
    held_out: dict[str, Any] | None


def refine(
    adapter: str | Path,
    examples: str | Path | Sequence[Demonstration],
    out: str | Path,
    settings: Refinement | None = None,
    *,
    generator: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Train an adapter's LoRA further on labelled examples, and write the adapter to `out/adapter`.

    Args:
        adapter: The adapter's folder, which is left as it is.
        examples: A JSON Lines file, or `Example` objects or tuples of input and output. A line of the file is
            `{"input", "output"}`, or a task, of which the instances are taken; of several tasks the one with the
            adapter's instruction is taken.
        out: A new folder.
        settings: How to train.
        generator: The name of the generator that made the adapter; by default the one that its folder names.
        resume: Go on with the interrupted refinement in `out`, or leave a finished one as it is.
        progress: Show a bar on a terminal.

    Returns a record, also in `out/refined.json`: what `TaskAdapter.refine` says of a refined adapter, the digest of its
    `generator`, `seconds`, and `held_out`: None, or the number of held-out examples and their scores `before` and
    `after`.

    Raises what `TaskAdapter.refine` raises, `DataError` for a file that cannot be read, and `TrainingError` if `out`
    holds another run, or one that is not to be resumed.
    """
    adapter, out, settings = Path(adapter), Path(out), settings or Refinement()
    _refuse_used(out, adapter, resume)
    given = read_labelled(examples) if isinstance(examples, str | Path) else labelled(examples)
    opened = TaskAdapter.from_pretrained(adapter, generator)
    check_lora(opened, f"{adapter}: ")
    shown, kept = split_examples(_of_task(given, opened.instruction), opened.generator.text, settings)
    made_by = generator_digest(opened.generator)
    begun_with = [digest_of(opened.bank), files_digest([adapter / STATES]), made_by]
    tasks = [task_of(part) for part in (shown, kept) if part]
    identity = fingerprint("refine", begun_with, tasks_digest(tasks), settings)
    finished = _finished(out, identity)
    if finished is not None:
        return finished
    before = _scores(opened, kept)
    folder = out / _CHECKPOINTS
    refined, seconds = train_lora(opened, shown, settings, folder, identity=identity, resume=resume, progress=progress)
    refined.save_pretrained(out / ADAPTER, overwrite=True)
    record = {
        "identity": identity,
        "adapter": str(out / ADAPTER),
        "generator": made_by,
        **refined.refined,
        "seconds": round(seconds, 1),
        "held_out": {"examples": len(kept), "before": before, "after": _scores(refined, kept)} if kept else None,
    }
    write_text(out / RefinementRecord.FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _of_task(given: Sequence[Labelled], instruction: str) -> list[Labelled]:
    """Return all examples of one task, or of several tasks those with the adapter's instruction."""
    tasks = {one.instruction for one in given}
    if None in tasks and len(tasks) > 1:
        plain = given[0].instruction is None
        odd = next(one for one in given if (one.instruction is None) != plain)
        raise InputError(f"{odd.where}: expected {'examples alone' if plain else 'tasks'} as in the lines before it")
    own = list(given) if len(tasks) < 2 else [one for one in given if one.instruction == instruction]
    if given and not own:
        raise InputError(f"expected examples of one task, or of {instruction!r} among others, got {len(tasks)} others")
    return own


def _scores(adapter: TaskAdapter, examples: Sequence[Example]) -> dict[str, float] | None:
    """ROUGE-L and exact match in percent, as natural-instructions has them, and the mean loss of a target's tokens."""
    if not examples:
        return None
    inputs = [one.input for one in examples]
    answers = adapter.predict(inputs, truncate=True)
    overall = means(rouge_scores((answer, (one.output,)) for answer, one in zip(answers, examples, strict=True)))
    likelihoods = adapter.score(inputs, [[one.output] for one in examples], reduction="mean", truncate=True)
    return {name: overall[name] for name in ("rougeL", "exact_match")} | {"loss": -fmean(row[0] for row in likelihoods)}


def _refuse_used(out: Path, adapter: Path, resume: bool) -> None:
    """Raise `TrainingError` unless `out` is new or holds a refinement that may be resumed."""
    if (out / ADAPTER).resolve() == adapter.resolve():
        raise TrainingError(
            f"{out}: the refined adapter would replace the one given ({adapter}): choose another folder"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    begun = (out / RefinementRecord.FILE).is_file() or (out / _CHECKPOINTS).is_dir()
    if not (begun and resume):
        files = f"holds files{': resume with --resume' if begun else ', none of a refinement'}"
        raise TrainingError(f"{out}: expected a new folder, got one that {'is a file' if out.is_file() else files}")


def _finished(out: Path, identity: str) -> dict[str, Any] | None:
    """The record of a finished refinement of this identity; None if there is work to do."""
    if not (out / RefinementRecord.FILE).is_file():
        return None
    record = RefinementRecord.read(out)
    if record.identity != identity:
        raise TrainingError(f"{out}: expected a refinement of this adapter, examples and settings, got another")
    if not (out / ADAPTER / STATES).is_file():  # the adapter was removed: it is made again
        return None
    return {**record.model_dump(), "adapter": str(out / ADAPTER)}
