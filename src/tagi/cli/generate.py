"""`tagi generate`: adapter folders from instructions."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tagi.activity import be_quiet
from tagi.cli.output import JsonFlag, QuietFlag, print_quality, print_table, refuse_used
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.files import adapter_folders

GeneratorName = Annotated[
    str, typer.Option("--generator", "-g", metavar="NAME", help="Built-in generator, folder or hub name.")
]
OwnGenerator = Annotated[
    str | None,
    typer.Option("--generator", "-g", metavar="NAME", help="Generator. Default: the one the adapter names."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="Base model. Default: the one that the generator names."),
]
Instruction = Annotated[str | None, typer.Option("--instruction", "-i", metavar="TEXT", help="The task's instruction.")]
From = Annotated[
    Path | None, typer.Option("--from", metavar="FILE", help="File of tasks (JSON Lines or CSV): one adapter per task.")
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="New folder for the adapter; with --from, for one folder per task.")
]
Examples = Annotated[
    list[str] | None,
    typer.Option(
        "--example", metavar="'INPUT => OUTPUT'", help="Demonstration of the task. Can be given several times."
    ),
]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Truncate instructions that exceed the generator's length limit.")
]


def generate(
    out: Out,
    instruction: Instruction = None,
    from_file: From = None,
    generator: GeneratorName = "smollm2",
    base: Base = None,
    example: Examples = None,
    truncate: Truncate = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Generate an adapter from an instruction, or one for every task of a file.

    An adapter folder holds PEFT's adapter_config.json and adapter_model.safetensors, the instruction states, and a
    record of how it was made. Generated modules other than LoRA are stored in a file that PEFT does not read.

    Generators that read demonstrations only take --example and no instruction.

    \b
    Examples:
      tagi generate -i "Write the sentence in the past tense." --out adapter
      tagi generate -g toy -i "take the animal and the tool and translate each into zorbish ." --out adapter
      tagi generate -g runs/sni -i "Say whether the two sentences agree." --out adapter
      tagi generate --from tasks.csv --out adapters
      tagi generate -g runs/sni --from tasks.jsonl --out adapters
    """
    if quiet:
        be_quiet()
    examples = tuple(map(example_of, example or []))
    if instruction is not None and from_file is not None:
        raise InputError("expected one of -i and --from, got both")
    if instruction is None and from_file is None and not examples:
        raise InputError("expected one of -i and --from, got neither")
    refuse_used(out)
    tasks = [Task("", "", instruction or "", ())]
    if from_file is not None:
        from tagi.data.readers.jsonl import instructions_of, read_jsonl

        tasks = instructions_of(read_jsonl(from_file, require_instances=False))
        adapter_folders([task.name for task in tasks])
    from tagi.api.generator import AdapterGenerator
    from tagi.api.task_adapter import save_adapters

    tasks = [replace(task, examples=(*task.examples, *examples)) for task in tasks]
    made = AdapterGenerator.from_pretrained(generator, base=base)
    adapters = made.adapt_tasks(tasks, truncate=truncate)
    if from_file is None:
        folders = [out]
        adapters[0].save_pretrained(out)
    else:
        folders = save_adapters(dict(zip([task.name for task in tasks], adapters, strict=True)), out)
    rows = [{"adapter": str(at), **adapter.summary()} for at, adapter in zip(folders, adapters, strict=True)]
    print_table(rows, as_json=as_json)
    if not quiet:
        print_quality(made.source)


def example_of(text: str) -> Example:
    """Parse a demonstration given as 'INPUT => OUTPUT'."""
    source, arrow, target = text.partition("=>")
    if not arrow or not source.strip() or not target.strip():
        raise InputError(f"--example: expected 'INPUT => OUTPUT', got {text!r}")
    return Example(source.strip(), target.strip())
