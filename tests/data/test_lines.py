"""Inputs as lines of text."""

import pytest

from tagi.data.readers.lines import read_lines
from tagi.errors import InputError


@pytest.mark.parametrize("content", [b"one\ntwo", b"one\ntwo\n", b"one\r\ntwo\r\n", b"one\r\ntwo\n"])
def test_lines_with_any_ending(content: bytes) -> None:
    assert read_lines(content, "here") == ["one", "two"]


def test_only_newlines_end_a_line() -> None:
    text = "a\u2028b\x0bc\x85d\re"
    assert read_lines(text.encode(), "here") == [text]
    assert read_lines(" é \n".encode(), "here") == [" é "]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in.txt: expected one input a line, got nothing"),
        (b"\n", "in.txt, line 1: expected an input, got an empty line"),
        (b"one\n\ntwo\n", "in.txt, line 2: expected an input, got an empty line"),
        (b"one\n \t\r\n", "in.txt, line 2: expected an input, got an empty line"),
        (b"one\n\n", "in.txt, line 2: expected an input, got an empty line"),
        (b"on\xffe", "in.txt: expected UTF-8 text, got byte 0xff at 2"),
    ],
)
def test_faults_are_named(content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lines(content, "in.txt")
    assert str(caught.value) == message
