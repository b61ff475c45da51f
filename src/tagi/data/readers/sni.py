"""Reader of Super-Natural Instructions: a checkout of natural-instructions, as it is."""

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tagi.data.readers._checks import (
    as_list,
    as_object,
    as_text,
    as_texts,
    decode_utf8,
    parse_object,
    read_bytes,
    required,
    shown,
)
from tagi.data.readers._records import TasksRead, check_limit
from tagi.data.task import Example, Instance, Task
from tagi.data.wordings import sni_wordings
from tagi.errors import DataError

_log = logging.getLogger(__name__)
_NAMED = 3  # of tasks without a file


@dataclass(frozen=True, kw_only=True)
class SNISplit(TasksRead):
    """The tasks of one split that were read, in the split file's order, and what became of the others.

    `listed` are the names asked for; of those `missing` have no file and `non_english` were left out.
    """

    name: str
    listed: tuple[str, ...]
    missing: tuple[str, ...]
    non_english: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """One line on the listed tasks that have no file, the first few by name; None when every one has."""
        if not self.missing:
            return None
        more = len(self.missing) - _NAMED
        names = ", ".join(self.missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{len(self.missing)} of {len(self.listed)} tasks listed for {self.name} have no file: {names}"

    def summary(self) -> dict[str, Any]:
        """Counts of what was read and what was not, ready for JSON."""
        return {
            "split": self.name,
            "listed": len(self.listed),
            "tasks": len(self.tasks),
            "missing": len(self.missing),
            "non_english": len(self.non_english),
            "instances": self.instances,
            "instances_per_task": self.instances_per_task,
            "categories": self.category_counts,
        }


def read_sni(
    root: str | Path,
    split: Literal["train", "test"],
    *,
    instances_per_task: int | None = 100,
    tasks: Collection[str] | None = None,
    seed: int | None = None,
) -> SNISplit:
    """Reads the English tasks that `splits/default/<split>_tasks.txt` lists, `tasks/<name>.json` each.

    The first wording of a definition becomes the instruction, any others its paraphrases. All positive examples are
    kept, and tasks that the package has named wordings of come with them. Listed tasks without a file are named in one
    logged warning.

    Args:
        root: A checkout of natural-instructions.
        split: Whose task list is read.
        instances_per_task: How many instances of each task are kept; None keeps all. Only those kept are checked.
        tasks: If given, only the tasks of these names are read.
        seed: Shuffles each task's instances before the limit applies, as Tk-Instruct does for training. The order
            depends on the seed, the task's name and how many instances its file has. None keeps the order of the file:
            Tk-Instruct tests on the first 100. An instance keeps its id either way.

    Raises `DataError` when `root` is no checkout, a file is malformed (file, field and instance are named),
    a task asked for is not in the split, or nothing remains.
    """
    check_limit("instances_per_task", instances_per_task)
    root = Path(root)
    listed = _listed(root, split)
    if tasks is not None:
        if absent := sorted(set(tasks) - set(listed)):
            raise DataError(f"task not in the {split} split of {root}: {', '.join(map(repr, absent))}")
        listed = [name for name in listed if name in tasks]
    folder = root / "tasks"
    read: list[Task] = []
    missing: list[str] = []
    non_english: list[str] = []
    for name in listed:
        path = folder / f"{name}.json"
        if not path.is_file():
            missing.append(name)
            continue
        task = _read_task(path, name, instances_per_task, seed)
        if task is None:
            non_english.append(name)
        else:
            read.append(task)
    if not read:
        raise DataError(f"{root}: expected English tasks of the {split} split in {folder}, got none")
    return SNISplit(
        name=split,
        instances_per_task=instances_per_task,
        tasks=tuple(read),
        listed=tuple(listed),
        missing=tuple(missing),
        non_english=tuple(non_english),
    ).logged(_log)


def _listed(root: Path, split: str) -> list[str]:
    """The task names of a split file, each once."""
    path = root / "splits" / "default" / f"{split}_tasks.txt"
    if not (root / "tasks").is_dir() or not path.is_file():
        raise DataError(
            f"{root}: expected a checkout of natural-instructions (folder tasks and file "
            f"splits/default/{split}_tasks.txt), got a folder without them"
        )
    names: dict[str, int] = {}
    for number, line in enumerate(decode_utf8(read_bytes(path), str(path)).split("\n"), start=1):
        name = line.strip()
        if not name:
            continue
        if name in names:
            raise DataError(f"{path}: line {number}: task {name!r} is listed already on line {names[name]}")
        names[name] = number
    if not names:
        raise DataError(f"{path}: expected task names, one a line, got none")
    return list(names)


def _read_task(path: Path, name: str, limit: int | None, seed: int | None) -> Task | None:
    """One task file; None for a task that is not English in what it says, asks and answers."""
    where = str(path)
    fields = parse_object(decode_utf8(read_bytes(path), where), where)
    # Older files do not say in which language the definition is written.
    languages = ["Input_language", "Output_language"]
    languages += ["Instruction_language"] if "Instruction_language" in fields else []
    for field in languages:
        spoken = as_texts(required(fields, field, where), field, where, filled=True)
        if any(language.strip().lower() != "english" for language in spoken):
            return None
    definition = required(fields, "Definition", where)
    if isinstance(definition, str):
        definition = [definition]
    wordings = [
        as_text(wording, f"Definition[{index}]", where, filled=True).strip()
        for index, wording in enumerate(as_list(definition, "Definition", where, filled=True))
    ]
    categories = as_list(required(fields, "Categories", where), "Categories", where, filled=True)
    positives = as_list(required(fields, "Positive Examples", where), "Positive Examples", where)
    instances = as_list(required(fields, "Instances", where), "Instances", where, filled=True)
    order = list(range(len(instances)))
    if seed is not None:
        random.Random(f"instances {seed} {name}").shuffle(order)
    return Task(
        name=name,
        category=as_text(categories[0], "Categories[0]", where, filled=True).strip(),
        instruction=wordings[0],
        instances=tuple(_instance(instances[index], index, name, where) for index in order[:limit]),
        examples=tuple(_example(item, f"{where}: Positive Examples[{index}]") for index, item in enumerate(positives)),
        paraphrases=tuple(wordings[1:]),
        wordings=sni_wordings(name),
    )


def _example(item: Any, where: str) -> Example:
    fields = as_object(item, where)
    return Example(*(as_text(required(fields, field, where), field, where) for field in ("input", "output")))


def _instance(item: Any, index: int, name: str, where: str) -> Instance:
    """One instance; older files give no id (then it is the task's name and the index) and a single output."""
    where = f"{where}: Instances[{index}]"
    fields = as_object(item, where)
    outputs = required(fields, "output", where)
    if isinstance(outputs, str):
        outputs = [outputs]
    if not isinstance(outputs, list):
        got = shown(outputs)
        raise DataError(f"{where}: field 'output': expected a string or a list of strings, got {got}")
    return Instance(
        id=as_text(fields.get("id", f"{name}-{index}"), "id", where, filled=True),
        input=as_text(required(fields, "input", where), "input", where),
        outputs=as_texts(outputs, "output", where, filled=True),
    )
