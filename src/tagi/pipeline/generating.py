"""Adapters for instructions, written as folders, and read back to answer inputs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tagi.adapters import Bank, LoraBank
from tagi.errors import CheckpointError, DataError, InputError
from tagi.files import new_folder
from tagi.hypernetwork import Generator, TaskAdapter, load_generator, read_record
from tagi.hypernetwork.task_adapter import adapt
from tagi.pipeline.finding import find_checkpoint

TaskWords = tuple[str, str, Sequence[tuple[str, str]]]
"""Name, instruction, demonstrations (input, output) of a task to adapt to; the name is its folder's."""

ORIGIN = "generator.txt"
"""In an adapter's folder, the name of the generator that made it."""


def open_generator(name: str) -> Generator:
    """A generator by built-in name, folder (a run's or the checkpoint's own) or hub name."""
    return load_generator(find_checkpoint(name))


def write_adapters(
    generator: str, tasks: Sequence[TaskWords], out: Path, *, truncate: bool = False
) -> list[dict[str, Any]]:
    """Write an adapter per task: into `out` itself for a single unnamed one, else into a folder of its name there.

    Instructions with the same demonstrations are read in one pass. All adapters are written, or none.
    """
    if not tasks:
        raise InputError("expected tasks to generate adapters for, got none")
    folders = [_folder_name(name) for name, _, _ in tasks]
    clash = next((name for name in folders if folders.count(name) > 1), None)
    if clash is not None:
        raise DataError(f"task names: expected names that differ as folders, got {clash!r} more than once")
    loaded = open_generator(generator)
    adapters = _adapt_all(loaded, tasks, truncate)
    alone = len(tasks) == 1 and not tasks[0][0]
    with new_folder(out) as temporary:
        for folder, adapter in zip(folders, adapters, strict=True):
            target = temporary if alone else temporary / folder
            adapter.save(target, overwrite=alone)
            (target / ORIGIN).write_text(_origin(generator) + "\n", encoding="utf-8")
    return [
        {
            "adapter": str(out if alone else out / folder),
            **_sizes(adapter.bank),
            "parameters": adapter.bank.parameters_per_task,
            "instruction": adapter.instruction,
        }
        for folder, adapter in zip(folders, adapters, strict=True)
    ]


def open_adapter(folder: Path, generator: str | None = None) -> TaskAdapter:
    """Read an adapter folder with the generator it names, or with the one given."""
    read_record(folder)  # a folder that is none is said to be none, whatever else is missing
    return TaskAdapter.load(folder, load_generator(find_generator_of(folder, generator)))


def find_generator_of(folder: Path, generator: str | None = None) -> Path:
    """The checkpoint of the generator that an adapter folder names, or of the one given."""
    return find_checkpoint(origin_of_adapter(folder, generator))


def origin_of_adapter(folder: Path, generator: str | None = None) -> str:
    """The name of the generator given, as it is found from elsewhere, or of the one that an adapter folder names."""
    if generator is not None:
        return _origin(generator)
    origin = folder / ORIGIN
    if not origin.is_file():
        raise CheckpointError(f"{folder}: expected {ORIGIN}, which names the generator, got none: give one with -g")
    try:
        named = origin.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{origin}: expected a generator's name in UTF-8, got: {error}") from error
    if not named:
        raise CheckpointError(f"{origin}: expected a generator's name, got an empty file: give one with -g")
    return named


def _adapt_all(generator: Generator, tasks: Sequence[TaskWords], truncate: bool) -> list[TaskAdapter]:
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, (_, _, examples) in enumerate(tasks):
        groups.setdefault(tuple(examples), []).append(index)
    adapters: dict[int, TaskAdapter] = {}
    for examples, members in groups.items():
        made = adapt(generator, [tasks[index][1] for index in members], examples, truncate)
        adapters.update(zip(members, made, strict=True))
    return [adapters[index] for index in range(len(tasks))]


def _sizes(bank: Bank) -> dict[str, Any]:
    if isinstance(bank, LoraBank):
        return {"rank": bank.rank, "sites": len(bank.factors)}
    return {"module": bank.module, "places": len(bank.places)}


def _origin(generator: str) -> str:
    # A folder is named in full, so that the adapter can be used from elsewhere; a built-in or hub name is as given.
    path = Path(generator)
    return str(path.resolve()) if path.exists() else generator


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "adapter"
