"""`tagi time`: TAGI timed against the meta-trained model."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tagi.cli.output import JsonFlag, Overrides, print_record, print_table, refuse_used

Text = str | None
Number = int | None
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe with backbone, generator and test tasks.")]
Backbone = Annotated[
    Text, typer.Option("--backbone", metavar="NAME", help="Time this model with random weights, e.g. t5-base-lm-adapt.")
]
Tagi = Annotated[Text, typer.Option("--tagi", metavar="CHECKPOINT", help="Trained generator. Default: random weights.")]
Metatrained = Annotated[
    Text,
    typer.Option("--metatrained", metavar="CHECKPOINT", help="Meta-trained model. Default: the generator's backbone."),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="NAME", help="Task to time. Can be given several times. Default: the task of median length."
    ),
]
Instruction = Annotated[
    Number, typer.Option("--instruction", metavar="TOKENS", help="Use synthetic instructions of this length.")
]
Input = Annotated[Number, typer.Option("--input", metavar="TOKENS", help="Use synthetic inputs of this length.")]
Output = Annotated[
    Number, typer.Option("--output", metavar="TOKENS", min=1, help="Length of every answer. Default: the task's mean.")
]
Inputs = Annotated[int, typer.Option("--inputs", metavar="N", min=1, help="Maximum number of inputs per task.")]
BatchSizes = Annotated[
    list[int] | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Batch size. Can be given several times. Default: 1, and 32 if there are enough inputs.",
    ),
]
Pairs = Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="Minimum number of timed pairs.")]
Clock = Annotated[
    Literal["wall", "processor"],
    typer.Option("--clock", metavar="wall|processor", help="Wall-clock time or processor time of this process."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for record.json and timing.md.")]


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
    """Time TAGI against the meta-trained model, which reads the instruction with every input.

    The two are timed in interleaved pairs on the same batches. Every answer has the same number of tokens, so random
    weights (the default) give the same times as trained ones. Ratios below 1 mean that TAGI is faster; the paper's
    Table 3 has 0.88 at batch size 1. Texts are the recipe's test tasks, or synthetic texts of given lengths.

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
