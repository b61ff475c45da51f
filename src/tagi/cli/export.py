"""`tagi export`: an adapter for PEFT, transformers or llama.cpp."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_table


class Format(StrEnum):
    """What is written."""

    peft = "peft"
    merged = "merged"
    gguf = "gguf"


Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder, or any plain LoRA of PEFT's.")]
FormatName = Annotated[Format, typer.Option("--format", metavar="peft|merged|gguf", help="What to write.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")]
GeneratorName = Annotated[
    str | None,
    typer.Option("--generator", "-g", metavar="NAME", help="The generator that made it; its own by default."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="The base model of a plain LoRA; by default the one it names."),
]
Lossy = Annotated[bool, typer.Option("--lossy", help="Export the LoRA though the task rests on more than it.")]


def export(
    adapter: Adapter,
    out: Out,
    format: FormatName = Format.peft,
    generator: GeneratorName = None,
    base: Base = None,
    lossy: Lossy = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an adapter for other software: PEFT's folder, a merged model, a LoRA file for llama.cpp.

    A LoRA alone carries a task only if its generator has no fusion, no instruction states and no tuned backbone
    parameters; what would be lost is named, and nothing written, unless --lossy. Nothing is lost of generators with
    instruction_cache = "adapted". The card says what an engine is to be given, with the instruction and without.

    \b
    Examples:
      tagi export adapter --out exported
      tagi export adapter --format merged --out model --lossy
      tagi export lora --base smollm2-135m-instruct --format gguf --out exported
    """
    import sys

    from tagi.cli.output import refuse_used
    from tagi.cli.quiet import quiet

    refuse_used(out)
    quiet()
    from tagi.formats import export as exporting

    source = exporting.open_exportable(adapter, generator=generator, base=base)
    lost = source.lost(format.value)
    if lost and lossy:
        print(f"left behind: {', '.join(lost)}", file=sys.stderr)
    print_table([exporting.export(source, format.value, out, lossy=lossy)], as_json=as_json)
