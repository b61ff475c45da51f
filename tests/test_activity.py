"""What commands tell of what they are doing: plain lines in time, a line that moves, nothing where it is not asked."""

import os
import pty
import subprocess
import sys
import time

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
import time
from tagi import activity
activity._AFTER = activity._EVERY = 0.0
activity._FRAME = 0.01
with activity.telling(), activity.activity("Loading"):
    time.sleep(0.5)
print("done")
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != QUIET}


def test_a_pipe_gets_whole_lines() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "done\n"
    assert set(ran.stderr.splitlines()) <= {"Starting ... 0 s", "Loading ... 0 s", "Loading ...", "Starting ..."}
    assert "Loading" in ran.stderr


def test_a_terminal_gets_one_line_that_is_gone_at_the_end() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment(), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        process.wait()
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "| Loading ... 0 s" in text.replace("/", "|").replace("-", "|").replace("\\", "|")
    assert text.endswith("\r\x1b[Kdone\r\n")


def test_numbers_have_their_nouns() -> None:
    assert [counted(number, "input") for number in (0, 1, 2)] == ["0 inputs", "1 input", "2 inputs"]
