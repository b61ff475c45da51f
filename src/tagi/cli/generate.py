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
    generator: GeneratorName = "smollm2",
    example: Examples = None,
    truncate: Truncate = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an adapter for an instruction, or for every task of a file, in one pass.

    An adapter folder holds PEFT's two files, the instruction states and a record of what it was made from. A module
    that is not LoRA is in a file of its own kind instead, which PEFT does not read.

    A generator that reads demonstrations takes them from --example, and no instruction.

    \b
    Examples:
      tagi generate -i "Write the sentence in the past tense." --out adapter
      tagi generate -g toy -i "take the animal and the tool and translate each into zorbish ." --out adapter
      tagi generate -g runs/sni -i "Say whether the two sentences agree." --out adapter
      tagi generate -g runs/sni --from tasks.jsonl --out adapters
    """
    from tagi.errors import InputError

    examples = [example_of(text) for text in example or []]
    if instruction is not None and from_file is not None:
        raise InputError("expected one of -i and --from, got both")
    if instruction is None and from_file is None and not examples:
        raise InputError("expected one of -i and --from, got neither")
    if from_file is None:
        tasks = [("", instruction or "", examples)]
    else:
        from tagi.data.readers.jsonl import read_jsonl

        read = read_jsonl(from_file, require_instances=False)
        tasks = [
            (task.name, task.instruction, [(one.input, one.output) for one in task.examples] + examples)
            for task in read
        ]
    from tagi.cli.quiet import quiet

    quiet()
    from tagi.api.generate import write_adapters

    rows = write_adapters(generator, tasks, out, truncate=truncate)
    print_table(rows, as_json=as_json)


def example_of(text: str) -> tuple[str, str]:
    """Input and output of a demonstration as it is given on the command line."""
    from tagi.errors import InputError

    source, arrow, target = text.partition("=>")
    if not arrow or not source.strip() or not target.strip():
        raise InputError(f"--example: expected 'INPUT => OUTPUT', got {text!r}")
    return source.strip(), target.strip()
