"""P3's evaluation sets as tasks with choices: raw sets rendered with promptsource, or the hub's rendered prompts."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tagi.data.readers._checks import json_lines
from tagi.data.readers._p3_files import (
    ENDINGS,
    SCORE_EVAL,
    HubFile,
    HubRow,
    Origin,
    Templates,
    fields_of,
    template_files,
)
from tagi.data.readers._records import TasksRead, check_limit
from tagi.data.readers.promptsource import FILE, PromptTemplate, read_templates
from tagi.data.splits import P3_TABLES, p3_key
from tagi.data.task import Instance, Task
from tagi.errors import DataError

_log = logging.getLogger(__name__)

Prompts = Literal["original", "all"]

EMPTY, NO_TARGET, NO_CHOICES, NOT_A_CHOICE = (
    "with an empty input",
    "without a target",
    "without two different choices",
    "whose target is no choice",
)
"""Why a rendered row cannot be ranked."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """One of the 11 data sets of MTest11: its category, folder, and number of prompts in T0's evaluation."""

    name: str
    folder: str
    prompts: int

    @property
    def dataset(self) -> str:
        """The prefix of its prompts' names on the hub. Names of ANLI's prompts end with the round."""
        return "anli" if self._round else self.name

    @property
    def family(self) -> str:
        """The prefix of the names on the hub of everything made from the same data; for WinoGrande, of all sizes."""
        parts = self.folder.split("/")
        return "_".join(parts) if parts[0] == "super_glue" else parts[0]

    def prompt(self, key: str) -> str:
        """Return the name of one of its prompts on the hub."""
        return f"{self.dataset}_{key}{self._round}"

    def owns(self, prompt: str) -> bool:
        """Return whether this is the name of one of its prompts on the hub."""
        return p3_key(prompt).startswith(f"{p3_key(self.dataset)}_") and prompt.endswith(self._round)

    @property
    def _round(self) -> str:
        return self.name.removeprefix("anli") if self.name.startswith("anli_") else ""


EVALUATION_SETS = tuple(EvaluationSet(**row) for row in P3_TABLES["evaluation_sets"])
"""In the order of Table 9."""

_OTHER_PROMPTS = frozenset(P3_TABLES["prompts_of_other_tasks"])
"""Prompts of the 11 sets that are not for the original task, which the hub's files do not record."""
_LABELS = ("label", "answer", "answer_right_ending")
_UNLABELLED = (-1, "-1", "", None)

_Prompt = tuple[Task, Origin, Iterable[HubRow]]
"""A prompt as a task without instances, the origin of its instruction, and its rows."""


@dataclass
class _Counts:
    """Counts collected while tasks are read."""

    dropped: Counter[str] = field(default_factory=Counter)
    without_instances: list[str] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    other_prompts: int = 0


@dataclass(frozen=True, kw_only=True)
class P3EvalRead(TasksRead):
    """The prompts that were read as tasks, by data set and name, and those that were left out.

    Args:
        prompts: Which prompts were read.
        missing: Sets without a task.
        not_of_the_11: Other data sets or files, which were skipped.
        dropped: Number of rendered rows that cannot be ranked, by reason.
        without_instances: Prompts without any row that can be ranked.
        other_prompts: Number of prompts left out because they are not for the original task.
        score_eval: Number of the hub's `*_score_eval` files.
        inferred: Prompts whose instruction is the text that their rows have in common.
        named: Prompts whose instruction is their name.
    """

    prompts: Prompts
    missing: tuple[str, ...]
    not_of_the_11: tuple[str, ...]
    dropped: Mapping[str, int]
    without_instances: tuple[str, ...]
    other_prompts: int
    score_eval: int
    inferred: tuple[str, ...]
    named: tuple[str, ...]

    @property
    def prompt_counts(self) -> dict[str, int]:
        """Number of prompts per data set, in the order of Table 9."""
        return dict(Counter(task.category for task in self.tasks))

    @property
    def incomplete(self) -> dict[str, tuple[int, int]]:
        """Data sets with fewer prompts than in T0's evaluation: the number read, and T0's number."""
        here = self.prompt_counts
        return {
            one.name: (here[one.name], one.prompts)
            for one in EVALUATION_SETS
            if one.name in here and here[one.name] < one.prompts
        }

    @property
    def warning(self) -> str | None:
        """One line naming what is missing, incomplete or left out; None if there is nothing to say."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} of P3's 11 evaluation sets are not here: {', '.join(self.missing)}")
        if self.incomplete:
            few = ", ".join(f"{name} {here} of {there}" for name, (here, there) in self.incomplete.items())
            parts.append(f"prompts are missing: {few}")
        if self.not_of_the_11:
            parts.append(f"passed over, as it is none of the 11: {', '.join(self.not_of_the_11)}")
        if self.without_instances:
            names = ", ".join(self.without_instances)
            parts.append(f"{len(self.without_instances)} prompts are left out, as no row can be ranked: {names}")
        if self.dropped:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            parts.append(f"rendered rows are left out: {counts}")
        return "; ".join(parts) or None

    def summary(self) -> dict[str, Any]:
        """Return counts of what was read and what was not, ready for JSON."""
        instances: Counter[str] = Counter()
        for task in self.tasks:
            instances[task.category] += len(task.instances)
        return {
            "source": "p3",
            "split": "test",
            "prompts": self.prompts,
            **super().summary(),
            "categories": self.prompt_counts,
            "category_instances": dict(instances),
            "missing": list(self.missing),
            "incomplete": {name: list(counts) for name, counts in self.incomplete.items()},
            "not_of_the_11": list(self.not_of_the_11),
            "without_instances": list(self.without_instances),
            "other_prompts": self.other_prompts,
            "score_eval": self.score_eval,
            "instructions_from_names": len(self.named),
            "instructions_inferred": len(self.inferred),
            "dropped_rows": dict(self.dropped),
        }


def read_p3_eval(
    folder: str | Path,
    *,
    templates: str | Path | None = None,
    prompts: Prompts = "original",
    limit: int | None = None,
    inputs: Literal["rendered", "fields"] = "rendered",
    split: Literal["validation", "train"] = "validation",
    sets: Collection[str] | None = None,
) -> P3EvalRead:
    """Read a task from every prompt of P3's 11 evaluation sets. Its category is the set; its instances have choices.

    An instance's id consists of its data set and row, so prompts share ids. Logs one warning about what is missing or
    left out.

    Args:
        folder: The hub's P3, a file for each prompt (`super_glue_cb_can_we_infer.jsonl`, as `read_p3` reads them), of
            which those named `*_score_eval` are skipped, since they repeat the plain file with a row for each choice.
            Or, with `templates`, raw sets in the hub's columns in folders of their own
            (`super_glue/cb/validation.jsonl`).
        templates: A folder of promptsource's files (`super_glue/cb/templates.yaml`; the rounds of ANLI share one). The
            instruction is the template's text with `[...]` for its fields. Without the template it is the text that a
            random sample of the prompt's rows share.
        prompts: "original" for T0's evaluation prompts, those for the data set's original task, or "all".
        limit: Rows kept of each prompt; None keeps all. A row needs an input, two different choices and one of them as
            target; rows without these are counted.
        inputs: The whole rendered prompts, or only their fields (`fields_of`).
        split: Name of the file to read if a raw set's folder has several. A single file may have any name.
        sets: Names of the sets to read; by default all.

    Raises `DataError` if a file is malformed, a template is not allowed, or nothing remains.
    """
    check_limit("limit", limit)
    folder, counts = Path(folder), _Counts()
    score_eval, worded = 0, None if templates is None else Templates(Path(templates))
    if worded is None or (folder.is_dir() and any(path.suffix in ENDINGS for path in folder.iterdir())):
        files, others = _hub_files(folder, sets)
        score_eval = sum(path.stem.endswith(SCORE_EVAL) for path in folder.iterdir() if path.suffix in ENDINGS)
        found = _hub_prompts(files, worded, prompts, counts)
    else:
        paths, others = _raw_files(folder, split, sets)
        found = _raw_prompts(paths, worded.folder, prompts, counts)
    tasks = _with_instances(found, limit, inputs, counts)
    if not tasks:
        raise DataError(f"{folder}: expected rows with choices of P3's evaluation sets, got none")
    here = {task.category for task in tasks}
    return P3EvalRead(
        tasks=tasks,
        prompts=prompts,
        instances_per_task=limit,
        missing=tuple(one.name for one in EVALUATION_SETS if one.name not in here),
        not_of_the_11=others,
        dropped=dict(sorted(counts.dropped.items())),
        without_instances=tuple(counts.without_instances),
        other_prompts=counts.other_prompts,
        score_eval=score_eval,
        inferred=tuple(name for name, origin in counts.origins.items() if origin == "rows"),
        named=tuple(name for name, origin in counts.origins.items() if origin == "name"),
    ).logged(_log)


def _with_instances(
    found: Iterable[_Prompt], limit: int | None, inputs: Literal["rendered", "fields"], counts: _Counts
) -> tuple[Task, ...]:
    """Return the prompts with rows that can be ranked, as tasks, and count the others."""
    tasks = []
    for task, origin, rows in found:
        instances = _instances(rows, task.category, limit, counts)
        if inputs == "fields":
            instances = tuple(_fields_alone(instance, task.instruction, origin) for instance in instances)
        if instances:
            counts.origins[task.name] = origin
            tasks.append(replace(task, instances=instances))
        else:
            counts.without_instances.append(task.name)
    return tuple(tasks)


def _fields_alone(instance: Instance, instruction: str, origin: Origin) -> Instance:
    given = instance.input if origin == "name" else fields_of(instance.input, instruction)
    return replace(instance, input=given, rendered=instance.input)


def _instances(rows: Iterable[HubRow], dataset: str, limit: int | None, counts: _Counts) -> tuple[Instance, ...]:
    """Return the first `limit` rows that can be ranked, and count the others up to there. Later rows are not read."""
    instances: list[Instance] = []
    for number, text, target, choices in rows:
        lacking = _lacking(text, target, choices)
        if lacking is not None:
            counts.dropped[lacking] += 1
            continue
        instances.append(Instance(f"{dataset}-{number}", text, (target,), choices))
        if len(instances) == limit:
            break
    return tuple(instances)


def _lacking(text: str, target: str, choices: tuple[str, ...] | None) -> str | None:
    if not text.strip():
        return EMPTY
    if choices is None or len(set(choices)) < 2:
        return NO_CHOICES
    if not target:
        return NO_TARGET
    return None if target in choices else NOT_A_CHOICE


def _hub_files(
    folder: Path, sets: Collection[str] | None
) -> tuple[dict[EvaluationSet, dict[str, Path]], tuple[str, ...]]:
    """Return the files of every set by prompt, in order, and the names of files that belong to no set."""
    files: dict[EvaluationSet, dict[str, Path]] = {one: {} for one in EVALUATION_SETS}
    others = []
    for name, path in template_files(folder).items():
        owner = next((one for one in EVALUATION_SETS if one.owns(name)), None)
        if owner is None:
            others.append(name)
        elif sets is None or owner.name in sets:
            files[owner][name] = path
    return files, tuple(others)


def _hub_prompts(
    files: Mapping[EvaluationSet, Mapping[str, Path]], templates: Templates | None, prompts: Prompts, counts: _Counts
) -> Iterator[_Prompt]:
    others = {p3_key(name) for name in _OTHER_PROMPTS}
    for one, paths in files.items():
        for name, path in paths.items():
            if prompts == "original" and p3_key(name) in others:
                counts.other_prompts += 1
                continue
            file = HubFile(path, filled=False)
            instruction, origin = file.instruction(name, one.dataset, templates)
            yield Task(name, one.name, instruction, ()), origin, file.rows()


def sets_with_training_file(folder: Path) -> list[str]:
    """Return the names of the raw sets in a folder that have a training set (`super_glue/cb/train.jsonl`) beside."""
    named = [f"train{ending}" for ending in ENDINGS]
    return [one.name for one in EVALUATION_SETS if any((folder / one.folder / name).is_file() for name in named)]


def _raw_files(
    folder: Path, split: str, sets: Collection[str] | None
) -> tuple[dict[EvaluationSet, Path], tuple[str, ...]]:
    """Return the file of every set in the folder that has one of the split, and the subfolders of other sets."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of evaluation sets, got no folder")
    wanted = [one for one in EVALUATION_SETS if (sets is None or one.name in sets) and (folder / one.folder).is_dir()]
    found = {one: _rows_file(folder / one.folder, split) for one in wanted}
    known = {folder / one.folder for one in EVALUATION_SETS}
    others = {path.parent for path in folder.rglob("*") if path.suffix in ENDINGS} - known
    return found, tuple(sorted(str(path.relative_to(folder)) for path in others))


def _rows_file(folder: Path, split: str) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS and not path.name.startswith("."))
    chosen = files if len(files) == 1 else [path for path in files if path.stem == split]
    if len(chosen) != 1:
        got = ", ".join(path.name for path in files) or "none"
        raise DataError(f"{folder}: expected one file of rows, or one named {split!r}, got {got}")
    return chosen[0]


def _raw_prompts(
    sets: Mapping[EvaluationSet, Path], templates: Path, prompts: Prompts, counts: _Counts
) -> Iterator[_Prompt]:
    for one, path in sets.items():
        found = read_templates(_templates_file(templates, one))
        chosen = [template for template in found if prompts == "all" or template.original_task]
        counts.other_prompts += len(found) - len(chosen)
        for template in chosen:
            template.check()
        rows = list(json_lines(path))
        for name, template in sorted({one.prompt(template.key): template for template in chosen}.items()):
            instruction = template.instruction
            task = Task(name, one.name, instruction or template.name, ())
            yield task, "template" if instruction else "name", _rendered(template, rows)


def _templates_file(templates: Path, one: EvaluationSet) -> Path:
    """Return the file of a set, or of the folder above it, since one file is for all rounds of ANLI."""
    of_set = Path(one.folder)
    for folder in (of_set, of_set.parent):
        if folder != Path(".") and (templates / folder / FILE).is_file():
            return templates / folder / FILE
    raise DataError(f"{templates}: expected a file {of_set / FILE}, got none")


def _rendered(template: PromptTemplate, rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[HubRow]:
    for number, (where, row) in enumerate(rows):
        rendered = template.render(row, where)
        text, *targets = rendered.parts
        # Labels of test sets are hidden. A template that does not check this would select the last choice.
        unlabelled = any(row.get(name, 0) in _UNLABELLED for name in _LABELS)
        yield number, text, "" if unlabelled or not targets else targets[0], rendered.choices
