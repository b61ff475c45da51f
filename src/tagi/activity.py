"""What a command is doing, told on standard error while it lasts, so that nothing is silent for long.

On a terminal it is a line that moves, and that is cleared before a command prints anything; elsewhere plain lines. What
takes less than a second is not told. Nothing is told unless a command asks for it (`telling`): Python code is silent.
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
"""Commands tell nothing where this variable of the environment is set."""
_AFTER, _EVERY, _LONGEST, _SHARE = 1.0, 2.0, 10.0, 30.0
"""Seconds until an activity is told; between lines, at least and at most; in a long activity a 30th of its time."""
_FRAME = 0.1
"""Seconds between two pictures of a line that moves."""
_COLUMNS = 80
"""Width of a terminal that does not say how wide it is."""
_PICTURES = "|/-\\"
_STARTING, _WORKING = "Starting", "Working"


class _Activity:
    """Something that goes on; without a text something that tells of itself."""

    def __init__(self, text: str | None) -> None:
        self.text = text


class _Told:
    """Everything that goes on now, the innermost last."""

    def __init__(self) -> None:
        self.running: list[_Activity] = []
        self.began = self.last = time.monotonic()
        self.shown: _Activity | None = None
        self.ended = Event()

    def begin(self, what: str | None) -> _Activity:
        """Add an activity and return it."""
        self.running.append(made := _Activity(what))
        self.began = time.monotonic()
        return made

    def end(self, one: _Activity) -> None:
        """Take an activity away. What goes on around it is not the start any more."""
        self.running.remove(one)
        self.began = time.monotonic()
        if self.running and self.running[0].text == _STARTING:
            self.running[0].text = _WORKING

    def text(self) -> str | None:
        """Return what is told now."""
        return self.running[-1].text if self.running else None

    def line(self, now: float) -> str | None:
        """Return the line that is due on what is no terminal, if any."""
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
    """Tell that something goes on for the length of a `with` block, in place of what goes on around it.

    Args:
        what: What goes on, such as "Loading smollm2". None for something that tells of its progress itself.

    Yields a function that replaces the text.
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


@contextmanager
def telling() -> Iterator[None]:
    """Tell of activities on standard error for the length of a `with` block, in one process of several."""
    global _told
    streams = sys.stdout, sys.stderr
    if sys.stderr is None or os.environ.get(QUIET) or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    _told = told = _Told()
    told.begin(_STARTING)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
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
    """Tell nothing from now on."""
    global _told
    if _told is not None:
        _told.ended.set()
    _told = None


class _Line:
    """A terminal's last line: what is drawn there goes away before anything else is written."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self.lock = Lock()
        self._drawn = False
        self._free = True  # what was written last has ended its line

    def draw(self, text: str) -> None:
        """Draw over what is drawn, unless somebody else has begun a line."""
        with self.lock:
            if self._free:
                self.terminal.write(f"\r\x1b[K{text}\r")
                self.terminal.flush()
                self._drawn = True

    def clear(self) -> None:
        """Take away what is drawn."""
        with self.lock:
            self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self.terminal.write("\r\x1b[K")
            self.terminal.flush()
            self._drawn = False

    def written(self, stream: TextIO, text: str) -> int:
        """Write something else to a stream, in place of what is drawn."""
        with self.lock:
            self._clear()
            self._free = text.endswith("\n") if text else self._free
            return stream.write(text)


class _Clearing:
    """A stream like another; the line that moves is cleared before it writes."""

    def __init__(self, stream: TextIO, line: _Line) -> None:
        self._stream, self._line = stream, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        return self._line.written(self._stream, text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write texts one after another."""
        for text in texts:
            self.write(text)


def _write(told: _Told, stream: TextIO) -> None:
    """Write lines while the command lasts."""
    while not told.ended.wait(_FRAME):
        if line := told.line(time.monotonic()):
            print(line, file=stream, flush=True)


def _move(told: _Told, line: _Line) -> None:
    """Show a line that moves while the command lasts, and leave none behind."""
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
