"""Adapters for instructions, written as folders, and read back to answer inputs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import Bank
from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.errors import DataError, InputError
from tagi.files import new_folder
from tagi.formats.generator import load_generator

TaskWords = tuple[str, str, Sequence[tuple[str, str]]]
"""Name, instruction, demonstrations (input, output) of a task to adapt to; the name is its folder's."""


def open_generator(name: str) -> AdapterGenerator:
    """A generator by built-in name, folder (a run's or the checkpoint's own) or hub name."""
    return load_generator(name, kind=AdapterGenerator)


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
            adapter.save(temporary if alone else temporary / folder, overwrite=alone)
    return [
        {
            "adapter": str(out if alone else out / folder),
            **_sizes(adapter.bank),
            "parameters": adapter.bank.parameters_per_task,
            "instruction": adapter.instruction,
        }
        for folder, adapter in zip(folders, adapters, strict=True)
    ]


def _adapt_all(generator: AdapterGenerator, tasks: Sequence[TaskWords], truncate: bool) -> list[TaskAdapter]:
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, (_, _, examples) in enumerate(tasks):
        groups.setdefault(tuple(examples), []).append(index)
    adapters: dict[int, TaskAdapter] = {}
    for examples, members in groups.items():
        made = generator.adapt([tasks[index][1] for index in members], examples, truncate=truncate)
        adapters.update(zip(members, made, strict=True))
    return [adapters[index] for index in range(len(tasks))]


def _sizes(bank: Bank) -> dict[str, Any]:
    if isinstance(bank, LoraBank):
        return {"rank": bank.rank, "sites": len(bank.factors)}
    return {"module": bank.module, "places": len(bank.places)}


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "adapter"
