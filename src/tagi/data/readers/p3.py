"""Reader of P3's rendered training prompts from the hub: a folder with one file per prompt template."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal

from tagi.data.readers._p3_files import HubFile, Origin, Templates, drawn, fields_of, template_files
from tagi.data.readers._records import TasksRead, check_limit
from tagi.data.readers.p3_eval import EVALUATION_SETS
from tagi.data.splits import P3_TABLES, p3_key, table11
from tagi.data.task import Instance, Task
from tagi.errors import DataError

_log = logging.getLogger(__name__)

Datasets = Literal["table-11", "all"]
Inputs = Literal["rendered", "fields"]

_OTHER_DATASETS: tuple[str, ...] = tuple(P3_TABLES["other_training_datasets"])
"""Training datasets of T0, T0+ and T0++ that Table 11 does not list."""


@dataclass(frozen=True, kw_only=True)
class P3Read(TasksRead):
    """The templates that were read as tasks, in alphabetical order, and those that were left out.

    Args:
        missing: Datasets of Table 11 without a task.
        passed_over: Datasets that were skipped because Table 11 does not list them.
        without_targets: Templates that were left out because no row has a target.
        constant: Tasks whose instances all have the same target.
        inferred: Tasks whose instruction is the text that their rows have in common.
        named: Tasks whose instruction is their name, because neither a template nor the rows give any words.
        templates: Whether instructions were read from promptsource's templates.
        skipped_rows: Number of rows without a target among those drawn.
        dropped_choices: Number of rows whose target is not among their choices; they are read without choices.
    """

    missing: tuple[str, ...]
    passed_over: tuple[str, ...]
    without_targets: tuple[str, ...]
    constant: tuple[str, ...]
    inferred: tuple[str, ...]
    named: tuple[str, ...]
    templates: bool
    skipped_rows: int
    dropped_choices: int

    @property
    def not_in_table_11(self) -> tuple[str, ...]:
        """Datasets that were read and that Table 11 does not list."""
        return tuple(sorted(set(self.category_counts) - set(table11())))

    @property
    def warning(self) -> str | None:
        """One line that lists what is missing, left out or of little use for training, or None."""
        datasets = {task.name: task.category for task in self.tasks}
        lacking = sorted({datasets[name] for name in self.inferred}) if self.templates else []
        parts = {
            "datasets of P3 have no template here": self.missing,
            "datasets are passed over, as Table 11 lacks them (data.datasets = 'all' reads them)": self.passed_over,
            "templates are left out, as no row has a target": self.without_targets,
            "templates have the same target in all rows that were read, so that it can be learnt without reading": (
                self.constant
            ),
            "templates have a mere name for an instruction, as they share no words": self.named,
            "datasets have no templates.yaml, so that instructions are inferred from rows": lacking,
        }
        return "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts.items() if names) or None

    def summary(self) -> dict[str, Any]:
        """Return counts of what was read and what was not, ready for JSON."""
        return {
            "source": "p3",
            "split": "train",
            **super().summary(),
            "missing": list(self.missing),
            "not_in_table_11": list(self.not_in_table_11),
            "passed_over": list(self.passed_over),
            "without_targets": list(self.without_targets),
            "constant_targets": list(self.constant),
            "instructions": {
                "from_templates": len(self.tasks) - len(self.inferred) - len(self.named),
                "inferred_from_rows": list(self.inferred),
                "names": list(self.named),
            },
            "skipped_rows": self.skipped_rows,
            "dropped_choices": self.dropped_choices,
        }


def read_p3(
    folder: str | Path,
    *,
    instances_per_task: int | None,
    seed: int = 0,
    templates: str | Path | None = None,
    datasets: Datasets = "table-11",
    inputs: Inputs = "rendered",
) -> P3Read:
    """Read a task from every file `NAME.jsonl` or `NAME.json` of `folder`, JSON Lines in the hub's columns.

    Columns are `inputs_pretokenized`, `targets_pretokenized` and optionally `answer_choices`; others are ignored. NAME
    is the hub's name of a template: its dataset (`template_datasets`), which is the task's category, and its own name.
    Files named `*_score_eval` are skipped, because they also contain wrong answers. Targets and choices are stripped.
    Logs one warning about what is missing, left out or of little use.

    Args:
        folder: The folder of files.
        instances_per_task: Number of rows with a target that are sampled per template, from its whole file; None reads
            all. They are in the file's order. Rows that are not sampled are not checked.
        seed: Seed of the sampling.
        templates: A folder of promptsource's files (`imdb/templates.yaml`, `glue/mrpc/templates.yaml`): an instruction
            is the template's text with `[...]` for its fields. Without the template it is the text that a random sample
            of its rows share (`shared_text`), the same one whatever the seed.
        datasets: Only those of Table 11, or all.
        inputs: The whole rendered prompts, or only their fields (`fields_of`).

    Raises `DataError` if a file is malformed (file, line and column are named), nothing remains, or a file is of a
    dataset that P3 is evaluated on.
    """
    check_limit("instances_per_task", instances_per_task)
    folder = Path(folder)
    files = template_files(folder)
    _refuse_evaluation_sets(files)
    groups = template_datasets(list(files))
    known = table11()
    others = sorted({dataset for dataset in groups.values() if dataset not in known}) if datasets == "table-11" else []
    reader = _Reader(instances_per_task, seed, None if templates is None else Templates(Path(templates)), inputs)
    reads = [reader.read(path, name, groups[name]) for name, path in files.items() if groups[name] not in others]
    tasks = tuple(task for task, _ in reads if task.instances)
    if not tasks:
        which = "of Table 11's datasets" if others else "of any dataset"
        got = f"only {', '.join(others)} (data.datasets = 'all' reads them)" if others else "none"
        raise DataError(f"{folder}: expected rows with targets {which}, got {got}")
    return P3Read(
        instances_per_task=instances_per_task,
        tasks=tasks,
        missing=tuple(sorted(set(known) - {task.category for task in tasks})),
        passed_over=tuple(others),
        without_targets=tuple(task.name for task, _ in reads if not task.instances),
        constant=tuple(task.name for task in tasks if _constant(task)),
        inferred=tuple(task.name for task, origin in reads if origin == "rows" and task.instances),
        named=tuple(task.name for task, origin in reads if origin == "name" and task.instances),
        templates=templates is not None,
        skipped_rows=reader.counts["skipped"],
        dropped_choices=reader.counts["without choices"],
    ).logged(_log)


def _refuse_evaluation_sets(files: dict[str, Path]) -> None:
    """Raise `DataError` if a file is of a dataset that P3 is evaluated on, for any split or prompt."""
    held_out = {one.family for one in EVALUATION_SETS}
    for name, path in files.items():
        for dataset in held_out:
            if f"{p3_key(name)}_".startswith(f"{p3_key(dataset)}_"):
                raise DataError(
                    f"{path}: expected prompts of training datasets alone, got some of {dataset}, which P3 is "
                    "evaluated on: move them to a folder of their own (data.test_path)"
                )


def _constant(task: Task) -> bool:
    return len(task.instances) > 1 and len({instance.outputs for instance in task.instances}) == 1


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


@dataclass
class _Reader:
    """Reads the files of templates, and counts faulty rows."""

    limit: int | None
    seed: int
    templates: Templates | None
    inputs: Inputs

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def read(self, path: Path, name: str, dataset: str) -> tuple[Task, Origin]:
        """Return a template's task and the origin of its instruction."""
        file = HubFile(path)
        instruction, origin = file.instruction(name, dataset, self.templates)
        instances: dict[int, Instance] = {}
        numbers = None if self.limit is None else drawn(len(file), f"p3 {self.seed} {name}")
        for row, text, target, choices in file.rows(numbers):
            if not target:
                self.counts["skipped"] += 1
                continue
            if choices is not None and target not in choices:
                choices = None
                self.counts["without choices"] += 1
            given = text if self.inputs == "rendered" or origin == "name" else fields_of(text, instruction)
            whole = None if self.inputs == "rendered" else text
            instances[row] = Instance(f"{name}-{row}", given, (target,), choices, whole)
            if len(instances) == self.limit:
                break
        return Task(name, dataset, instruction, tuple(instances[row] for row in sorted(instances))), origin
