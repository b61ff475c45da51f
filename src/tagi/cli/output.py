"""Options that commands share, and printing tables as text or JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe name, recipe file (TOML), or a file of tasks.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. training.steps=10. Can be given several times."
    ),
]

_PIPED_WIDTH = 10_000


def print_table(rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print rows that share their keys, as a table with the keys as header or as a JSON list."""
    if as_json:
        print_json(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in rows[0] if rows else ():
        numeric = all(isinstance(row[key], int | float) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # no screen width to fit: do not truncate numbers
        console.width = _PIPED_WIDTH
    console.print(table)


def print_record(record: Any, print_text: Callable[[Any], None], *, as_json: bool) -> None:
    """Print a record as JSON, or as text with `print_text`."""
    if as_json:
        print_json(record)
    else:
        print_text(record)


def refuse_used(out: Path | None) -> None:
    """Raise `InputError` if `--out` is a file or a folder that is not empty."""
    from tagi.errors import InputError

    if out is not None and out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"--out: expected a new folder, got {out}, which is a file or holds files")


def print_json(value: Any) -> None:
    """Print a value as JSON, text unescaped."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def interval_text(bounds: Sequence[float], form: str = ".1f") -> str:
    """Format an interval: "12.3 to 14.5"."""
    return " to ".join(f"{bound:{form}}" for bound in bounds)
