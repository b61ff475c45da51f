"""`tagi sweep`: a recipe at several points, for ablations and for hyperparameters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_json, print_table

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a TOML file.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for all points and what they share.")]
Grids = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="NAME", help="A shipped grid: see above. Can be given several times."),
]
Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over", metavar="KEY=VALUE,...", help="A key of the recipe and its values. Can be given several times."
    ),
]
Cross = Annotated[bool, typer.Option("--cross", help="Every combination, not one key varied at a time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the points and which steps they share; run nothing.")]


def sweep(
    recipe: RecipeName,
    grids: Grids = None,
    over: Over = None,
    cross: Cross = False,
    out: Out = Path("runs/sweep"),
    dry_run: DryRun = False,
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
    from tagi.cli.quiet import quiet
    from tagi.config.sweeps import sweep_points
    from tagi.stages.recipes import load_recipe

    changes = overrides or []
    points = sweep_points(recipe, grids=grids or [], over=over or [], cross=cross, overrides=changes, load=load_recipe)
    quiet()
    from tagi.stages.sweep import sweep as run_sweep
    from tagi.stages.sweep import sweep_plan

    if dry_run:
        print_table(sweep_plan(recipe, points, out, overrides=changes), as_json=as_json)
        return
    rows = run_sweep(recipe, points, out, overrides=changes)
    if as_json:
        print_json(rows)
        return
    print_table([_shown(row) for row in rows], as_json=False)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    digits = 3 if row["metric"] == "loss" else 1
    interval = "" if row["interval"] is None else " to ".join(f"{bound:.1f}" for bound in row["interval"])
    value = "" if row["value"] is None else f"{row['value']:.{digits}f}"
    return {**row, "value": value, "interval": interval}
