"""Progress messages of commands on standard error.

On a terminal, one line is updated, and cleared before the command prints anything; otherwise plain lines are written.
Activities of less than a second are not shown. Messages are shown only inside `telling`, which commands use: the Python
API is silent.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event, Lock, Thread
from typing import Any, TextIO

QUIET = "TAGI_QUIET"
"""Environment variable that turns progress messages off."""
_AFTER, _EVERY, _LONGEST, _SHARE = 1.0, 2.0, 10.0, 30.0
"""Seconds until an activity is shown; minimum and maximum seconds between lines; between these, the interval is a 30th
of the time that the activity has taken."""
_FRAME = 0.1
"""Seconds between updates of the line on a terminal."""
_COLUMNS = 80
"""Width of a terminal that does not report its width."""
_PICTURES = "|/-\\"
_STARTING, _WORKING = "Starting", "Working"


class _Activity:
    """A running activity. Its text is None if it reports its own progress."""

    def __init__(self, text: str | None) -> None:
        self.text = text


class _Told:
    """The running activities, innermost last."""

    def __init__(self) -> None:
        self.running: list[_Activity] = []
        self.began = self.last = time.monotonic()
        self.shown: _Activity | None = None
        self.ended = Event()

    def begin(self, what: str | None) -> _Activity:
        """Start an activity and return it."""
        self.running.append(made := _Activity(what))
        self.began = time.monotonic()
        return made

    def end(self, one: _Activity) -> None:
        """End an activity. If the enclosing activity is "Starting", it becomes "Working"."""
        self.running.remove(one)
        self.began = time.monotonic()
        if self.running and self.running[0].text == _STARTING:
            self.running[0].text = _WORKING

    def text(self) -> str | None:
        """Return the text of the innermost activity."""
        return self.running[-1].text if self.running else None

    def line(self, now: float) -> str | None:
        """Return the line that is due if standard error is not a terminal, or None."""
        running, lasted = self.running[-1:], now - self.began
        text = running[0].text if running else None
        due = _AFTER if running != [self.shown] else min(max(_EVERY, lasted / _SHARE), _LONGEST)
        if text is None or now - self.last < due:
            return None
        self.last, self.shown = now, running[0]
        return f"{text} ..." if lasted < _EVERY else f"{text} ... {lasted:.0f} s"


_told: _Told | None = None


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 input", "2 inputs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def activity(what: str | None) -> Iterator[Callable[[str], None]]:
    """Show an activity while a `with` block runs, instead of the enclosing activity.

    Args:
        what: Text of the activity, such as "Loading smollm2". None if it reports its own progress.

    Yields:
        A function that replaces the text.
    """
    told = _told
    if told is None:
        yield lambda text: None
        return
    begun = told.begin(what)

    def replace(text: str) -> None:
        begun.text = text

    try:
        yield replace
    finally:
        told.end(begun)


def on_terminal() -> bool:
    """Return whether standard error is a terminal. A process may have none at all."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def bar_of_library(hide: Callable[[], None], show: Callable[[], None]) -> Iterator[None]:
    """Let a library show its own progress bar on a terminal, instead of our messages; hide the bar otherwise.

    Args:
        hide: Turns the bar off.
        show: Turns it on again.
    """
    if on_terminal():
        with activity(None):
            yield
        return
    hide()
    try:
        yield
    finally:
        show()


@contextmanager
def telling() -> Iterator[None]:
    """Show activities on standard error while a `with` block runs; of several processes, in the first one only."""
    global _told
    streams = sys.stdout, sys.stderr
    if sys.stderr is None or os.environ.get(QUIET) or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    _told = told = _Told()
    told.begin(_STARTING)
    if on_terminal() and os.environ.get("TERM") != "dumb":
        line = _Line(sys.stderr)
        sys.stdout, sys.stderr = (stream and _Clearing(stream, line) for stream in streams)
        thread = Thread(target=_move, args=(told, line), daemon=True)
    else:
        thread = Thread(target=_write, args=(told, sys.stderr), daemon=True)
    thread.start()
    try:
        yield
    finally:
        be_quiet()
        thread.join()
        sys.stdout, sys.stderr = streams


def be_quiet() -> None:
    """Show no further messages."""
    global _told
    if _told is not None:
        _told.ended.set()
    _told = None


class _Line:
    """The last line of a terminal. What is drawn there is cleared before other output."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self.lock = Lock()
        self._drawn = False
        self._free = True  # the last output ended with a line break

    def draw(self, text: str) -> None:
        """Replace the drawn text, unless other output has started a line."""
        with self.lock:
            if self._free:
                self.terminal.write(f"\r\x1b[K{text}\r")
                self.terminal.flush()
                self._drawn = True

    def clear(self) -> None:
        """Clear the drawn text."""
        with self.lock:
            self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self.terminal.write("\r\x1b[K")
            self.terminal.flush()
            self._drawn = False

    def written(self, stream: TextIO, text: str) -> int:
        """Clear the drawn text and write to a stream."""
        with self.lock:
            self._clear()
            self._free = text.endswith("\n") if text else self._free
            return stream.write(text)


class _Clearing:
    """A wrapper of a stream that clears the drawn line before it writes."""

    def __init__(self, stream: TextIO, line: _Line) -> None:
        self._stream, self._line = stream, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        return self._line.written(self._stream, text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)


def _write(told: _Told, stream: TextIO) -> None:
    """Write lines until the command ends."""
    while not told.ended.wait(_FRAME):
        if line := told.line(time.monotonic()):
            print(line, file=stream, flush=True)


def _move(told: _Told, line: _Line) -> None:
    """Update a line on the terminal until the command ends, and clear it then."""
    drawn = False
    for number in count():
        ended, text = told.ended.wait(_FRAME), told.text()
        lasted = time.monotonic() - told.began
        drawn = text is not None and not ended and (drawn or lasted >= _AFTER / 2)
        if drawn:
            picture = f"{_PICTURES[number % len(_PICTURES)]} {text} ... {lasted:.0f} s"
            line.draw(picture[: _columns(line.terminal) - 1])
        else:
            line.clear()
        if ended:
            return


def _columns(terminal: TextIO) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
