"""JSON files as the readers of tasks and texts take them: faults are `DataError`s that name the place and the field."""

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tagi.errors import DataError
from tagi.settings.faults import fault_sentence, shown

R = TypeVar("R", bound="Row")

_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _unicode(text: str) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer and no file can hold.
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("expected Unicode text, got a lone surrogate")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("expected text, got an empty string")
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Filled = Annotated[Text, AfterValidator(_not_blank)]
"""Text with something other than white space in it."""
Stripped = Annotated[Filled, AfterValidator(str.strip)]
"""The same without the white space around it."""
Texts = Annotated[list[Text], Field(min_length=1)]
"""At least one text."""


class Row(BaseModel):
    """Fields that a reader takes from a JSON object. Other fields are ignored, and no value is converted."""

    model_config = ConfigDict(strict=True)

    @classmethod
    def checked(cls: type[R], fields: Any, where: str) -> R:
        """Return the fields of the object that is at `where`. Raises `DataError` on the first fault."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            sentence = fault_sentence(error.errors(include_url=False)[0]).removeprefix(": ")
            raise DataError(f"{where}: {sentence}") from error


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises `DataError` if it cannot be read or is not UTF-8."""
    try:
        return decode_utf8(path.read_bytes(), str(path))
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror})") from fault


def decode_utf8(raw: bytes, where: str, *, offset: int = 0) -> str:
    """Return UTF-8 text. `offset` is where `raw` starts in its file, so that the message names the file's own byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        got = f"byte 0x{raw[fault.start]:02x} at byte offset {offset + fault.start}"
        raise DataError(f"{where}: expected UTF-8 text, got {got}") from fault


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields. JSON itself would silently keep the last of two with one name."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twin!r} appears twice")
    return fields


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises `DataError` on invalid JSON, a field given twice and any other JSON value."""
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as fault:
        place = f"line {fault.lineno}, " * ("\n" in text.strip()) + f"column {fault.colno}"
        raise DataError(f"{where}: invalid JSON at {place}: {fault.msg}") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{where}: invalid JSON: {str(fault).splitlines()[0]}") from fault
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {shown(value)}")
    return value


def json_lines(path: Path, what: str = "rows") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON object of every line that is not blank, after its place for messages.

    Raises `DataError` as `parse_object` does, if the file cannot be read, and if it holds no objects, which the message
    calls `what`.
    """
    empty = True
    for line in objects_of(_lines(path), path):
        empty = False
        yield line
    if empty:
        raise DataError(f"{path}: expected {what}, one JSON object a line, got an empty file")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file. Raises `DataError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror})") from fault


def objects_of(file: Iterable[bytes], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON objects of an open file as `json_lines` does."""
    offset = 0
    # By bytes and at "\n" alone: other line separators may be inside a JSON string.
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield _object_of(raw, path, number, offset)
        offset += len(raw)


def _object_of(raw: bytes, path: Path, number: int, start: int) -> tuple[str, dict[str, Any]]:
    """Return the JSON object of the `number`-th line, which starts at byte `start` of its file, after its place."""
    where = f"{path}: line {number}"
    if number == 1 and raw.startswith(_BYTE_ORDER_MARK):
        raw, start = raw[len(_BYTE_ORDER_MARK) :], start + len(_BYTE_ORDER_MARK)
    # Without the line's end: a fault at the end of the line would point behind it.
    return where, parse_object(decode_utf8(raw.rstrip(b"\r\n"), where, offset=start), where)


class LinesAt:
    """The JSON objects of a file, one a line, any of which is read without the others. Blank lines do not count.

    Raises `DataError` as `json_lines` does; a line that is never asked for is not parsed.
    """

    def __init__(self, path: Path, what: str = "rows") -> None:
        self.path = path
        self._starts, self._numbers = array("Q"), array("Q")
        offset = 0
        for number, raw in enumerate(_lines(path), start=1):
            if raw.strip():
                self._starts.append(offset)
                self._numbers.append(number)
            offset += len(raw)
        if not self._starts:
            raise DataError(f"{path}: expected {what}, one JSON object a line, got an empty file")

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, lines: Iterable[int]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield each line's number (from 0, without blank ones), its place for messages, and its object."""
        with self.path.open("rb") as file:
            for at in lines:
                file.seek(self._starts[at])
                yield at, *_object_of(file.readline(), self.path, self._numbers[at], self._starts[at])
