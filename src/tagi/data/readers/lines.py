"""Inputs as lines of text."""

from tagi.errors import InputError


def read_lines(content: bytes, where: str) -> list[str]:
    """The lines of a UTF-8 text, ended by `\\n` or `\\r\\n`.

    Raises `InputError`, naming the place, for other bytes, for an empty line and for no line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected UTF-8 text, got byte 0x{content[error.start]:02x} at {error.start}"
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()  # what follows the last line's end
    if not lines:
        raise InputError(f"{where}: expected one input a line, got nothing")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"{where}, line {number}: expected an input, got an empty line")
    return lines
