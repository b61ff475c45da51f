"""Reader of P3's training prompts as the hub renders them: a folder with a file for each prompt template."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from tagi.data.readers._p3_files import TEMPLATE_ROWS, hub_rows, instruction_of, template_files
from tagi.data.readers._records import TasksRead, check_limit
from tagi.data.splits import P3_TABLES, p3_key, table11
from tagi.data.task import Instance, Task
from tagi.errors import DataError

_log = logging.getLogger(__name__)

_OTHER_DATASETS: tuple[str, ...] = tuple(P3_TABLES["other_training_datasets"])
"""Training datasets of T0, T0+ and T0++ that Table 11 does not list."""


@dataclass(frozen=True, kw_only=True)
class P3Read(TasksRead):
    """The templates that were read as tasks, in alphabetical order, and what became of the others.

    Args:
        missing: Datasets of Table 11 without a task.
        without_targets: Templates that are left out because no row has a target.
        named: Tasks whose rows share no word, so that the template's name is their instruction.
        skipped_rows: Number of rows without a target.
        dropped_choices: Number of rows whose target is not among their choices; they are read without choices.
    """

    missing: tuple[str, ...]
    without_targets: tuple[str, ...]
    named: tuple[str, ...]
    skipped_rows: int
    dropped_choices: int

    @property
    def not_in_table_11(self) -> tuple[str, ...]:
        """Datasets that were read and that Table 11 does not list."""
        return tuple(sorted(set(self.category_counts) - set(table11())))

    @property
    def warning(self) -> str | None:
        """A line that names missing datasets and templates left out; None without any."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} datasets of P3 have no template here: {', '.join(self.missing)}")
        if self.without_targets:
            names = ", ".join(self.without_targets)
            parts.append(f"{len(self.without_targets)} templates are left out, as no row has a target: {names}")
        return "; ".join(parts) or None

    def summary(self) -> dict[str, Any]:
        """Return counts of what was read and what was not, ready for JSON."""
        return {
            "source": "p3",
            "split": "train",
            **super().summary(),
            "missing": list(self.missing),
            "not_in_table_11": list(self.not_in_table_11),
            "without_targets": list(self.without_targets),
            "instructions_from_names": len(self.named),
            "skipped_rows": self.skipped_rows,
            "dropped_choices": self.dropped_choices,
        }


def read_p3(folder: str | Path, *, instances_per_task: int | None) -> P3Read:
    """Read a task from every file `NAME.jsonl` or `NAME.json` of `folder`, JSON Lines in the hub's columns.

    Columns are `inputs_pretokenized`, `targets_pretokenized` and optionally `answer_choices`; others are ignored. NAME
    is the hub's name of a template: its dataset (`template_datasets`), which is the task's category, and its own name.
    Files named `*_score_eval` are skipped, since they hold wrong answers too.

    The instruction is the text that the template's rows share (`shared_text`). Inputs are the whole rendered texts;
    targets and choices are stripped. One logged warning names what is missing or left out.

    Args:
        folder: The folder of files.
        instances_per_task: Rows with a target that are read of each template; None reads all. At least 200 rows are
            checked, later ones only if they are read.

    Raises `DataError` if a file is malformed (file, line and column are named) or nothing remains.
    """
    check_limit("instances_per_task", instances_per_task)
    folder = Path(folder)
    files = template_files(folder)
    groups = template_datasets(list(files))
    rows: Counter[str] = Counter()
    reads = [_read_template(path, name, groups[name], instances_per_task, rows) for name, path in files.items()]
    tasks = tuple(task for task, _ in reads if task.instances)
    if not tasks:
        raise DataError(f"{folder}: expected rows with targets of any dataset, got none")
    return P3Read(
        instances_per_task=instances_per_task,
        tasks=tasks,
        missing=tuple(sorted(set(table11()) - {task.category for task in tasks})),
        without_targets=tuple(task.name for task, _ in reads if not task.instances),
        named=tuple(task.name for task, named in reads if named and task.instances),
        skipped_rows=rows["skipped"],
        dropped_choices=rows["without choices"],
    ).logged(_log)


def template_datasets(names: Sequence[str]) -> dict[str, str]:
    """Return the dataset of each template, by template name.

    The dataset is the longest one whose name the template's name begins with, of those in Table 11 and of the others
    that T0, T0+ and T0++ are trained on, in Table 11's spelling. Other templates are one dataset if their first words
    (up to "_") are the same. Its name is the beginning that they share.
    """
    known = {p3_key(name): name for name in (*table11(), *_OTHER_DATASETS)}
    found: dict[str, str] = {}
    for name in names:
        matches = [key for key in known if f"{p3_key(name)}_".startswith(f"{key}_")]
        if matches:
            found[name] = known[max(matches, key=len)]
    others = sorted((name.split("_") for name in names if name not in found), key=lambda words: words[0])
    for _, group in groupby(others, key=lambda words: words[0]):
        members = list(group)
        shared = takewhile(lambda at: len(set(at)) == 1, zip(*members, strict=False))
        dataset = "_".join(words[0] for words in shared)
        found |= {"_".join(words): dataset for words in members}
    return {name: found[name] for name in names}


def _read_template(path: Path, name: str, dataset: str, limit: int | None, rows: Counter[str]) -> tuple[Task, bool]:
    """Return a template's task and whether its instruction is its name; count rows in `rows`."""
    inputs: list[str] = []
    instances: list[Instance] = []
    for row, (text, target, choices) in enumerate(hub_rows(path)):
        full = limit is not None and len(instances) >= limit
        if full and row >= TEMPLATE_ROWS:
            break
        if row < TEMPLATE_ROWS:
            inputs.append(text)
        if full:
            continue
        if not target:
            rows["skipped"] += 1
            continue
        if choices is not None and target not in choices:
            choices = None
            rows["without choices"] += 1
        instances.append(Instance(f"{name}-{row}", text, (target,), choices))
    instruction, named = instruction_of(inputs, name, dataset)
    return Task(name, dataset, instruction, tuple(instances)), named
