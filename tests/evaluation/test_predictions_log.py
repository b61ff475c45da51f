"""Files of answers grow by the task; what an interruption cut is dropped, what is foreign is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.errors import DataError
from tagi.evaluation.predictions_log import TaskLog

SIZES = {"a": 2, "b": 3}
SEPARATOR = "\u2028"  # an end of line to some readers, not to JSON Lines


def lines(task: str, count: int) -> list[dict[str, Any]]:
    return [{"task_id": task, "prediction": f"ü{SEPARATOR}{at}"} for at in range(count)]


def test_tasks_are_found_again(tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "deep" / "log.jsonl", SIZES)
    assert "a" not in log
    log.append("a", lines("a", 2))
    log.append("b", lines("b", 3))
    again = TaskLog(tmp_path / "deep" / "log.jsonl", SIZES)
    for task, size in SIZES.items():
        assert again.lines(task) == log.lines(task) == lines(task, size)


@pytest.mark.parametrize("cut", [1, 30, 60, 61, 100])
def test_what_was_cut_is_dropped_and_done_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.jsonl"
    log = TaskLog(path, SIZES)
    log.append("b", lines("b", 3))
    whole = path.read_bytes()
    log.append("a", lines("a", 2))
    end = path.read_bytes()
    path.write_bytes(end[:-cut] if cut < len(end) - len(whole) else whole[:-1])
    again = TaskLog(path, SIZES)
    assert "a" not in again
    kept = whole if "b" in again else b""
    assert path.read_bytes() == kept
    for task in set(SIZES) - set(again._lines):
        again.append(task, lines(task, SIZES[task]))
    assert sorted(path.read_text(encoding="utf-8").split("\n")) == sorted(end.decode().split("\n"))


@pytest.mark.parametrize("line", ["{", "[]", '{"prediction": "x"}', "7"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(lines("a", 1)[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"log\.jsonl, line 2: expected an answer as JSON"):
        TaskLog(path, SIZES)


def test_another_evaluations_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(lines("c", 1)[0]) + "\n")
    with pytest.raises(DataError, match="got some to 'c'"):
        TaskLog(path, SIZES)
    with pytest.raises(ValueError, match="expected 2 lines of task 'a', got 1"):
        TaskLog(tmp_path / "other.jsonl", SIZES).append("a", lines("a", 1))
