"""The everyday benchmark: 24 everyday tasks that come with the package, for evaluation only."""

import filecmp
from pathlib import Path

from tagi.data.readers.jsonl import read_jsonl
from tagi.data.task import Task

EVERYDAY_FILE = Path(__file__).parent / "tasks.jsonl"
"""The benchmark's JSON Lines file."""


def everyday_tasks() -> list[Task]:
    """Return the benchmark's tasks, in file order. Each has a metric, eight instances and three paraphrases."""
    return read_jsonl(EVERYDAY_FILE)


def read(path: str | None, split: str, seed: int) -> list[Task]:
    """Return the benchmark's tasks whatever is asked for, as the reader of a data set."""
    return everyday_tasks()


def is_everyday_file(path: Path) -> bool:
    """Return whether a file has the same content as the benchmark's file, wherever it lies."""
    try:
        return filecmp.cmp(path, EVERYDAY_FILE, shallow=False)
    except OSError:  # whoever reads the file says what is wrong with it
        return False
