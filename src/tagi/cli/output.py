"""What commands share: options, and how they print tables to read and the same as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.errors import InputError
from tagi.files import refuse_long_names

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or TOML file, or a file of tasks.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, such as training.steps=10."),
]

_PIPED_WIDTH = 10_000


def print_table(rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print rows with the same keys in the same order: as a table headed by the keys, or as a JSON list."""
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
    if not console.is_terminal:  # there is no screen to fit: numbers are not truncated
        console.width = _PIPED_WIDTH
    console.print(table)


def print_record(record: Any, print_text: Callable[[Any], None], *, as_json: bool) -> None:
    """Print a record as JSON, or else as text by `print_text`."""
    if as_json:
        print_json(record)
    else:
        print_text(record)


def refuse_used(out: Path | None) -> None:
    """Raise `TagiError` if `--out` is a folder that holds files, is or lies in a file, or has too long a name."""
    if out is None:
        return
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out: expected a new folder, got one that holds files: {out}")
    file = next((place for place in (out, *out.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"--out: expected a new folder, got a file: {file}")
    refuse_long_names(out.parts, "--out")


def print_json(value: Any) -> None:
    """Print a value as JSON, text unescaped."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def interval_text(bounds: Sequence[float], form: str = ".1f") -> str:
    """Return an interval in words: "12.3 to 14.5"."""
    return " to ".join(f"{bound:{form}}" for bound in bounds)
