"""The `tagi` command, also as `python -m tagi`: a process of its own."""

import gc

from tagi.cli.app import main

_THRESHOLD = 50_000
"""Imports make some hundred thousand objects that stay: they are looked through less often than by default."""


def run() -> None:
    """Run the command and exit as `tagi.cli.app.main` does."""
    gc.set_threshold(_THRESHOLD)
    try:
        main()
    finally:
        gc.freeze()  # what is left when the process ends is not looked through again


if __name__ == "__main__":
    run()
