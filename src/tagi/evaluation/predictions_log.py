"""A JSON Lines file that is written task by task, so that an interrupted evaluation can continue."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tagi.errors import DataError
from tagi.evaluation.scoring.statistics import group_by
from tagi.files import write_text


def predictions_file(condition: str) -> str:
    """Return the name of the file with the answers under a condition. It is next to the evaluation's record."""
    words = re.sub(r"[^\w]+", "-", condition)
    return f"predictions-{words}.jsonl"


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a finished file. Raises `DataError` if it does not exist or a line is not an answer."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: expected an evaluation's predictions, got: {error}") from error
    return _answers(path, text.removesuffix("\n"))


class TaskLog:
    """A file with the lines of finished tasks. Every line is an object with its task's name under `task_id`.

    When the file is opened, lines of an unfinished task and a truncated last line are dropped.

    Args:
        path: The file. It need not exist.
        sizes: Number of lines of each task.

    Raises `DataError` for a damaged line, and for answers to tasks that are not in `sizes`.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        self.path = path
        self._sizes = dict(sizes)
        self._lines: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            self._read()

    def __contains__(self, task: str) -> bool:
        return task in self._lines

    def lines(self, task: str) -> list[dict[str, Any]]:
        """Return the lines of a finished task."""
        return self._lines[task]

    def append(self, task: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add a task's lines, and return when they are written to disk."""
        if len(lines) != self._sizes[task]:
            raise ValueError(f"expected {self._sizes[task]} lines of task {task!r}, got {len(lines)}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_text(line) for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self._lines[task] = [dict(line) for line in lines]

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, _, truncated = text.rpartition("\n")
        found = group_by(_answers(self.path, whole), lambda content: str(content["task_id"]))
        foreign = sorted(set(found) - set(self._sizes))
        if foreign:
            raise DataError(f"{self.path}: expected answers to this evaluation's tasks, got some to {foreign[0]!r}")
        self._lines = {task: lines for task, lines in found.items() if len(lines) == self._sizes[task]}
        if truncated or len(self._lines) < len(found):
            kept = (_text(line) for lines in self._lines.values() for line in lines)
            write_text(self.path, "".join(kept))


def _answers(path: Path, whole: str) -> list[dict[str, Any]]:
    answers = []
    for number, line in enumerate(whole.split("\n") if whole else (), start=1):  # texts may hold other separators
        try:
            content = json.loads(line)
            hash(content["task_id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: expected an answer as JSON, got {line[:60]!r}") from error
        answers.append(content)
    return answers


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
