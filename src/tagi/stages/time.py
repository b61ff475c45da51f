"""Seconds of TAGI against those of the meta-trained model: which models, which task, what is kept of it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tagi.backbones.load import build_t5, load_backbone, load_tokenizer
from tagi.backbones.machine import best_device
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.data.task import Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.data.toy.lexicon import lexicon_words
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.errors import ConfigError, InputError
from tagi.evaluation.lengths import task_lengths, task_of_median_length
from tagi.evaluation.timing.comparison import Contest
from tagi.evaluation.timing.stopwatch import ClockKind, stopwatch
from tagi.evaluation.timing.tables import markdown, phase_rows, ratio_rows, speed_rows
from tagi.files import write_text
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, write_record
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.settings.text import TextSettings
from tagi.stages.describe import HUB, PUBLISHED
from tagi.stages.recipe_settings import generator_settings, generator_text, text_settings
from tagi.stages.tasks import load_tasks

PAPER = 0.88
"""TAGI in the column "Average Relative Inference Time" of Table 3, at batch size 1."""
BATCH_SIZES = (1, 32)
TABLES = "timing.md"


@dataclass(frozen=True, slots=True)
class GivenLengths:
    """Tokens of an instruction and of an input that are made up, the end of each included."""

    instruction: int
    input: int


@dataclass(frozen=True, slots=True)
class TimingRequest:
    """What to time.

    The models: `tagi` and `metatrained` are checkpoints; without `metatrained` the generator's own backbone reads the
    instruction concatenated, and with neither, both stand on random weights of `backbone`'s published shape, or of the
    recipe's. The texts: the recipe's test `tasks` of these names (without names the task of median length), or made up
    to `lengths`. `output` tokens an answer, by default the mean of the task's own. At most `inputs` of a task; batch
    sizes, by default 1 and 32 where there are as many inputs; at least `pairs` pairs of each comparison; `clock` says
    what seconds are.
    """

    backbone: str | None = None
    tagi: str | None = None
    metatrained: str | None = None
    tasks: tuple[str, ...] = ()
    lengths: GivenLengths | None = None
    output: int | None = None
    inputs: int = 100
    clock: ClockKind = "wall"
    batch_sizes: tuple[int, ...] = ()
    pairs: int = 20


@dataclass(frozen=True, slots=True)
class _Models:
    metatrained: Concatenation
    tagi: TAGI
    weights: dict[str, str]


def time_methods(
    recipe: Recipe, request: TimingRequest, *, out: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Time TAGI in pairs with the meta-trained model and return the record.

    With `out`, `record.json` (every pair in it) and the tables lie there.
    """
    _check(request)
    models = _models(recipe, request)
    tasks, data = _tasks(recipe, request, models.tagi.text)
    sizes = request.batch_sizes or tuple(
        size for size in BATCH_SIZES if size <= min(len(task.instances) for task in tasks)
    )
    _fitting(tasks, sizes)
    watch, begun = stopwatch(models.tagi.generator.backbone.device, request.clock), _load()
    timings = []
    for task in tasks:
        lengths = task_lengths(models.tagi.text, task, len(task.instances))
        output = request.output or round(lengths.output)
        contest = Contest(models.metatrained, models.tagi, task, output)
        for size in sizes:
            say = _say(f"{task.name}, batch size {size}", progress)
            timing = contest.run(watch, batch_size=size, pairs=request.pairs, say=say)
            timings.append({"lengths": asdict(lengths), **timing})
    content = {
        "kind": "time",
        "paper": PAPER,
        "weights": models.weights,
        "methods": {
            "generator": models.tagi.generator.settings.as_dict(),
            "text": models.tagi.text.settings.as_dict(),
            "dtype": str(models.tagi.generator.backbone.model.dtype),
        },
        "clock": request.clock,
        "machine": {
            "threads": torch.get_num_threads(),
            "processors": os.cpu_count(),
            "load_average": {"begun": begun, "ended": _load()},
            "garbage_collector": "between pairs",
        },
        "data": data,
        "timings": timings,
    }
    if out is None:
        return content
    write_text(out / TABLES, tables(content))
    return write_record(out / RECORD, recipe, content)


def tables(record: dict[str, Any]) -> str:
    """All tables of a record in Markdown."""
    return "\n".join(
        f"{headline(record, timing)}\n\n{markdown(rows(timing))}"
        for timing in record["timings"]
        for rows in (ratio_rows, speed_rows, phase_rows)
    )


def headline(record: dict[str, Any], timing: dict[str, Any]) -> str:
    """What was timed, in a line."""
    lengths, machine = timing["lengths"], record["machine"]
    return (
        f"{timing['task']}, batch size {timing['batch_size']}: "
        f"instruction {lengths['instruction']:.0f} tokens, input {lengths['input']:.1f}, "
        f"both in one text {lengths['concatenated']:.1f}, answers of {timing['output_tokens']['Metatrain']}; "
        f"{timing['inputs']} inputs; {record['weights']['tagi']}; "
        f"threads: {machine['threads']}; {record['clock']} clock"
    )


def _check(request: TimingRequest) -> None:
    if request.metatrained is not None and request.tagi is None:
        raise InputError("--metatrained: expected --tagi CHECKPOINT with it, got none")
    if request.tagi is not None and request.backbone is not None:
        raise InputError("expected one of --tagi and --backbone, got both")
    if request.backbone is not None and request.backbone not in PUBLISHED:
        raise InputError(f"--backbone: expected one of {', '.join(PUBLISHED)}, got {request.backbone!r}")
    if request.lengths is None:
        return
    if request.output is None:
        raise InputError("--output: expected the tokens of an answer with --instruction and --input, got none")
    if request.tasks or request.tagi is not None:
        other = "--task" if request.tasks else "--tagi"
        raise InputError(f"expected one of --instruction with --input, and {other}, got both")
    for option, length in (("--instruction", request.lengths.instruction), ("--input", request.lengths.input)):
        if length < 2:
            raise InputError(f"{option}: expected at least 2 tokens, a word and the end, got {length}")


def _fitting(tasks: Sequence[Task], sizes: Sequence[int]) -> None:
    for task in tasks:
        for size in sizes:
            if size > len(task.instances):
                found = len(task.instances)
                raise InputError(f"--batch-size: expected at most the {found} inputs of {task.name}, got {size}")


def _models(recipe: Recipe, request: TimingRequest) -> _Models:
    device = best_device()
    if request.tagi is None:
        backbone, named = _backbone(recipe, request)
        settings = text_settings(recipe) if request.lengths is None else _wide(request.lengths, request.output)
        read = generator_text(recipe) if request.lengths is None else settings
        tagi = TAGI(GeneratorModel(backbone, generator_settings(recipe), read))
        return _on(device, Concatenation(backbone, settings), tagi, {"tagi": named, "metatrained": named})
    trained = load_method(find_checkpoint(request.tagi))
    if not isinstance(trained, TAGI):
        raise ConfigError(f"--tagi: expected a generator, got {request.tagi}, of method {trained.name!r}")
    found = trained.generator.backbone
    if not isinstance(found, T5Backbone):
        raise ConfigError(f"--tagi: expected a generator on an encoder-decoder to time, got {request.tagi}")
    backbone = found
    weights = {"tagi": request.tagi, "metatrained": request.metatrained or f"the backbone of {request.tagi}"}
    if request.metatrained is None:
        return _on(device, Concatenation(backbone, trained.text.settings), trained, weights)
    rival = load_method(find_checkpoint(request.metatrained))
    if not isinstance(rival, Concatenation):
        wanted = "expected a meta-trained model (concatenation)"
        raise ConfigError(f"--metatrained: {wanted}, got {request.metatrained}, of method {rival.name!r}")
    if _shape(rival.backbone) != _shape(backbone):
        raise ConfigError(
            f"--metatrained: expected a model of the shape that {request.tagi} stands on ({_in_words(backbone)}), got "
            f"{request.metatrained} ({_in_words(rival.backbone)})"
        )
    return _on(device, rival, trained, weights)


def _on(device: torch.device, metatrained: Concatenation, tagi: TAGI, weights: dict[str, str]) -> _Models:
    return _Models(metatrained.to(device).eval(), tagi.to(device).eval(), weights)


def _backbone(recipe: Recipe, request: TimingRequest) -> tuple[T5Backbone, str]:
    """A backbone, and what its weights are: random unless the recipe's own lies here."""
    wanted = recipe.backbone
    if wanted.family != "t5":
        raise ConfigError(f"backbone.family: expected 't5' to time TAGI on, got {wanted.family!r}")
    tokenizer = toy_tokenizer() if request.lengths is not None else None
    shape = request.backbone or HUB.get(wanted.name)
    fields = wanted.config if shape is None else PUBLISHED[shape]
    if fields is None:
        if wanted.name != "toy" and not Path(wanted.name).exists():
            known = ", ".join(HUB)
            raise ConfigError(f"backbone.name: expected a folder or one of {known} to time, got {wanted.name!r}")
        backbone = load_backbone(wanted.name, T5Backbone, revision=wanted.revision, tokenizer=wanted.tokenizer)
        if tokenizer is not None:
            backbone.tokenizer = tokenizer
        return _sized(backbone, wanted.dtype), f"weights of {wanted.name}"
    if tokenizer is None:
        tokenizer = toy_tokenizer() if "toy" in (wanted.tokenizer, wanted.name) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_t5(fields)
    found = tokenizer or load_tokenizer(wanted.tokenizer or wanted.name)
    identity = BaseModel(shape or recipe.name, "random weights")
    return _sized(T5Backbone(model, found, identity), wanted.dtype), f"random weights of {identity.name}"


def _sized(backbone: T5Backbone, dtype: str) -> T5Backbone:
    size, tokens = backbone.model.config.vocab_size, len(backbone.tokenizer)
    if tokens > size:
        raise ConfigError(f"backbone: expected a vocabulary of at least the tokenizer's {tokens}, got {size}")
    backbone.model.to(getattr(torch, dtype))
    return backbone


def _wide(lengths: GivenLengths, output: int | None) -> TextSettings:
    """A word a token, and room for all of them."""
    return TextSettings("plain", 0, lengths.instruction, lengths.instruction + lengths.input, output or 1)


def _tasks(recipe: Recipe, request: TimingRequest, text: TextEncoder) -> tuple[list[Task], dict[str, Any] | None]:
    """The tasks to time, each with its inputs, and what was read for them."""
    if request.lengths is not None:
        return [_made_up(request.lengths, request.output or 1, request.inputs)], None
    loaded = load_tasks(recipe, "test")
    tasks = [task for task in loaded.tasks if task.instances]
    if not tasks:
        raise ConfigError(f"data: expected test tasks to time, got none in {recipe.data.path or recipe.data.source}")
    named = {task.name: task for task in tasks}
    for name in request.tasks:
        if name not in named:
            raise InputError(f"--task: expected the name of one of {len(tasks)} test tasks, got {name!r}")
    chosen = [named[name] for name in dict.fromkeys(request.tasks)] or [task_of_median_length(tasks, text)]
    return [replace(task, instances=task.instances[: request.inputs]) for task in chosen], loaded.record()


def _made_up(lengths: GivenLengths, output: int, inputs: int) -> Task:
    vocabulary = sorted(lexicon_words())

    def words(start: int, count: int) -> str:
        return " ".join(vocabulary[(start + at) % len(vocabulary)] for at in range(count))

    instances = tuple(Instance(str(at), words(at, lengths.input - 1), (words(at, output - 1),)) for at in range(inputs))
    return Task("given lengths", "none", words(0, lengths.instruction - 1), instances)


def _shape(backbone: T5Backbone) -> tuple[Any, ...]:
    config = backbone.model.config
    return backbone.sites, config.d_ff, config.vocab_size


def _in_words(backbone: T5Backbone) -> str:
    config = backbone.model.config
    return f"d_model {config.d_model}, {len(backbone.sites)} sites, d_ff {config.d_ff}, {config.vocab_size} tokens"


def _load() -> list[float] | None:
    """Processes that wanted to run, on average over 1, 5 and 15 minutes, where the system counts them."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _say(where: str, progress: bool) -> Callable[[str], None]:
    console = Console(stderr=True, quiet=not progress)
    return lambda what: console.print(f"{where}: {what}", markup=False, highlight=False)
