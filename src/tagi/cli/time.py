"""`tagi time`: TAGI timed against the meta-trained model."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tagi.cli.output import JsonFlag, Overrides, print_record, print_table, refuse_used

Text = str | None
Number = int | None
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Names generator, backbone and test tasks.")]
Backbone = Annotated[Text, typer.Option("--backbone", metavar="NAME", help="Random weights, as t5-base-lm-adapt.")]
Tagi = Annotated[Text, typer.Option("--tagi", metavar="CHECKPOINT", help="A trained generator, or its name.")]
Metatrained = Annotated[
    Text, typer.Option("--metatrained", metavar="CHECKPOINT", help="A meta-trained model. Default: TAGI's backbone.")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="NAME", help="Repeatable. Default: the task of median length.")
]
Instruction = Annotated[Number, typer.Option("--instruction", metavar="TOKENS", help="Length of made-up instructions.")]
Input = Annotated[Number, typer.Option("--input", metavar="TOKENS", help="Length of made-up inputs.")]
Output = Annotated[
    Number, typer.Option("--output", metavar="TOKENS", min=1, help="Of every answer. Default: the task's mean.")
]
Inputs = Annotated[int, typer.Option("--inputs", metavar="N", min=1, help="The most inputs of a task.")]
BatchSizes = Annotated[
    list[int] | None,
    typer.Option("--batch-size", metavar="N", min=1, help="Repeatable. Default: 1, and 32 if possible."),
]
Pairs = Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="The least pairs of a comparison.")]
Clock = Annotated[
    Literal["wall", "processor"],
    typer.Option("--clock", metavar="wall|processor", help="processor: this process's time."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="A new folder for record.json and timing.md.")]


def time(
    recipe: RecipeName,
    backbone: Backbone = None,
    tagi: Tagi = None,
    metatrained: Metatrained = None,
    tasks: Tasks = None,
    instruction: Instruction = None,
    input_tokens: Input = None,
    output: Output = None,
    inputs: Inputs = 100,
    batch_sizes: BatchSizes = None,
    pairs: Pairs = 20,
    clock: Clock = "wall",
    out: Out = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Time TAGI against the meta-trained model (the instruction concatenated), in pairs on the same batches.

    Every answer has the same number of tokens, so that weights do not matter: without --tagi they are random. Ratios
    below 1 are in TAGI's favour; the paper's Table 3 has 0.88 at batch size 1. Texts are the recipe's test tasks, or
    made up to given lengths.

    \b
    Examples:
      tagi time toy --tagi toy --inputs 32 --out runs/toy-time
      tagi time sni-base --instruction 120 --input 60 --output 10 --inputs 5 --pairs 5
      tagi time sni-base --set data.path=natural-instructions --set backbone.tokenizer=t5_tokenizer --out runs/time
      tagi time sni-base --set data.path=natural-instructions --set data.positives=2 --backbone t5-large-lm-adapt
    """
    from tagi.stages.recipes import load_recipe

    refuse_used(out)
    loaded = load_recipe(recipe, overrides or [])
    from tagi.stages.time import TimingRequest, time_methods

    names, sizes = tuple(tasks or ()), tuple(batch_sizes or ())
    lengths = instruction, input_tokens
    request = TimingRequest(backbone, tagi, metatrained, names, lengths, output, inputs, clock, sizes, pairs)
    print_record(time_methods(loaded, request, out=out), _print_timings, as_json=as_json)


def _print_timings(record: dict[str, Any]) -> None:
    from tagi.stages.time import TABLES, headline

    for timing in record["timings"]:
        typer.echo(headline(record, timing))
        typer.echo(f"Seconds relative to Metatrain (paper, batch size 1: {record['paper']}):")
        for rows in TABLES:
            print_table(rows(timing))
