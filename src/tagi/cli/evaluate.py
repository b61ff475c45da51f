"""`tagi evaluate`: a checkpoint's scores on tasks it has not seen."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_json, print_table

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A run's folder, a checkpoint, or a built-in name.")
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Names the test tasks: a shipped recipe or a TOML file.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="A new folder for record.json and the predictions."),
]
Conditions = Annotated[
    bool, typer.Option("--conditions", help="Also score paraphrases, other tasks' instructions and none.")
]
Channels = Annotated[bool, typer.Option("--channels", help="Also score LoRA and instruction states crossed and alone.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Instances of each task.")]


def evaluate(
    checkpoint: Checkpoint,
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    conditions: Conditions = False,
    channels: Channels = False,
    limit: Limit = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a checkpoint on a recipe's test tasks.

    \b
    Examples:
      tagi evaluate toy toy --conditions --channels
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --limit 20 --out scores
    """
    from tagi.cli.quiet import quiet
    from tagi.config import load_recipe
    from tagi.errors import InputError

    if out is not None and out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"--out: expected a new folder, got {out}, which is a file or holds files")
    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.pipeline import evaluate as run
    from tagi.pipeline.evaluating import CONDITIONS

    wanted = CONDITIONS if conditions else CONDITIONS[:1]
    record = run(checkpoint, loaded, out=out, conditions=wanted, channels=channels, limit=limit)
    if as_json:
        print_json(record)
        return
    data = record["data"]
    typer.echo(f"{data['tasks']} tasks, {data['instances']} instances")
    if len(record["results"]["right"]["per_category"]) > 1:
        from tagi.evaluation.report import category_rows

        print_table(category_rows(record["results"]["right"]), as_json=False)
    print_table(condition_rows(record), as_json=False)


def condition_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per condition: what was given, the score in percent with its interval, and how many answers."""
    from tagi.evaluation.conditions import DESCRIPTIONS

    rows = []
    for name, result in record["results"].items():
        low, high = result["interval"]
        rows.append(
            {
                "condition": name,
                "given": DESCRIPTIONS[name],
                result["metric"]: f"{result['overall'][result['metric']]:.1f}",
                "95%": f"{low:.1f} to {high:.1f}",
                "n": result["n"],
            }
        )
    return rows
