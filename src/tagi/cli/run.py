"""`tagi run`: every stage of a recipe, then its scores."""

from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, Overrides, RecipeName, print_table

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the run; each stage gets a subfolder.")]
First = Annotated[str | None, typer.Option("--from", metavar="STEP", help="First step to run.")]
Last = Annotated[str | None, typer.Option("--until", metavar="STEP", help="Last step to run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the steps with their cost and run nothing.")]
Speed = Annotated[
    float | None,
    typer.Option(
        "--tflops", min=0.001, help="Speed in TFLOP/s assumed by --dry-run. Default: measured on this machine."
    ),
]


def run(
    recipe: RecipeName,
    out: Out = Path("runs"),
    first: First = None,
    last: Last = None,
    dry_run: DryRun = False,
    tflops: Speed = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Run all stages of a recipe in order, then evaluate the result.

    Run the command again to continue after an interruption: steps with complete output are skipped. Output of another
    recipe is never overwritten; it is an error.

    \b
    Examples:
      tagi run toy --out runs/toy
      tagi run toy --out runs/toy --until pretrain
      tagi run sni-xl --dry-run --tflops 300
    """
    from tagi.stages.recipes import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        from tagi.stages.estimate import estimate

        print_table(estimate(loaded, out, first=first, last=last, tflops=tflops), as_json=as_json)
        return
    from tagi.api.recipes import train
    from tagi.training.distributed import is_main_process

    rows = train(loaded, out, first=first, last=last, progress=True)
    if is_main_process():
        print_table(rows, as_json=as_json)
