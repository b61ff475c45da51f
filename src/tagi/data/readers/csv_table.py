"""Your own tasks or labelled examples as a table, with one input and its output per row.

The first line has the column names. With a column `instruction`, rows with the same instruction (and the same `task`,
if there is such a column) are a task. Without it, all rows are labelled examples of one task. Commas, semicolons or
tabs separate cells, which may be quoted.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tagi.data.readers._checks import Filled, Row, Text, read_text
from tagi.errors import DataError

SUFFIXES = (".csv", ".tsv")
"""Suffixes of files that are read as tables."""
_COLUMNS = ("instruction", "input", "output", "task", "category", "split", "metric", "choices", "id")
_OF_TASK = ("category", "split", "metric")
_DELIMITERS = ",;\t"
_BETWEEN_CHOICES = "|"
_NAME_WORDS = 6


class _Cells(Row):
    input: Filled
    output: Text


def table_rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the table's tasks or labelled examples as objects of JSON Lines, each after its location for messages.

    Raises `DataError`, with the line, for missing or unknown columns, for a row of a different length, and for an empty
    cell where a text is required.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: expected {what}, one in a row under the names of the columns, got no row")
    if "instruction" in rows[0][1]:
        yield from _tasks(rows)
        return
    for where, cells in rows:
        yield where, _checked(cells, where)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location and the cells by column of every row."""
    text = read_text(path).removeprefix("\ufeff")
    columns, delimiter = _header(text, path)
    reader, begun = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
    try:
        for number, cells in enumerate(reader):
            where, begun = f"{path}: line {begun + 1}", reader.line_num
            if number == 0 or not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise DataError(f"{where}: expected {len(columns)} cells ({', '.join(columns)}), got {len(cells)}")
            yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: line {begun + 1}: expected a row of a table, got: {error}") from error


def _header(text: str, path: Path) -> tuple[list[str], str]:
    """Return the column names and the separator."""
    found: list[list[str]] = []
    for delimiter in _DELIMITERS:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        columns = [cell.strip().lower() for cell in cells]
        if "instruction" in columns or {"input", "output"} <= set(columns):
            odd = next((name for name in columns if name not in _COLUMNS or columns.count(name) > 1), None)
            if odd is not None:
                state = "twice" if odd in _COLUMNS else f"which is none of {', '.join(_COLUMNS)}"
                raise DataError(f"{path}: line 1: column {odd!r}: {state}")
            if ("input" in columns) != ("output" in columns):
                raise DataError(f"{path}: line 1: expected both columns input and output, or neither, got one of them")
            return columns, delimiter
        found.append(cells)
    got = max(found, key=len)
    wanted = "expected the names of columns, input and output or instruction among them"
    raise DataError(f"{path}: line 1: {wanted}, got {', '.join(got)[:60] or 'nothing'}")


def _tasks(rows: list[tuple[str, dict[str, str]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the tasks with their rows, in the order of their first rows."""
    tasks: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    names: dict[str, str] = {}
    for where, cells in rows:
        instruction = cells["instruction"].strip()
        if not instruction:
            raise DataError(f"{where}: instruction: expected text, got an empty cell")
        name = cells.get("task", "").strip() or _name(instruction, names)
        own = {key: value for key in _OF_TASK if (value := cells.get(key, "").strip())}
        fields = {"task": name, "instruction": instruction, **own}
        place, task = tasks.setdefault((name, own.get("split", "")), (where, {**fields, "instances": []}))
        for key in fields.keys() | (task.keys() - {"instances"}):
            if task.get(key) != fields.get(key):
                was, got = task.get(key, "no value"), fields.get(key, "no value")
                raise DataError(
                    f"{where}: {key}: expected {was!r:.60} as for task {name!r} in {place}, got {got!r:.60}"
                )
        if "input" in cells:
            checked = _checked(cells, where)
            chosen = [one.strip() for one in cells.get("choices", "").split(_BETWEEN_CHOICES) if one.strip()]
            given = {"choices": chosen, "id": cells.get("id", "").strip()}
            extra = {key: value for key, value in given.items() if value}
            task["instances"].append({"input": checked["input"], "outputs": [checked["output"]], **extra})
    yield from tasks.values()


def _checked(cells: dict[str, str], where: str) -> dict[str, str]:
    checked = _Cells.checked(cells, where)
    if not checked.output.strip():
        raise DataError(f"{where}: output: expected text, got an empty cell")
    return {"input": checked.input, "output": checked.output}


def _name(instruction: str, names: dict[str, str]) -> str:
    """Return the first words of an instruction, joined by hyphens, with a number if another task has this name."""
    if instruction not in names:
        words = re.findall(r"\w+", instruction.lower())[:_NAME_WORDS]
        plain, number = "-".join(words) or "task", 1
        while (name := plain if number == 1 else f"{plain}-{number}") in names.values():
            number += 1
        names[instruction] = name
    return names[instruction]
