"""`tagi export`: an adapter for PEFT, transformers or llama.cpp."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tagi.cli.generate import OwnGenerator
from tagi.cli.output import JsonFlag, print_table, refuse_used

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder, or any LoRA in PEFT's format.")]
FormatName = Annotated[
    Literal["peft", "merged", "gguf"],
    typer.Option("--format", metavar="peft|merged|gguf", help="Format of the export."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the export.")]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="Base model. Default: the one that the adapter names."),
]
Lossy = Annotated[bool, typer.Option("--lossy", help="Export the LoRA even if other parts of the adapter are lost.")]


def export(
    adapter: Adapter,
    out: Out,
    format: FormatName = "peft",
    generator: OwnGenerator = None,
    base: Base = None,
    lossy: Lossy = False,
    as_json: JsonFlag = False,
) -> None:
    """Export an adapter: as a PEFT folder, as a merged model, or as a GGUF LoRA for llama.cpp.

    Other software applies the LoRA only. Fusion, instruction states and tuned backbone parameters cannot be exported:
    if the adapter uses them, the command names them and stops, unless --lossy is given. Adapters of generators with
    instruction_cache = "adapted" lose nothing. The export's README.md states the prompts to send.

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
        print(f"not included in the export: {', '.join(lost)}", file=sys.stderr)
    print_table([row], as_json=as_json)
