"""`tagi export`: an adapter for PEFT, transformers or llama.cpp."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagi.cli.generate import OwnGenerator
from tagi.cli.output import JsonFlag, print_table, refuse_used

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder, or any plain LoRA of PEFT's.")]
FormatName = Annotated[
    Literal["peft", "merged", "gguf"], typer.Option("--format", metavar="peft|merged|gguf", help="What to write.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="The base model, if not the one that is named."),
]
Lossy = Annotated[bool, typer.Option("--lossy", help="Export the LoRA although the adapter acts by more than that.")]


def export(
    adapter: Adapter,
    out: Out,
    format: FormatName = "peft",
    generator: OwnGenerator = None,
    base: Base = None,
    lossy: Lossy = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an adapter for other software: PEFT's folder, a merged model, a LoRA file for llama.cpp.

    A LoRA alone carries a task only if its generator has no fusion, no instruction states and no tuned backbone
    parameters. Without --lossy nothing is written if something would be lost, and the message names it. Adapters of
    generators with instruction_cache = "adapted" lose nothing. The card says what prompts an engine needs.

    \b
    Examples:
      tagi export adapter --out exported
      tagi export adapter --format merged --out model --lossy
      tagi export lora --base smollm2-135m-instruct --format gguf --out exported
    """

    refuse_used(out)
    from tagi.api.export import export as run

    row = run(adapter, out, format, generator=generator, base=base, lossy=lossy)
    if lost := row.pop("lost"):
        print(f"left behind: {', '.join(lost)}", file=sys.stderr)
    print_table([row], as_json=as_json)
