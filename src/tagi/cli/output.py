"""Options that commands share, and printing tables as text or JSON."""

import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.errors import CheckpointError, InputError
from tagi.files import refuse_long_names

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe name, recipe file (TOML), or a file of tasks.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress and measured quality.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. training.steps=10. Can be given several times."
    ),
]

_PIPED_WIDTH = 10_000
_HEADING = 8
"""Headings are not wrapped below this width."""
_WRAPPED = 28
"""Columns of longer texts are wrapped, down to this width; names without a space from twice that length on."""


def print_table(rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print rows that share their keys, as a table with the keys as header or as a JSON list.

    Nothing is truncated. If columns do not fit on a terminal, long texts are wrapped, and further columns follow in
    separate tables that repeat the first column.
    """
    if as_json:
        print_json(rows)
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # there is no screen to fit
        console.width = _PIPED_WIDTH
    unbounded = console.options.update(max_width=_PIPED_WIDTH)

    def fits(table: Any) -> bool:
        return console.measure(table, options=unbounded).minimum <= console.width

    whole = _table(rows, list(rows[0]) if rows else [])
    if not rows or fits(whole):
        console.print(whole)
        return
    first, *others = rows[0]
    shown = [first]
    for key in others:
        if len(shown) > 1 and not fits(_table(rows, [*shown, key], narrow=True)):
            console.print(_table(rows, shown, narrow=True))
            shown = [first]
        shown.append(key)
    console.print(_table(rows, shown, narrow=True))


def _table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], *, narrow: bool = False) -> Any:
    """Return a table of some columns: long texts are wrapped, and with `narrow` headings too."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        numeric = all(isinstance(row[key], int | float) for row in rows)
        cells = [str(row[key]) for row in rows]
        longest = max(map(cell_len, cells))
        wrapped = longest > _WRAPPED and (longest > 2 * _WRAPPED or any(" " in cell for cell in cells))
        words = key.replace("_", " ").split() or [""]
        width = max(_WRAPPED if wrapped else longest, min(len(key), _HEADING), *map(cell_len, words))
        table.add_column(
            "\n".join(textwrap.wrap(" ".join(words), width)) if narrow else " ".join(words),
            justify="right" if numeric else "left",
            no_wrap=not wrapped,
            overflow="fold",
            min_width=width if narrow else max(width, cell_len(" ".join(words))),
        )
    for row in rows:
        table.add_row(*(Text(str(row[key])) for key in keys))
    return table


def print_record(record: Any, print_text: Callable[[Any], None], *, as_json: bool) -> None:
    """Print a record as JSON, or as text with `print_text`."""
    if as_json:
        print_json(record)
    else:
        print_text(record)


def refuse_used(out: Path | None) -> None:
    """Raise `TagiError` if `--out` is a folder with files, a file or below one, or if a new name in it is too long."""
    if out is None:
        return
    made = [place.name for place in out.parents if not os.path.exists(place)]
    refuse_long_names([*made, out.name], "--out")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out: expected a new folder, got one that holds files: {out}")
    file = next((place for place in (out, *out.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"--out: expected a new folder, got a file: {file}")


def quality_line(source: str | None) -> str | None:
    """Return what to expect of the generator that a name finds, or None if that was not measured.

    A record that cannot be read gives a warning on standard error: what was asked for does not depend on it.
    """
    from tagi.formats.finding import find_checkpoint
    from tagi.formats.quality import Quality

    try:
        quality = None if source is None else Quality.find(find_checkpoint(source))
    except CheckpointError as error:
        typer.echo(f"warning: {error}", err=True)
        return None
    return None if quality is None else quality.line


def print_quality(source: str | None) -> None:
    """Print `quality_line` on standard error."""
    if line := quality_line(source):
        typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, text unescaped."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def interval_text(bounds: Sequence[float], form: str = ".1f") -> str:
    """Format an interval: "12.3 to 14.5"."""
    return " to ".join(f"{bound:{form}}" for bound in bounds)
