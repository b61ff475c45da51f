"""`tagi time`: seconds of an answer, TAGI's beside the meta-trained model's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_json, print_table, refuse_used

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Names the generator, the backbone and the test tasks.")
]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", metavar="NAME", help="Random weights of a published shape, as t5-base-lm-adapt."),
]
Tagi = Annotated[str | None, typer.Option("--tagi", metavar="CHECKPOINT", help="A trained generator, or its name.")]
Metatrained = Annotated[
    str | None,
    typer.Option("--metatrained", metavar="CHECKPOINT", help="Its rival; without one, the generator's own backbone."),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="A test task; may be repeated. Default: the one of median length."),
]
Instruction = Annotated[
    int | None, typer.Option("--instruction", metavar="TOKENS", help="Made-up texts: length of the instruction.")
]
Input = Annotated[int | None, typer.Option("--input", metavar="TOKENS", help="Made-up texts: length of every input.")]
Output = Annotated[
    int | None, typer.Option("--output", metavar="TOKENS", min=1, help="Of every answer. Default: the task's mean.")
]
Inputs = Annotated[int, typer.Option("--inputs", metavar="N", min=1, help="At most so many inputs of a task.")]
BatchSizes = Annotated[
    list[int] | None,
    typer.Option("--batch-size", metavar="N", min=1, help="May be repeated. Default: 1, and 32 if there are as many."),
]
Pairs = Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="At least so many pairs of a comparison.")]
Clock = Annotated[
    str,
    typer.Option(
        "--clock", metavar="wall|processor", help="processor: what the process itself takes, on a machine others share."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="A new folder for record.json and timing.md, the tables.")
]


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
    from tagi.cli.quiet import quiet
    from tagi.errors import InputError
    from tagi.stages.recipes import load_recipe

    refuse_used(out)
    if (instruction is None) != (input_tokens is None):
        missing = "--instruction" if instruction is None else "--input"
        raise InputError(f"expected both of --instruction and --input, or neither, got no {missing}")
    if clock not in ("wall", "processor"):
        raise InputError(f"--clock: expected wall or processor, got {clock!r}")
    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.stages.time import GivenLengths, TimingRequest, time_methods

    lengths = None if instruction is None or input_tokens is None else GivenLengths(instruction, input_tokens)
    request = TimingRequest(
        backbone=backbone,
        tagi=tagi,
        metatrained=metatrained,
        tasks=tuple(tasks or ()),
        lengths=lengths,
        output=output,
        inputs=inputs,
        batch_sizes=tuple(batch_sizes or ()),
        pairs=pairs,
        clock=clock,  # type: ignore[arg-type]  # looked at above
    )
    record = time_methods(loaded, request, out=out)
    if as_json:
        print_json(record)
        return
    _print(record)


def _print(record: dict[str, Any]) -> None:
    from tagi.evaluation.timing.tables import phase_rows, ratio_rows, speed_rows
    from tagi.stages.time import headline

    for timing in record["timings"]:
        typer.echo(headline(record, timing))
        typer.echo(f"Seconds relative to Metatrain (paper, batch size 1: {record['paper']}):")
        for rows in (ratio_rows, speed_rows, phase_rows):
            print_table(rows(timing), as_json=False)
