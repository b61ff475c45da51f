"""What commands tell of what they are doing: plain lines in time, a line that moves, nothing where it is not asked."""

import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tagi import activity as module
from tagi.activity import QUIET, _Told, activity, counted, telling


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def lines(told: _Told, clock: Clock, seconds: float) -> list[str]:
    """Lines that are told while seconds pass, tenth by tenth."""
    found = []
    for _ in range(round(10 * seconds)):
        clock.now += 0.1
        if line := told.line(clock.now):
            found.append(line)
    return found


def test_lines_begin_after_a_second_and_come_every_two(clock: Clock) -> None:
    told = _Told()
    told.begin("Loading")
    assert lines(told, clock, 0.9) == []
    assert lines(told, clock, 6) == ["Loading ...", "Loading ... 3 s", "Loading ... 5 s"]


def test_silence_grows_only_after_a_minute_and_not_for_ever(clock: Clock) -> None:
    told = _Told()
    told.begin("Converting")
    assert len(lines(told, clock, 60)) in range(28, 32)
    clock.now += 3600
    lines(told, clock, 0.1)
    assert len(lines(told, clock, 100)) in range(9, 12)


def test_short_activities_after_each_other_are_told_too(clock: Clock) -> None:
    told, found = _Told(), []
    for name in ("one", "two", "three", "four"):
        begun = told.begin(name)
        found += lines(told, clock, 0.6)
        told.end(begun)
    assert found == ["two ...", "four ..."]


def test_the_innermost_is_told_and_what_tells_of_itself_is_left_alone(clock: Clock) -> None:
    told = _Told()
    told.begin("Starting")
    outer = told.begin("Scoring")
    inner = told.begin(None)
    assert lines(told, clock, 10) == []
    told.end(inner)
    assert lines(told, clock, 1) == ["Scoring ..."]
    told.end(outer)
    assert told.text() == "Working"


def test_nothing_is_told_unless_a_command_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with activity("Loading") as tell:
        tell("Loaded")
    monkeypatch.setenv(QUIET, "1")
    with telling(), activity("Loading"):
        assert module._told is None
    assert capsys.readouterr() == ("", "")


SCRIPT = """
import sys, time
from tagi import activity
activity._AFTER = activity._EVERY = 0.0
activity._FRAME = 0.01
with activity.telling(), activity.activity("Loading"):
    time.sleep(0.5)
    print("first", flush=True)
    time.sleep(0.5)
    print("half of", end=" ", flush=True)
    time.sleep(0.5)
    print("a line", flush=True)
    time.sleep(0.5)
print("done")
"""


def environment(**further: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != QUIET}, "TERM": "xterm", **further}


def on_a_terminal(script: str, **further: str) -> str:
    """What a script writes to a terminal."""
    ours, theirs = pty.openpty()
    given = environment(**further)
    with subprocess.Popen([sys.executable, "-c", script], env=given, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # the terminal is gone when the process ends
            while read := os.read(ours, 65536):
                text += read
    os.close(ours)
    assert process.returncode == 0
    return text.decode()


def test_a_pipe_gets_whole_lines() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "first\nhalf of a line\ndone\n"
    told = re.compile(r"(Starting|Loading|Working) \.\.\.( \d+ s)?")
    assert all(told.fullmatch(line) for line in ran.stderr.splitlines())
    assert "Loading" in ran.stderr


def test_a_terminal_gets_one_line_that_is_gone_before_anything_is_printed() -> None:
    text = on_a_terminal(SCRIPT)
    assert re.search(r"[|/\\-] Loading \.\.\. \d+ s", text)
    assert "\x1b[Kfirst\r\n" in text
    assert "\x1b[Khalf of a line\r\n" in text  # nothing is drawn over a line that has begun
    assert text.endswith("\r\x1b[Kdone\r\n")


def test_a_terminal_that_cannot_clear_gets_lines() -> None:
    assert "\x1b" not in on_a_terminal(SCRIPT, TERM="dumb")


def test_without_standard_error_nothing_is_told() -> None:
    command = f'exec "{sys.executable}" -c "$1" 2>&-'
    ran = subprocess.run(["sh", "-c", command, "sh", SCRIPT], env=environment(), capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "first\nhalf of a line\ndone\n")


def test_a_text_that_counts_is_told_as_rarely_as_one_that_does_not(clock: Clock) -> None:
    told = _Told()
    begun, found = told.begin("0 of 9"), []
    for number in range(300):
        begun.text = f"{number} of 300"
        found += lines(told, clock, 1)
    assert 20 < len(found) < 80


def test_numbers_have_their_nouns() -> None:
    assert [counted(number, "input") for number in (0, 1, 2)] == ["0 inputs", "1 input", "2 inputs"]
