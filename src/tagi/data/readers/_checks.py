"""Checked reading of JSON files. Errors are `DataError`s with the location and the field."""

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
    # JSON can contain a lone surrogate, which tokenizers and UTF-8 files cannot.
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
    """Base class of the fields that a reader takes from a JSON object. Other fields are ignored.

    Values are not converted.
    """

    model_config = ConfigDict(strict=True)

    @classmethod
    def checked(cls: type[R], fields: Any, where: str) -> R:
        """Return the fields of the object at `where`. Raises `DataError` for the first error."""
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
    """Decode UTF-8. `offset` is the position of `raw` in its file, for the message."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        got = f"byte 0x{raw[fault.start]:02x} at byte offset {offset + fault.start}"
        raise DataError(f"{where}: expected UTF-8 text, got {got}") from fault


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields. Raises for duplicate names, of which the parser would silently keep the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twin!r} appears twice")
    return fields


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises `DataError` for invalid JSON, duplicate fields and other JSON values."""
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
    """Yield the location (for messages) and the JSON object of every line that is not blank.

    Raises `DataError` as `parse_object` does, if the file cannot be read, and if it has no objects; `what` names these
    in the message.
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
    # Split bytes at "\n" only: JSON strings may contain other line separators.
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield _object_of(raw, path, number, offset)
        offset += len(raw)


def _object_of(raw: bytes, path: Path, number: int, start: int) -> tuple[str, dict[str, Any]]:
    """Return the location and the JSON object of line `number`, which starts at byte `start` of its file."""
    where = f"{path}: line {number}"
    if number == 1 and raw.startswith(_BYTE_ORDER_MARK):
        raw, start = raw[len(_BYTE_ORDER_MARK) :], start + len(_BYTE_ORDER_MARK)
    # Without the line separator: otherwise an error at the end of the line would be located after it.
    return where, parse_object(decode_utf8(raw.rstrip(b"\r\n"), where, offset=start), where)


class LinesAt:
    """Random access to the JSON objects of a file with one per line. Blank lines are ignored.

    Raises `DataError` as `json_lines` does. Only requested lines are parsed.
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
        """Yield each line's index (from 0, without blank lines), its location for messages, and its object."""
        with self.path.open("rb") as file:
            for at in lines:
                file.seek(self._starts[at])
                yield at, *_object_of(file.readline(), self.path, self._numbers[at], self._starts[at])
