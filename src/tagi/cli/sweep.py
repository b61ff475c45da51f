"""`tagi sweep`: a recipe at several points, for ablations and for hyperparameters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, RecipeName, interval_text, print_table
from tagi.cli.run import Speed

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for all points and what they share.")]
Grids = Annotated[
    list[str] | None, typer.Option("--grid", metavar="NAME", help="A shipped grid: see above. Repeatable.")
]
Over = Annotated[
    list[str] | None, typer.Option("--over", metavar="KEY=VALUE,...", help="A recipe's key and its values. Repeatable.")
]
Cross = Annotated[bool, typer.Option("--cross", help="Every combination, not one key varied at a time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the points, the steps they share and hours.")]


def sweep(
    recipe: RecipeName,
    grids: Grids = None,
    over: Over = None,
    cross: Cross = False,
    out: Out = Path("runs/sweep"),
    dry_run: DryRun = False,
    tflops: Speed = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Run every stage of a recipe at several points, then score each; what points have in common is done once.

    \b
      table4             the whole, and without pretraining, fusion (two readings), L_pred, L_kl, L_ins
      table7             finetuning's learning rate, rank, steps and warm-up, one at a time
      figure3-sni        training tasks of the 6, 15, 30 and 60 largest categories
      figure3-p3         the same with 5, 10, 20 and 36 datasets
      figure4-alignment  alignment with no teachers, and with those of the largest categories

    Run it again to go on where it was interrupted. DIR/sweep.json is the table, DIR/shared holds every step.

    \b
    Examples:
      tagi sweep toy --grid table4 --out runs/toy-table4
      tagi sweep toy --over training.finetune.learning_rate=3e-4,1e-3 --over losses.kl=0,1 --cross --out runs/toy-kl
      tagi sweep sni-base --grid figure3-sni --over losses.ins=0,1.0 --cross --dry-run
    """
    from tagi.config.sweeps import sweep_points
    from tagi.stages.recipes import load_recipe

    changes = overrides or []
    points = sweep_points(recipe, grids=grids or [], over=over or [], cross=cross, overrides=changes, load=load_recipe)
    from tagi.stages import sweep as sweeps

    if dry_run:
        rows = sweeps.sweep_plan(recipe, points, out, overrides=changes, tflops=tflops)
    else:
        rows = sweeps.sweep(recipe, points, out, overrides=changes)
    print_table(rows if as_json or dry_run else [_shown(row) for row in rows], as_json=as_json)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    digits = 3 if row["metric"] == "loss" else 1
    value = "" if row["value"] is None else f"{row['value']:.{digits}f}"
    return {**row, "value": value, "interval": interval_text(row["interval"] or ())}
