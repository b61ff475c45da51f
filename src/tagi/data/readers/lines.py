"""Inputs as lines of text."""

from tagi.errors import InputError


def read_lines(content: bytes, where: str) -> list[str]:
    """Return the lines of a UTF-8 text, separated by `\\n` or `\\r\\n`.

    Raises `InputError`, with the location, for bytes that are not UTF-8, for an empty line, and for an empty text.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected UTF-8 text, got byte 0x{content[error.start]:02x} at {error.start}"
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()  # the empty text after the last line break
    if not lines:
        raise InputError(f"{where}: expected one input a line, got nothing")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"{where}, line {number}: expected an input, got an empty line")
    return lines
