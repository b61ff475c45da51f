"""What the `run_tagi` fixture gives: how a command ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ran:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


class Run(Protocol):
    """Run `tagi` with these arguments."""

    def __call__(self, *arguments: str | Path) -> Ran: ...
