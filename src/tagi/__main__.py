"""The `tagi` command, also as `python -m tagi`: a process of its own."""

import gc
from typing import Any

from tagi.cli.app import main

_THRESHOLD, _TIMES = 50_000, 8
"""Imports make some hundred thousand objects that stay: the first are looked through less often than by default."""


def run() -> None:
    """Run the command and exit as `tagi.cli.app.main` does."""
    usual, left = gc.get_threshold(), [_TIMES]

    def collected(phase: str, info: dict[str, Any]) -> None:
        left[0] -= phase == "stop"
        if left[0] <= 0 and collected in gc.callbacks:
            gc.callbacks.remove(collected)
            gc.set_threshold(*usual)

    gc.callbacks.append(collected)
    gc.set_threshold(_THRESHOLD)
    try:
        main()
    finally:
        gc.freeze()  # what is left when the process ends is not looked through again


if __name__ == "__main__":
    run()
