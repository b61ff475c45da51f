"""Checks that the readers of task files share; a fault is a `DataError` naming the place and the field."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tagi.errors import DataError

_SHOWN = 60
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def shown(value: object) -> str:
    """A value as one short line with its type, for a message."""
    text = repr(value)
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 3] + "..."
    return f"{text} ({type(value).__name__})"


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises `DataError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror})") from fault


def decode_utf8(raw: bytes, where: str, *, offset: int = 0) -> str:
    """UTF-8 text; `offset` is where `raw` starts in its file, so that the fault names the file's own byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        got = f"byte 0x{raw[fault.start]:02x} at byte offset {offset + fault.start}"
        raise DataError(f"{where}: expected UTF-8 text, got {got}") from fault


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields are all different; JSON itself would quietly keep the last of two."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twin!r} appears twice")
    return fields


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises `DataError` on invalid JSON, a field given twice and any other JSON value."""
    try:
        value = json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as fault:
        place = f"line {fault.lineno}, " * ("\n" in text.strip()) + f"column {fault.colno}"
        raise DataError(f"{where}: invalid JSON at {place}: {fault.msg}") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{where}: invalid JSON: {str(fault).splitlines()[0]}") from fault
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {shown(value)}")
    return value


def json_lines(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the JSON object of every line that is not blank: the line's number, its place for messages, the object.

    Raises `DataError` if the file cannot be read, and as `parse_object` does.
    """
    try:
        with path.open("rb") as file:
            yield from numbered_objects(file, path)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror})") from fault


def numbered_objects(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the JSON objects of an open file as `json_lines` does."""
    offset = 0
    # By bytes and at "\n" alone: other line separators may stand inside a JSON string.
    for number, raw in enumerate(file, start=1):
        start, offset = offset, offset + len(raw)
        if number == 1 and raw.startswith(_BYTE_ORDER_MARK):
            raw, start = raw[len(_BYTE_ORDER_MARK) :], start + len(_BYTE_ORDER_MARK)
        if raw.strip():
            where = f"{path}: line {number}"
            # Without the line's end: a fault at the end of the line would point behind it.
            yield number, where, parse_object(decode_utf8(raw.rstrip(b"\r\n"), where, offset=start), where)


def only_known(fields: dict[str, Any], known: Sequence[str], where: str) -> None:
    """Raises `DataError` naming the first field that is not known."""
    for name in fields:
        if name not in known:
            raise DataError(f"{where}: unknown field {name!r}, expected {', '.join(known)}")


def required(fields: dict[str, Any], name: str, where: str) -> Any:
    """The field's value; `DataError` when it is absent."""
    if name not in fields:
        raise DataError(f"{where}: field {name!r} is missing")
    return fields[name]


def as_text(value: Any, field: str, where: str, *, filled: bool = False) -> str:
    """`value` as a string (with something other than white space in it if `filled`)."""
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r}: expected a string, got {shown(value)}")
    if filled and not value.strip():
        raise DataError(f"{where}: field {field!r}: expected text, got an empty string")
    # JSON can spell half a surrogate pair, which no tokenizer and no file can take.
    if not value.isascii() and _SURROGATE.search(value):
        raise DataError(f"{where}: field {field!r}: expected Unicode text, got a lone surrogate")
    return value


def as_list(value: Any, field: str, where: str, *, filled: bool = False) -> list[Any]:
    """`value` as a list (with at least one element if `filled`)."""
    if not isinstance(value, list):
        raise DataError(f"{where}: field {field!r}: expected a list, got {shown(value)}")
    if filled and not value:
        raise DataError(f"{where}: field {field!r}: expected at least one element, got an empty list")
    return value


def as_texts(value: Any, field: str, where: str, *, filled: bool = False) -> tuple[str, ...]:
    """`value` as a tuple of strings (at least one if `filled`)."""
    return tuple(
        as_text(item, f"{field}[{index}]", where)
        for index, item in enumerate(as_list(value, field, where, filled=filled))
    )


def as_object(value: Any, where: str) -> dict[str, Any]:
    """`value` as a JSON object."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {shown(value)}")
    return value
