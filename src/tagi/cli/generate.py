"""`tagi generate`: instructions in, adapter folders out."""

from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_table

GeneratorName = Annotated[
    str,
    typer.Option("--generator", "-g", metavar="NAME", help="A built-in generator, a folder or a hub name."),
]
Instruction = Annotated[
    str | None,
    typer.Option("--instruction", "-i", metavar="TEXT", help="What the task asks for, in plain words."),
]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="JSON Lines: one task with its instruction a line."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder; with --from one adapter in it a task.")]
Examples = Annotated[
    list[str] | None,
    typer.Option("--example", metavar="'INPUT => OUTPUT'", help="A demonstration of the task."),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut an instruction that is over the generator's limit.")]


def generate(
    out: Out,
    instruction: Instruction = None,
    from_file: From = None,
    generator: GeneratorName = "toy",
    example: Examples = None,
    truncate: Truncate = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an adapter for an instruction, or for every task of a file, in one pass.

    An adapter folder holds PEFT's two files, the instruction states and a record of what it was made from.

    \b
    Examples:
      tagi generate -i "take the animal and the tool and translate each into zorbish ." --out adapter
      tagi generate -g runs/sni -i "Say whether the two sentences agree." --out adapter
      tagi generate -g runs/sni --from tasks.jsonl --out adapters
    """
    from tagi.errors import InputError

    if (instruction is None) == (from_file is None):
        raise InputError(f"expected one of -i and --from, got {'neither' if instruction is None else 'both'}")
    examples = [_example(text) for text in example or []]
    if from_file is None:
        tasks = [("", str(instruction), examples)]
    else:
        from tagi.data.jsonl import read_jsonl

        read = read_jsonl(from_file, require_instances=False)
        tasks = [
            (task.name, task.instruction, [(one.input, one.output) for one in task.examples] + examples)
            for task in read
        ]
    from tagi.cli.quiet import quiet

    quiet()
    from tagi.pipeline.generating import write_adapters

    rows = write_adapters(generator, tasks, out, truncate=truncate)
    print_table(rows, as_json=as_json)


def _example(text: str) -> tuple[str, str]:
    from tagi.errors import InputError

    source, arrow, target = text.partition("=>")
    if not arrow or not source.strip() or not target.strip():
        raise InputError(f"--example: expected 'INPUT => OUTPUT', got {text!r}")
    return source.strip(), target.strip()
