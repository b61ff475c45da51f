"""`tagi verify`: read an export back with PEFT on its base model."""

from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder written by `tagi export --format peft`.")]
Base = Annotated[
    str | None, typer.Option("--base", metavar="NAME", help="Base model. Default: the one the export names.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="TEXT", help="Text to compare logits on. Default: three built-in texts."),
]


def verify(folder: Folder, base: Base = None, inputs: Inputs = None, as_json: JsonFlag = False) -> None:
    """Check that an export is complete and unchanged, and that PEFT computes the same logits. Exits with 1 if not.

    \b
    Examples:
      tagi verify exported
      tagi verify exported --base models/t5 --input "a text of the task" --json
    """
    from tagi.api.export import verify as run
    from tagi.formats.verify import INPUTS, as_rows

    checks = run(folder, base=base, inputs=inputs or INPUTS)
    print_table(as_rows(checks), as_json=as_json)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
