"""Few-shot refinement: fine-tuning a generated LoRA on labelled examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tagi.adapters.bank import LoraBank
from tagi.api.examples import Demonstration, as_examples
from tagi.data.batches import TaskBatches
from tagi.data.digest import tasks_digest
from tagi.data.readers.jsonl import Labelled
from tagi.data.task import Example, Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.data.text.unknown import warn_of_unknown
from tagi.errors import InputError
from tagi.formats.task_adapter import digest_of
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.methods.refining import Refined
from tagi.settings.training import TrainingSettings
from tagi.stages.own_tasks import seen_record
from tagi.training.progress import Report
from tagi.training.trainer import train

_TASK = "refined"
_LOGS, _SAVES = 20, 4  # log entries and checkpoints per run
_WARMUP = 0.02
A = TypeVar("A", bound=AdaptedTask)


@dataclass(frozen=True, slots=True)
class Refinement:
    """Settings of a refinement.

    Args:
        steps: Number of training steps. With 0 nothing is trained, and `tagi.refine` scores all examples.
        learning_rate: Peak learning rate of AdamW, after 2% warm-up.
        batch_size: Number of examples per step, at most the number of examples.
        seed: Seed of the order of examples.
        held_out: Number of examples at the end that are not trained on; `tagi.refine` scores them before and after. If
            the file has tasks with `"split": "test"`, their examples are held out instead.
        truncate: Truncate examples that exceed the generator's length limits. Otherwise they are an error.
    """

    steps: int = 100
    learning_rate: float = 1e-3
    batch_size: int = 8
    seed: int = 0
    held_out: int = 0
    truncate: bool = False


def labelled(examples: Sequence[Demonstration]) -> list[Labelled]:
    """Return demonstrations with their positions, for messages."""
    return [Labelled(one, f"example {number}") for number, one in enumerate(as_examples(examples), start=1)]


def check_lora(adapter: AdaptedTask, where: str = "") -> None:
    """Raise `InputError`, with `where` before its text, for an adapter that is not LoRA."""
    if not isinstance(adapter.bank, LoraBank):
        raise InputError(f"{where}expected an adapter of LoRA, got one of {adapter.bank.module}")


def split_examples(
    given: Sequence[Labelled], text: TextEncoder, settings: Refinement
) -> tuple[list[Labelled], list[Labelled]]:
    """Return the examples to train on and the held-out ones.

    Raises `InputError` for an example that the generator cannot read, if no example is left to train on, and for
    `held_out` together with a file that marks test tasks.
    """
    for one in given:
        try:
            text.input(one.example.input, truncate=settings.truncate)
            text.target(one.example.output, truncate=settings.truncate)
        except InputError as error:
            raise InputError(f"{one.where}: {error}") from error
    warn_of_unknown(text.tokenizer, [one.example.input for one in given], "input")
    warn_of_unknown(text.tokenizer, [one.example.output for one in given], "output")
    tested = [one.task is not None and one.task.split == "test" for one in given]
    shown, kept = ([one for one, test in zip(given, tested, strict=True) if test == part] for part in (False, True))
    if kept and settings.held_out:
        marked = f'{len(kept)} examples of tasks with "split": "test"'
        raise InputError(f"held_out: expected 0 with {marked}, which are held out, got {settings.held_out}")
    count = len(shown) - settings.held_out
    if count < 1 and (settings.steps or settings.held_out or not given):
        held_out = settings.held_out or len(kept)
        raise InputError(f"expected examples to train on, got {len(given)} of which {held_out} are to be held out")
    if not settings.steps and not settings.held_out:
        return [], list(given)
    return shown[:count], [*shown[count:], *kept]


def task_of(examples: Sequence[Example]) -> Task:
    """Return examples as a task for the trainer. The instruction is a placeholder: the adapter has its own."""
    instances = tuple(Instance(str(at), one.input, (one.output,)) for at, one in enumerate(examples))
    return Task(_TASK, _TASK, _TASK, instances)


def train_lora(
    adapter: A,
    examples: Sequence[Example],
    settings: Refinement,
    folder: Path,
    *,
    identity: str = "",
    resume: bool = False,
    progress: bool | Report = False,
) -> tuple[A, float]:
    """Train an adapter's LoRA on examples.

    Args:
        adapter: The adapter. It is not changed.
        examples: Training examples. If there are none, nothing is trained.
        settings: Training settings.
        folder: Folder for checkpoints.
        identity: Identity of the training, which must be the same for a resumed one.
        resume: Continue from the latest checkpoint in the folder.
        progress: Show progress, or a function that is called after every step.

    Returns:
        The new adapter, and the training time in seconds.
    """
    task, steps = task_of(examples), settings.steps
    model = Refined(adapter)
    outcome: dict[str, Any] = {"history": [], "seconds": 0.0}
    try:
        if steps and settings.learning_rate and examples:
            rows = min(settings.batch_size, len(examples))
            batches = TaskBatches([task], length=steps, tasks_per_batch=1, queries_per_task=rows, seed=settings.seed)
            training = _training(settings, rows)
            outcome = train(model, batches, training, folder, identity=identity, resume=resume, progress=progress)
    finally:
        model.release()
    losses = [entry["loss"] for entry in outcome["history"] if "loss" in entry]
    record = {
        "examples": len(examples),
        "data": tasks_digest([task]),
        **seen_record([replace(task, instruction=adapter.instruction)]),
        **{name: getattr(settings, name) for name in ("steps", "learning_rate", "batch_size", "seed")},
        "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
        "from": digest_of(adapter.bank),
        **({"earlier": adapter.refined} if adapter.refined else {}),
    }
    return model.refined(record), outcome["seconds"]


def _training(settings: Refinement, rows: int) -> TrainingSettings:
    steps = settings.steps
    return TrainingSettings(
        steps=steps,
        tasks_per_batch=1,
        queries_per_task=rows,
        learning_rate=settings.learning_rate,
        warmup_ratio=_WARMUP if steps * _WARMUP >= 1 else 0.0,  # otherwise a single step would have learning rate 0
        seed=settings.seed,
        save_every=max(1, steps // _SAVES),
        log_every=max(1, steps // _LOGS),
    )
