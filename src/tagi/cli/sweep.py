"""`tagi sweep`: a recipe with several settings, for ablations and hyperparameter studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, RecipeName, interval_text, print_table
from tagi.cli.run import Speed

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for all points of the sweep.")]
Grids = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="NAME", help="Built-in grid, see above. Can be given several times."),
]
Over = Annotated[
    list[str] | None,
    typer.Option("--over", metavar="KEY=VALUE,...", help="Recipe key and its values. Can be given several times."),
]
Cross = Annotated[bool, typer.Option("--cross", help="Run every combination instead of varying one key at a time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the points, shared steps and hours, and run nothing.")]


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
    """Run a recipe with several settings and evaluate each. Steps that settings share are run once.

    \b
      table4             the full method, and without pretraining, fusion (two variants), L_pred, L_kl, L_ins
      table7             learning rate, rank, steps and warm-up of finetuning, one at a time
      figure3-sni        training on the 6, 15, 30 and 60 largest categories
      figure3-p3         training on 5, 10, 20 and 36 datasets
      figure4-alignment  alignment with no teachers, or with those of the largest categories

    Run the command again to continue after an interruption. Writes the results to DIR/sweep.json and the steps to
    DIR/shared.

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
