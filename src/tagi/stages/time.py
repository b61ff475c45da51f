"""Timing TAGI against the meta-trained model: which models, which tasks, and the record."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

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
from tagi.evaluation.timing.stopwatch import ClockKind, stopwatch
from tagi.evaluation.timing.tables import markdown, phase_rows, ratio_rows, speed_rows
from tagi.evaluation.timing.task_timing import TaskTiming
from tagi.files import write_text
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD, write_record
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tagi.settings.recipe import Recipe
from tagi.settings.text import TextSettings
from tagi.stages.describe import HUB, PUBLISHED
from tagi.stages.recipe_settings import concatenated_text, generator_settings, generator_text, text_settings
from tagi.stages.tasks import load_tasks

M = TypeVar("M", bound=Method)

PAPER = 0.88
"""TAGI's "Average Relative Inference Time" in Table 3, at batch size 1."""
BATCH_SIZES = (1, 32)
_MARKDOWN = "timing.md"
TABLES = (ratio_rows, speed_rows, phase_rows)
"""The tables of a timing: functions from it to rows."""


@dataclass(frozen=True, slots=True)
class TimingRequest:
    """What to time.

    Args:
        backbone: A published shape whose random weights both methods use without `tagi`; by default the recipe's
            backbone.
        tagi: A checkpoint of a generator.
        metatrained: A checkpoint of a meta-trained model; by default the generator's own backbone reads the instruction
            concatenated, or of P3 the rendered prompt alone.
        tasks: Names of the recipe's test tasks; by default the task of median length.
        lengths: Tokens of a synthetic instruction and of synthetic inputs, including their ends, instead of tasks. Both
            or neither must be given.
        output: Tokens of an answer; by default the mean of the task's own.
        inputs: Maximum number of inputs per task.
        clock: Wall-clock time, or processor time of the process.
        batch_sizes: Batch sizes; by default 1, and 32 if there are enough inputs.
        pairs: Minimum number of pairs per comparison.
    """

    backbone: str | None = None
    tagi: str | None = None
    metatrained: str | None = None
    tasks: tuple[str, ...] = ()
    lengths: tuple[int | None, int | None] = (None, None)
    output: int | None = None
    inputs: int = 100
    clock: ClockKind = "wall"
    batch_sizes: tuple[int, ...] = ()
    pairs: int = 20

    @property
    def made_up(self) -> tuple[int, int] | None:
        """The lengths, or None if they are not given."""
        instruction, inputs = self.lengths
        return None if instruction is None or inputs is None else (instruction, inputs)


def time_methods(
    recipe: Recipe, request: TimingRequest, *, out: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Time TAGI in pairs with the meta-trained model and return the record.

    Args:
        recipe: Recipe with generator, backbone and test tasks.
        request: Models, texts, batch sizes and clock.
        out: Folder for `record.json`, which has every pair, and the tables.
        progress: Print progress on stderr.

    Raises `InputError` for requests that contradict each other, and `ConfigError` for models that cannot be timed.
    """
    _check(request)
    metatrained, tagi, weights = _models(recipe, request)
    tasks, data = _tasks(recipe, request, tagi.text)
    smallest = min(tasks, key=lambda task: len(task.instances))
    fewest = len(smallest.instances)
    sizes = request.batch_sizes or tuple(size for size in BATCH_SIZES if size <= fewest)
    if max(sizes) > fewest:
        raise InputError(f"--batch-size: expected at most the {fewest} inputs of {smallest.name}, got {max(sizes)}")
    watch, begun = stopwatch(tagi.generator.backbone.device, request.clock), _load()
    timings = []
    for task in tasks:
        read = task_lengths(metatrained.text, task).prompt
        lengths = replace(task_lengths(tagi.text, task, len(task.instances)), concatenated=read)
        timing = TaskTiming(metatrained, tagi, task, request.output or round(lengths.output))
        for size in sizes:
            say = _say(f"{task.name}, batch size {size}", progress)
            timed = timing.run(watch, batch_size=size, pairs=request.pairs, say=say)
            timings.append({"lengths": asdict(lengths), **timed})
    content = {
        "kind": "time",
        "paper": PAPER,
        "weights": weights,
        "methods": {
            "generator": tagi.generator.settings.as_dict(),
            "text": tagi.text.settings.as_dict(),
            "dtype": str(tagi.generator.backbone.model.dtype),
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
    write_text(out / _MARKDOWN, tables(content))
    return write_record(out / RECORD, recipe, content)


def tables(record: dict[str, Any]) -> str:
    """Return all tables of a record in Markdown."""
    return "\n".join(
        f"{headline(record, timing)}\n\n{markdown(rows(timing))}" for timing in record["timings"] for rows in TABLES
    )


def headline(record: dict[str, Any], timing: dict[str, Any]) -> str:
    """Return a one-line description of what was timed."""
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
    lengths = dict(zip(("--instruction", "--input"), request.lengths, strict=True))
    missing = [option for option, length in lengths.items() if length is None]
    if len(missing) == 1:
        raise InputError(f"expected both of --instruction and --input, or neither, got no {missing[0]}")
    if missing:
        return
    if request.output is None:
        raise InputError("--output: expected the tokens of an answer with --instruction and --input, got none")
    if request.tasks or request.tagi is not None:
        other = "--task" if request.tasks else "--tagi"
        raise InputError(f"expected one of --instruction with --input, and {other}, got both")
    for option, length in lengths.items():
        if length is not None and length < 2:
            raise InputError(f"{option}: expected at least 2 tokens, a word and the end, got {length}")


def _models(recipe: Recipe, request: TimingRequest) -> tuple[Concatenation, TAGI, dict[str, str]]:
    """Return the meta-trained model, TAGI, and the source of their weights."""
    if request.tagi is None:
        backbone, weights = _backbone(recipe, request)
        settings, read = concatenated_text(recipe), text_settings(recipe)
        if request.made_up is None:
            read = generator_text(recipe)
        else:  # a word a token, and room for all of them
            instruction, output = request.made_up[0], request.output or 1
            settings = read = TextSettings("plain", 0, instruction, sum(request.made_up), output)
        tagi = TAGI(GeneratorModel(backbone, generator_settings(recipe), read))
        metatrained, named = Concatenation(backbone, settings), weights
    else:
        tagi, weights = _trained("--tagi", request.tagi, TAGI, "a generator"), request.tagi
        found = tagi.generator.backbone
        if not isinstance(found, Concatenation.family):
            raise ConfigError(f"--tagi: expected a generator on an encoder-decoder to time, got {request.tagi}")
        if request.metatrained is None:
            told = replace(tagi.text.settings, reads=concatenated_text(recipe).reads)
            metatrained, named = Concatenation(found, told), f"the backbone of {request.tagi}"
        else:
            named = request.metatrained
            metatrained = _trained("--metatrained", named, Concatenation, "a meta-trained model (concatenation)")
            wanted, shape = _shape(found), _shape(metatrained.backbone)
            if shape != wanted:
                expected = f"expected a model of the shape of {request.tagi}'s backbone ({wanted})"
                raise ConfigError(f"--metatrained: {expected}, got {named} ({shape})")
    device = best_device()
    return metatrained.to(device).eval(), tagi.to(device).eval(), {"tagi": weights, "metatrained": named}


def _trained(option: str, checkpoint: str, kind: type[M], wanted: str) -> M:
    method = load_method(find_checkpoint(checkpoint))
    if not isinstance(method, kind):
        raise ConfigError(f"{option}: expected {wanted}, got {checkpoint}, of method {method.name!r}")
    return method


def _backbone(recipe: Recipe, request: TimingRequest) -> tuple[T5Backbone, str]:
    """Return a backbone and the source of its weights: random, unless the recipe names a local folder."""
    wanted = recipe.backbone
    if wanted.family != "t5":
        raise ConfigError(f"backbone.family: expected 't5' to time TAGI on, got {wanted.family!r}")
    made_up = request.made_up is not None
    shape = request.backbone or HUB.get(wanted.name)
    fields = wanted.config if shape is None else PUBLISHED[shape]
    if fields is not None:
        toy = made_up or "toy" in (wanted.tokenizer, wanted.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = build_t5(fields)
        tokenizer = toy_tokenizer() if toy else load_tokenizer(wanted.tokenizer or wanted.name)
        identity = BaseModel(shape or recipe.name, "random weights")
        backbone, weights = T5Backbone(model, tokenizer, identity), f"random weights of {identity.name}"
    elif wanted.name == "toy" or Path(wanted.name).exists():
        backbone = load_backbone(wanted.name, T5Backbone, revision=wanted.revision, tokenizer=wanted.tokenizer)
        weights = f"weights of {wanted.name}"
        if made_up:
            backbone.tokenizer = toy_tokenizer()
    else:
        known = ", ".join(HUB)
        raise ConfigError(f"backbone.name: expected a folder or one of {known} to time, got {wanted.name!r}")
    size, tokens = backbone.model.config.vocab_size, len(backbone.tokenizer)
    if tokens > size:
        raise ConfigError(f"backbone: expected a vocabulary of at least the tokenizer's {tokens}, got {size}")
    backbone.model.to(getattr(torch, wanted.dtype))
    return backbone, weights


def _tasks(recipe: Recipe, request: TimingRequest, text: TextEncoder) -> tuple[list[Task], dict[str, Any] | None]:
    """Return the tasks to time with their inputs, and the record's entry on the data."""
    if request.made_up is not None:
        return [_made_up(*request.made_up, request.output or 1, request.inputs)], None
    loaded = load_tasks(recipe, "test")
    named = {task.name: task for task in loaded.tasks if task.instances}
    if not named:
        raise ConfigError(f"data: expected test tasks to time, got none in {recipe.data.path or recipe.data.source}")
    if unknown := [name for name in request.tasks if name not in named]:
        raise InputError(f"--task: expected the name of one of {len(named)} test tasks, got {unknown[0]!r}")
    chosen = [named[name] for name in dict.fromkeys(request.tasks)]
    chosen = chosen or [task_of_median_length(list(named.values()), text)]
    return [replace(task, instances=task.instances[: request.inputs]) for task in chosen], loaded.record()


def _made_up(instruction: int, length: int, output: int, inputs: int) -> Task:
    """Return a synthetic task with an instruction, inputs and answers of given lengths."""
    vocabulary = sorted(lexicon_words())

    def words(start: int, count: int) -> str:
        return " ".join(vocabulary[(start + at) % len(vocabulary)] for at in range(count))

    instances = tuple(Instance(str(at), words(at, length - 1), (words(at, output - 1),)) for at in range(inputs))
    return Task("given lengths", "none", words(0, instruction - 1), instances)


def _shape(backbone: T5Backbone) -> str:
    keys = ("d_model", "d_kv", "num_heads", "d_ff", "num_layers", "num_decoder_layers", "vocab_size")
    return ", ".join(f"{key} {getattr(backbone.model.config, key)}" for key in keys)


def _load() -> list[float] | None:
    """Return the system load over 1, 5 and 15 minutes, if available."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _say(where: str, progress: bool) -> Callable[[str], None]:
    console = Console(stderr=True, quiet=not progress)
    return lambda what: console.print(f"{where}: {what}", markup=False, highlight=False)
