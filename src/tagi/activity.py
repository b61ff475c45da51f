"""What a command is doing, told on standard error while it lasts, so that nothing is silent for long.

On a terminal it is a line that moves; elsewhere plain lines. What takes less than a second is not told. Nothing is told
unless a command asks for it (`telling`): the Python API is silent.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

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
        self.shown: str | None = None
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
        text, lasted = self.text(), now - self.began
        due = _AFTER if text != self.shown else min(max(_EVERY, lasted / _SHARE), _LONGEST)
        if text is None or now - self.last < due:
            return None
        self.last, self.shown = now, text
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
    if os.environ.get(QUIET) or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    _told = told = _Told()
    told.begin(_STARTING)
    thread = Thread(target=_move if sys.stderr.isatty() else _write, args=(told,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        be_quiet()
        thread.join()


def be_quiet() -> None:
    """Tell nothing from now on."""
    global _told
    if _told is not None:
        _told.ended.set()
    _told = None


def _write(told: _Told) -> None:
    """Write lines while the command lasts."""
    while not told.ended.wait(_FRAME):
        if line := told.line(time.monotonic()):
            print(line, file=sys.stderr, flush=True)


def _move(told: _Told) -> None:
    """Show a line that moves while the command lasts, and leave none behind."""
    drawn = False
    for number in count():
        ended, text = told.ended.wait(_FRAME), told.text()
        lasted = time.monotonic() - told.began
        if text is not None and not ended and (drawn or lasted >= _AFTER / 2):
            picture = f"{_PICTURES[number % len(_PICTURES)]} {text} ... {lasted:.0f} s"
            # The cursor goes back to the start, so that whatever else is printed takes the line's place.
            sys.stderr.write(f"\r\x1b[K{picture[: _columns() - 1]}\r")
            drawn = True
        elif drawn:
            sys.stderr.write("\r\x1b[K")
            drawn = False
        sys.stderr.flush()
        if ended:
            return


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
