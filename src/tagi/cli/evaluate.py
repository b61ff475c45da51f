"""`tagi evaluate`: scores of a checkpoint on unseen tasks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.evaluation_tables import print_evaluation
from tagi.cli.output import JsonFlag, Overrides, print_record
from tagi.errors import InputError

Checkpoint = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="Run, checkpoint, built-in generator, or folder of adapters."),
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe name, recipe file (TOML), or a file of tasks.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for record.json and predictions.")]
Conditions = Annotated[
    bool, typer.Option("--conditions", help="Also score paraphrases, other tasks' instructions and no instruction.")
]
Channels = Annotated[
    bool, typer.Option("--channels", help="Also score the LoRA and the instruction states separately and crossed.")
]
Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="Also score wrong and empty instructions, and compare the adapters.")
]
Names = list[str] | None
Condition = Annotated[
    Names, typer.Option("--condition", metavar="NAME", help="Also score this condition. Can be given several times.")
]
Tasks = Annotated[
    Names, typer.Option("--tasks", metavar="NAME", help="Name or pattern of test tasks. Can be given several times.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of instances per task.")]
Wording = Annotated[
    str | None, typer.Option("--wording", metavar="NAME", help="Replace the instructions by this wording.")
]
Positives = Annotated[
    int | None, typer.Option("--positives", min=0, max=8, help="Maximum number of demonstrations in an instruction.")
]
HeldOut = Annotated[
    bool, typer.Option("--held-out", help="Score the held-out training tasks instead of the test tasks.")
]
Stock = Annotated[
    bool | None,
    typer.Option("--stock/--no-stock", help="Also score the stock model. Default: only for your own tasks."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation in DIR.")]


def evaluate(
    checkpoint: Checkpoint,
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    conditions: Conditions = False,
    channels: Channels = False,
    sensitivity: Sensitivity = False,
    condition: Condition = None,
    tasks: Tasks = None,
    limit: Limit = None,
    wording: Wording = None,
    positives: Positives = None,
    held_out: HeldOut = False,
    stock: Stock = None,
    resume: Resume = False,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a checkpoint on the test tasks of a recipe.

    DIR/predictions-*.jsonl hold one answer per line, in the format of natural-instructions' evaluation script.
    --sensitivity scores wrong, shuffled, random and empty instructions and the mean adapter, and plots the distances
    between the tasks' adapters in DIR/adapters.png. Without --positives, instructions show no demonstrations if the
    recipe sets data.demonstrations, and otherwise as many as the checkpoint was trained with. The stock model is the
    unchanged base model with the instruction in its prompt.

    \b
    Examples:
      tagi evaluate toy toy --conditions --channels
      tagi evaluate toy toy --sensitivity --limit 10 --out toy-sensitivity
      tagi evaluate smollm2 tasks.csv --out scores
      tagi evaluate adapters tasks.csv
      tagi evaluate smollm2 everyday --condition "LoRA alone" --out everyday
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --limit 20 --out scores
      tagi evaluate smollm2 smollm2 --set data.path=natural-instructions --condition "LoRA alone" --limit 2
      tagi evaluate runs/p3 p3-small --set data.test_path=p3/eval --set data.templates=p3/templates --limit 50
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --tasks 'task1*' --out scores-1
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --wording terse --positives 0
      tagi evaluate runs/smollm2 smollm2 --set data.path=natural-instructions --held-out --condition "LoRA alone"
    """
    from tagi.stages.recipes import load_recipe

    if out is not None and out.is_file():
        raise InputError(f"--out: expected a new folder, got {out}, which is a file")
    if resume and out is None:
        raise InputError("--resume: expected --out DIR, the folder of the interrupted evaluation, got none")
    loaded = load_recipe(recipe, overrides or [])
    from tagi.api.recipes import evaluate as run
    from tagi.evaluation.conditions import CHANNELS, INSTRUCTIONS, SENSITIVITY, STOCK
    from tagi.training.distributed import is_main_process

    stock = loaded.data.source == "jsonl" if stock is None else stock
    groups = ((stock, (STOCK,)), (conditions, INSTRUCTIONS), (channels, CHANNELS), (sensitivity, SENSITIVITY))
    names = ["right", *(condition or ()), *(name for on, group in groups if on for name in group)]
    what: Any = {"conditions": names, "only": tasks or (), "limit": limit, "distances": sensitivity}
    how: Any = {"wording": wording, "positives": positives, "held_out": held_out}
    record = run(checkpoint, loaded, **what, **how, out=out, resume=resume, progress=True)
    if is_main_process():  # only one of several processes prints
        print_record(record, print_evaluation, as_json=as_json)
