"""Refinement of adapter folders on labelled examples, with scores before and after."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ConfigDict

from tagi.api.examples import Demonstration
from tagi.api.lora_training import Refinement, check_lora, labelled, split_examples, task_of, train_lora
from tagi.api.task_adapter import TaskAdapter
from tagi.data.digest import files_digest, tasks_digest
from tagi.data.readers.jsonl import Labelled, read_labelled
from tagi.data.task import Task
from tagi.errors import InputError, TrainingError
from tagi.evaluation.scoring.metrics import TASK_SCORES
from tagi.evaluation.scoring.task_metrics import checked_metric
from tagi.files import write_text
from tagi.formats.finding import CHECKPOINTS, REFINED, find_adapters
from tagi.formats.records import Record
from tagi.formats.task_adapter import STATES, digest_of, generator_digest
from tagi.hypernetwork.model import GeneratorModel
from tagi.training.trainer import fingerprint

_NAMED = 20
"""The most adapters that a message names."""


class RefinementRecord(Record):
    """The keys of a refinement's record that resuming needs."""

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
    base: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Fine-tune an adapter folder on labelled examples and write the new adapter to `out/adapter`.

    Args:
        adapter: Folder of the adapter. It is not changed.
        examples: A JSON Lines file or a table; or `Example` objects or `(input, output)` tuples. Lines of a file are
            `{"input", "output"}` objects, or tasks, whose instances are used. Of several tasks, the one with the
            adapter's instruction is used.
        out: New folder.
        settings: Training settings; by default `Refinement()`.
        generator: Generator of the adapter; by default the one that the adapter names.
        base: New location of the base model, if it was moved. It must be the same model.
        resume: Continue the interrupted refinement in `out`. A finished one is not changed.
        progress: Show progress.

    Returns:
        A record, also written to `out/refined.json`: the record of `TaskAdapter.refine`, the digest of the
        `generator`, `seconds`, and `held_out`, which is None or has the number of held-out `examples`, the `metric`
        and the scores `before` and `after`.

    Raises:
        InputError: As in `TaskAdapter.refine`.
        DataError: The file cannot be read.
        TrainingError: `out` holds another run, or an interrupted one and `resume` is False.
    """
    adapter, out, settings = Path(adapter), Path(out), settings or Refinement()
    _refuse_used(out, adapter, resume)
    given = read_labelled(examples) if isinstance(examples, str | Path) else labelled(examples)
    opened = TaskAdapter.from_pretrained(adapter, generator, base=base)
    return _Job.of(adapter, opened, _of_task(given, opened.instruction), out, settings).done(resume, progress)


def refine_all(
    adapters: str | Path,
    examples: str | Path,
    out: str | Path,
    settings: Refinement | None = None,
    *,
    only: Sequence[str] = (),
    generator: str | Path | None = None,
    base: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Refine every adapter under a folder on the examples of its task. The generator is loaded once.

    Args:
        adapters: Folder with adapters, at any depth.
        examples: File of tasks. Each adapter is refined on the task with its instruction.
        out: New folder. The output of `refine` is in a subfolder with the adapter's name.
        settings: Training settings. If neither they nor the file say what to hold out, a quarter of each task's
            examples is held out.
        only: Names or patterns of adapters; by default all.
        generator: As in `refine`.
        base: As in `refine`.
        resume: As in `refine`.
        progress: As in `refine`.

    Returns:
        A record. `tasks` has for every adapter its name, the number of training `examples` and of `held_out` examples,
        the `metric`, the scores of held-out examples `before` and `after`, and the `outcome`: "gained", "the same",
        "lost", "no examples", or "not known" if nothing is held out.

    Raises:
        InputError: As in `refine`, or no adapter has examples. Nothing is trained.
        DataError: As in `refine`.
        TrainingError: As in `refine`.
    """
    out, settings, given = Path(out), settings or Refinement(), read_labelled(examples)
    jobs: dict[str, _Job | None] = {}
    made: GeneratorModel | str | Path | None = generator
    found = find_adapters(Path(adapters))
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in found):
            known = ", ".join([*found][:_NAMED]) + (", ..." if len(found) > _NAMED else "")
            raise InputError(f"--tasks: expected names or patterns of {adapters}'s adapters ({known}), got {pattern!r}")
    chosen = {name: at for name, at in found.items() if not only or any(fnmatchcase(name, one) for one in only)}
    for name, folder in chosen.items():
        _refuse_used(out / name, folder, resume)
    for name, folder in chosen.items():
        opened = TaskAdapter.from_pretrained(folder, made, base=base)
        made, base = opened.generator, None
        own = [one for one in given if one.instruction == opened.instruction.strip()]
        quarter = len(own) // 4 or int(len(own) > 1)
        said = settings.held_out or not settings.steps or any(one.task and one.task.split == "test" for one in own)
        how = settings if said else replace(settings, held_out=quarter)
        jobs[name] = _Job.of(folder, opened, own, out / name, how) if own else None
    if not any(jobs.values()):
        raise InputError(f"{examples}: expected examples of a task with an adapter in {adapters}, got none")
    rows = [_row(name, None if job is None else job.done(resume, progress)) for name, job in jobs.items()]
    return {"tasks": rows}


def _row(task: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = None if record is None else record["held_out"]
    row = {"task": task, "examples": 0 if record is None else record["examples"], "held_out": 0}
    none = {"metric": None, "before": None, "after": None}
    if kept is None:
        return {**row, **none, "outcome": "no examples" if record is None else "not known"}
    before, after = kept["before"]["score"], kept["after"]["score"]
    outcome = "gained" if after > before else "lost" if after < before else "the same"
    scores = {"metric": kept["metric"], "before": before, "after": after}
    return {**row, "held_out": kept["examples"], **scores, "outcome": outcome}


@dataclass(frozen=True)
class _Job:
    """An adapter that is to be refined.

    Args:
        folder: The adapter's folder.
        adapter: The adapter.
        shown: The examples that it is trained on.
        kept: Those that are held out.
        task: The task that all examples belong to.
        out: Output folder.
        settings: Training settings.
    """

    folder: Path
    adapter: TaskAdapter
    shown: Sequence[Labelled]
    kept: Sequence[Labelled]
    task: Task
    out: Path
    settings: Refinement

    @classmethod
    def of(
        cls, folder: Path, adapter: TaskAdapter, given: Sequence[Labelled], out: Path, settings: Refinement
    ) -> "_Job":
        """Make a job with everything checked."""
        check_lora(adapter, f"{folder}: ")
        shown, kept = split_examples(given, adapter.generator.text, settings)
        inputs = {one.example.input.strip() for one in shown}
        twin = next((one for one in kept if one.example.input.strip() in inputs), None)
        if twin is not None:
            wanted = "expected an input that is not trained on, since it is held out"
            raise InputError(f"{twin.where}: {wanted}, got one that is")
        task = _labelled_task([*shown, *kept])
        return cls(folder, adapter, shown, kept, replace(task, metric=checked_metric(task)), out, settings)

    def done(self, resume: bool, progress: bool) -> dict[str, Any]:
        """Return the record of the finished job."""
        adapter, out, settings = self.adapter, self.out, self.settings
        made_by = generator_digest(adapter.generator)
        begun_with = [digest_of(adapter.bank), files_digest([self.folder / STATES]), made_by]
        shown, kept = ([one.example for one in part] for part in (self.shown, self.kept))
        tasks = [task_of(part) for part in (shown, kept) if part]
        identity = fingerprint("refine", begun_with, tasks_digest(tasks), settings)
        finished = _finished(out, identity)
        if finished is not None:
            return finished
        before, folder = self._scores(adapter), out / CHECKPOINTS
        refined, seconds = train_lora(
            adapter, shown, settings, folder, identity=identity, resume=resume, progress=progress
        )
        refined.save_pretrained(out / REFINED, overwrite=True)
        # Without a step it is the same adapter.
        scores = {"before": before, "after": before if refined.refined["loss"] is None else self._scores(refined)}
        record = {
            "identity": identity,
            "adapter": str(out / REFINED),
            "generator": made_by,
            **refined.refined,
            "seconds": round(seconds, 1),
            "held_out": {"examples": len(kept), "metric": self.task.metric, **scores} if kept else None,
        }
        write_text(out / RefinementRecord.FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return record

    def _scores(self, adapter: TaskAdapter) -> dict[str, float] | None:
        """Score the held-out examples: `score` by the task's metric in percent, and mean `loss` per token."""
        if not self.kept:
            return None
        instances = self.task.instances[-len(self.kept) :]
        inputs = [one.input for one in instances]
        score, answers = TASK_SCORES[str(self.task.metric)], adapter.predict(inputs, truncate=True)
        values = [score(answer, one.outputs) for answer, one in zip(answers, instances, strict=True)]
        targets = [[one.outputs[0]] for one in instances]
        likelihoods = adapter.score(inputs, targets, reduction="mean", truncate=True)
        return {"score": 100 * fmean(values), "loss": -fmean(row[0] for row in likelihoods)}


def _labelled_task(given: Sequence[Labelled]) -> Task:
    """Return all examples as one task, with the metric and choices of their file."""
    plain = task_of([one.example for one in given])
    stated = [one.task for one in given if one.task is not None]
    if not stated:
        return plain
    instances = tuple(one.instances[0] for one in stated)
    return replace(stated[0], instances=instances if len(stated) == len(given) else plain.instances)


def _of_task(given: Sequence[Labelled], instruction: str) -> list[Labelled]:
    """Return the examples of the adapter's task: all if there is one task, else those with its instruction."""
    tasks = {one.instruction for one in given}
    if None in tasks and len(tasks) > 1:
        plain = given[0].instruction is None
        odd = next(one for one in given if (one.instruction is None) != plain)
        raise InputError(f"{odd.where}: expected {'examples alone' if plain else 'tasks'} as in the lines before it")
    own = list(given) if len(tasks) < 2 else [one for one in given if one.instruction == instruction]
    if given and not own:
        raise InputError(f"expected examples of one task, or of {instruction!r} among others, got {len(tasks)} others")
    return own


def _refuse_used(out: Path, adapter: Path, resume: bool) -> None:
    """Raise `TrainingError` unless `out` is new or holds a refinement that may be resumed."""
    if (out / REFINED).resolve() == adapter.resolve():
        raise TrainingError(
            f"{out}: the refined adapter would replace the one given ({adapter}): choose another folder"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    begun = (out / RefinementRecord.FILE).is_file() or (out / CHECKPOINTS).is_dir()
    if not (begun and resume):
        files = f"holds files{': resume with --resume' if begun else ', none of a refinement'}"
        raise TrainingError(f"{out}: expected a new folder, got one that {'is a file' if out.is_file() else files}")


def _finished(out: Path, identity: str) -> dict[str, Any] | None:
    """Return the record of a finished refinement of this identity, or None."""
    if not (out / RefinementRecord.FILE).is_file():
        return None
    record = RefinementRecord.read(out)
    if record.identity != identity:
        raise TrainingError(f"{out}: expected a refinement of this adapter, examples and settings, got another")
    if not (out / REFINED / STATES).is_file():  # the adapter was removed: write it again
        return None
    return {**record.model_dump(), "adapter": str(out / REFINED)}
