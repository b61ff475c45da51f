"""`tagi verify`: an export read back by PEFT on its base model."""

from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An export of `tagi export --format peft`.")]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="Where its base model is found, if not by the name in it."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="TEXT", help="Compare logits on this text; by default on three of ours."),
]


def verify(folder: Folder, base: Base = None, inputs: Inputs = None, as_json: JsonFlag = False) -> None:
    """Check that an export is whole, is what was exported, and does in PEFT what it does here; exit 1 if not.

    \b
    Examples:
      tagi verify exported
      tagi verify exported --base models/t5 --input "a text of the task" --json
    """
    from tagi.cli.quiet import quiet

    quiet()
    from tagi.formats import verify as verifying

    checks = verifying.verify(folder, base=base, inputs=inputs or verifying.INPUTS)
    print_table(verifying.as_rows(checks), as_json=as_json)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
