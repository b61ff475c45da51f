"""`tagi evaluate`: a checkpoint's scores on tasks it has not seen."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.evaluation_tables import print_evaluation
from tagi.cli.output import JsonFlag, Overrides, print_record
from tagi.errors import InputError

Checkpoint = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="A run, a checkpoint, a built-in name, or a folder of adapters."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or TOML file, or a file of tasks.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="A new folder for record.json and predictions.")]
Conditions = Annotated[bool, typer.Option("--conditions", help="Score paraphrases, other instructions and none too.")]
Channels = Annotated[bool, typer.Option("--channels", help="Score LoRA and instruction states crossed and alone too.")]
Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="Score wrong and empty instructions too; compare the tasks' adapters.")
]
Names = list[str] | None
Condition = Annotated[Names, typer.Option("--condition", metavar="NAME", help="Score this condition too. Repeatable.")]
Tasks = Annotated[Names, typer.Option("--tasks", metavar="NAME", help="A name or pattern of test tasks. Repeatable.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="The most instances of a task.")]
Wording = Annotated[str | None, typer.Option("--wording", metavar="NAME", help="Use this wording of the instructions.")]
Positives = Annotated[
    int | None, typer.Option("--positives", min=0, max=8, help="The most examples that a task shows.")
]
HeldOut = Annotated[bool, typer.Option("--held-out", help="Score held-out training tasks instead of the test tasks.")]
Stock = Annotated[
    bool | None, typer.Option("--stock/--no-stock", help="Score the stock model beside it. Default: for own tasks.")
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
    """Score a checkpoint on a recipe's test tasks.

    DIR/predictions-*.jsonl hold an answer a line, in the form that natural-instructions' own evaluation reads as
    predictions and as references. An interrupted evaluation continues with the next task with --resume. --sensitivity
    scores wrong, shuffled, random and empty instructions and the mean adapter, and compares the tasks' adapters with
    each other; DIR/adapters.png shows their distances. Without --positives, tasks show no examples for a recipe with
    data.demonstrations, and otherwise as many as the checkpoint takes. The stock model is the base model as it is, with
    the instruction in its prompt.

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
    if is_main_process():  # of several, one tells
        print_record(record, print_evaluation, as_json=as_json)
