"""The paper's numbers of training tasks per category, and its cumulative splits (Tables 10 and 11, Figure 3).

`tables/sni_categories.tsv` is Table 10 and `tables/p3_datasets.tsv` is Table 11, both in the order of the paper, which
spells samsum "samsun".
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tagi.data.readers.sni import SNISplit
from tagi.data.task import Task
from tagi.errors import DataError
from tagi.settings.tables import SPLITS

_TABLES = resources.files("tagi") / "data" / "tables"
P3_TABLES: dict[str, Any] = json.loads((_TABLES / "p3.json").read_text(encoding="utf-8"))
"""Evaluation sets of P3, which of their prompts ask for another task, and training datasets that Table 11 lacks."""
SNI_SPLIT_SIZES, P3_SPLIT_SIZES = SPLITS["sni"], SPLITS["p3"]


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """Training tasks of one category: `here` in the data read, `paper` in its table (0: not listed there)."""

    category: str
    here: int
    paper: int


def table10() -> dict[str, int]:
    """Return the number of SNI training tasks per category, in descending order, as in Table 10 (756 in all)."""
    return _counts("sni_categories")


def table11() -> dict[str, int]:
    """Return the number of prompts per P3 training dataset, in the order of Table 11 (36 datasets, 289 prompts)."""
    return _counts("p3_datasets")


def sni_categories(size: int) -> tuple[str, ...]:
    """Return the `size` (6, 15, 30 or 60) largest categories of Table 10. Each split contains the smaller ones.

    Raises `DataError` for any other size.
    """
    if size not in SNI_SPLIT_SIZES:
        raise DataError(f"SNI split: expected {', '.join(map(str, SNI_SPLIT_SIZES))} categories, got {size}")
    return tuple(table10())[:size]


def p3_datasets(size: int) -> tuple[str, ...]:
    """Return the first `size` (5, 10, 20 or 36) datasets of Table 11. Each split contains the smaller ones.

    Raises `DataError` for any other size.
    """
    if size not in P3_SPLIT_SIZES:
        raise DataError(f"P3 split: expected {', '.join(map(str, P3_SPLIT_SIZES))} datasets, got {size}")
    return tuple(table11())[:size]


def p3_key(name: str) -> str:
    """Normalise a P3 name: `cnn_dailymail_3.0.0` becomes `cnn_dailymail_3_0_0`, and `samsun` becomes `samsum`.

    The result has the same length as the name.
    """
    return name.replace(".", "_").replace("samsun", "samsum")


def compare_with_table10(split: SNISplit) -> list[CategoryCount]:
    """Return the tasks per category, as read and in Table 10: in the table's order, then categories not in it."""
    here, paper = split.category_counts, table10()
    return [CategoryCount(name, here.get(name, 0), paper.get(name, 0)) for name in {**paper, **here}]


def limit_to_split(tasks: Sequence[Task], source: str, size: int) -> tuple[Task, ...]:
    """Return the tasks whose category is in the paper's split of `size` categories or datasets, in the same order.

    Raises `DataError` if there is no such split or it contains none of the tasks.
    """
    spelling = p3_key if source == "p3" else str
    chosen = {spelling(name) for name in (p3_datasets(size) if source == "p3" else sni_categories(size))}
    found = tuple(task for task in tasks if spelling(task.category) in chosen)
    if not found:
        got = ", ".join(sorted({repr(task.category) for task in tasks})[:3]) or "no task"
        raise DataError(f"{source} split: expected tasks of its {size} categories, got none of them (of {got})")
    return found


def _counts(table: str) -> dict[str, int]:
    lines = (_TABLES / f"{table}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {name: int(count) for name, count in csv.reader(lines, delimiter="\t")}
