"""Reader of Super-Natural Instructions, from an unmodified checkout of natural-instructions."""

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tagi.data.readers._checks import Filled, Row, Stripped, Text, Texts, parse_object, read_text
from tagi.data.readers._records import TasksRead, check_limit
from tagi.data.task import Example, Instance, Task
from tagi.data.wordings import sni_wordings
from tagi.errors import DataError

_log = logging.getLogger(__name__)
_NAMED = 3  # names of tasks without a file in a message

_OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)


class _Languages(Row):
    """Languages of a task. Older files do not have that of the definition."""

    input: Texts = Field(alias="Input_language")
    output: Texts = Field(alias="Output_language")
    instruction: Texts = Field(["English"], alias="Instruction_language")


class _Example(Row):
    input: Text
    output: Text


class _Instance(Row):
    """An instance. Older files have no id and a single output."""

    id: Filled | None = None
    input: Text
    output: Annotated[Texts, _OneOrMore]


class _TaskFile(Row):
    definition: Annotated[list[Stripped], Field(min_length=1), _OneOrMore] = Field(alias="Definition")
    categories: Annotated[list[Stripped], Field(min_length=1)] = Field(alias="Categories")
    examples: list[_Example] = Field(alias="Positive Examples")
    instances: Annotated[list[Any], Field(min_length=1)] = Field(alias="Instances")


@dataclass(frozen=True, kw_only=True)
class SNISplit(TasksRead):
    """The tasks of one split that were read, in the order of the split file, and those that were left out.

    Args:
        name: The split.
        listed: Names of the tasks that were to be read.
        missing: Those without a file.
        non_english: Those that were left out because they are not in English.
    """

    name: str
    listed: tuple[str, ...]
    missing: tuple[str, ...]
    non_english: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """One line about listed tasks without a file, with the first few names; None if there are none."""
        if not self.missing:
            return None
        more = len(self.missing) - _NAMED
        names = ", ".join(self.missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{len(self.missing)} of {len(self.listed)} tasks listed for {self.name} have no file: {names}"

    def summary(self) -> dict[str, Any]:
        """Return counts of what was read and what was not, ready for JSON."""
        return {
            "split": self.name,
            "listed": len(self.listed),
            "missing": len(self.missing),
            "non_english": len(self.non_english),
            **super().summary(),
        }


def read_sni(
    root: str | Path,
    split: Literal["train", "test"],
    *,
    instances_per_task: int | None = 100,
    tasks: Collection[str] | None = None,
    seed: int | None = None,
) -> SNISplit:
    """Read the English tasks that `splits/default/<split>_tasks.txt` lists, each from `tasks/<name>.json`.

    The first wording of a definition becomes the instruction, the others its paraphrases. Tasks have all positive
    examples, and the named wordings that the package has of them. One logged warning names listed tasks without a file.

    Args:
        root: A checkout of natural-instructions.
        split: Split whose task list is read.
        instances_per_task: Maximum number of instances read per task; None reads all. Others are not checked.
        tasks: Names of the tasks to read; by default all.
        seed: Shuffles each task's instances before the limit applies, as Tk-Instruct does for training. The order
            depends on the seed, the task's name and how many instances its file has. None keeps the order of the file:
            Tk-Instruct tests on the first 100. An instance keeps its id either way.

    Raises `DataError` if `root` is not a checkout, a file is malformed (file, field and instance are named), one of
    `tasks` is not in the split, or nothing remains.
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
    """Return the task names of a split file. Raises `DataError` for a name that is listed twice."""
    path = root / "splits" / "default" / f"{split}_tasks.txt"
    if not (root / "tasks").is_dir() or not path.is_file():
        raise DataError(
            f"{root}: expected a checkout of natural-instructions (folder tasks and file "
            f"splits/default/{split}_tasks.txt), got a folder without them"
        )
    names: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
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
    """Read one task file. Returns None unless its definition, inputs and outputs are all in English."""
    where = str(path)
    fields = parse_object(read_text(path), where)
    languages = _Languages.checked(fields, where)
    spoken = (*languages.input, *languages.output, *languages.instruction)
    if any(language.strip().lower() != "english" for language in spoken):
        return None
    file = _TaskFile.checked(fields, where)
    order = list(range(len(file.instances)))
    if seed is not None:
        random.Random(f"instances {seed} {name}").shuffle(order)
    return Task(
        name=name,
        category=file.categories[0],
        instruction=file.definition[0],
        instances=tuple(_instance(file.instances[index], index, name, where) for index in order[:limit]),
        examples=tuple(Example(one.input, one.output) for one in file.examples),
        paraphrases=tuple(file.definition[1:]),
        wordings=sni_wordings(name),
    )


def _instance(fields: Any, index: int, name: str, where: str) -> Instance:
    row = _Instance.checked(fields, f"{where}: Instances[{index}]")
    return Instance(row.id or f"{name}-{index}", row.input, tuple(row.output))
