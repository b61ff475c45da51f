"""`tagi refine`: train a generated adapter further on labelled examples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.generate import OwnGenerator
from tagi.cli.output import JsonFlag, print_record

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder from `tagi generate`.")]
File = Annotated[
    Path, typer.Option("--examples", metavar="FILE", help='JSON Lines: {"input": ..., "output": ...} or a task a line.')
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder; DIR/adapter is the refined adapter.")]
Steps = Annotated[int, typer.Option("--steps", min=0, help="Steps of training; 0 scores the adapter as it is.")]
Rate = Annotated[float, typer.Option("--learning-rate", min=0.0, max=10.0, help="AdamW's peak, after 2% of warm-up.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Examples per step.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Decides which examples make up which step.")]
HeldOut = Annotated[
    int,
    typer.Option("--held-out", min=0, metavar="N", help="Keep the last N examples out; score them before and after."),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Truncate examples over the generator's limits.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the refinement in DIR where it was interrupted.")]


def refine(
    adapter: Adapter,
    examples: File,
    out: Out,
    steps: Steps = 100,
    learning_rate: Rate = 1e-3,
    batch_size: Batch = 8,
    seed: Seed = 0,
    held_out: HeldOut = 0,
    generator: OwnGenerator = None,
    truncate: Truncate = False,
    resume: Resume = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a generated LoRA further on examples of its task.

    The generated LoRA is the starting point of ordinary LoRA training; instruction states, fusion and backbone stay as
    they are. DIR/adapter is an adapter folder for predict and export, DIR/refined.json the record. From a file with
    several tasks (as for generate --from) the one with the adapter's instruction is taken.

    \b
    Examples:
      tagi refine adapter --examples labelled.jsonl --out refined
      tagi refine adapters/agree --examples tasks.jsonl --out refined
      tagi refine adapter --examples labelled.jsonl --held-out 20 --steps 200 --out refined
      tagi predict -a refined/adapter "an input"
    """
    from tagi.api.lora_training import Refinement
    from tagi.api.refine import refine as run

    settings = Refinement(steps, learning_rate, batch_size, seed, held_out, truncate)
    record = run(adapter, examples, out, settings, generator=generator, resume=resume, progress=True)
    print_record(record, _print_refined, as_json=as_json)


_SCORES = (("rougeL", "ROUGE-L", 1), ("exact_match", "exact match", 1), ("loss", "loss", 3))


def _print_refined(record: dict[str, Any]) -> None:
    loss, kept = record["loss"], record["held_out"]
    trained = "" if loss is None else f": loss {loss['first']:.3f} -> {loss['last']:.3f}"
    typer.echo(f"{record['steps']} steps on {record['examples']} examples{trained}")
    for name, label, digits in _SCORES if kept is not None else ():
        before, after = kept["before"][name], kept["after"][name]
        of = f"{kept['examples']} held-out examples"
        typer.echo(f"{label} on {of}: {before:.{digits}f} -> {after:.{digits}f}")
    typer.echo(f"adapter: {record['adapter']}")
