"""`tagi refine`: train a generated adapter further on labelled examples."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.generate import Base, OwnGenerator
from tagi.cli.output import JsonFlag, print_record, print_table
from tagi.errors import InputError

Adapter = Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder, or a folder of several.")]
File = Annotated[
    Path, typer.Option("--examples", metavar="FILE", help="Labelled examples or tasks (JSON Lines or CSV).")
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="New folder. Writes DIR/adapter, or DIR/NAME/adapter for several.")
]
Steps = Annotated[int, typer.Option("--steps", min=0, help="Training steps; 0 only scores.")]
Rate = Annotated[
    float, typer.Option("--learning-rate", min=0.0, max=10.0, help="Peak learning rate of AdamW, after 2% warm-up.")
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Examples per step.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the order of examples.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks", metavar="NAME", help="Refine only adapters of this name or pattern. Can be given several times."
    ),
]
HeldOut = Annotated[
    int,
    typer.Option(
        "--held-out", min=0, metavar="N", help="Hold out the last N examples and score them before and after."
    ),
]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Truncate examples that exceed the generator's length limits.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the interrupted refinement in DIR.")]


def refine(
    adapter: Adapter,
    examples: File,
    out: Out,
    steps: Steps = 100,
    learning_rate: Rate = 1e-3,
    batch_size: Batch = 8,
    seed: Seed = 0,
    held_out: HeldOut = 0,
    tasks: Tasks = None,
    generator: OwnGenerator = None,
    base: Base = None,
    truncate: Truncate = False,
    resume: Resume = False,
    as_json: JsonFlag = False,
) -> None:
    """Fine-tune generated adapters on labelled examples.

    Runs ordinary LoRA training from the generated LoRA. Instruction states, fusion and backbone do not change. Writes
    the new adapter to DIR/adapter and a record to DIR/refined.json. If the file holds several tasks, the task with the
    adapter's instruction is used. Examples of tasks with split "test", or else the last --held-out examples, are not
    trained on; they are scored before and after with the task's metric.

    Given a folder of several adapters, refines each on the examples of its task and prints a table of scores before
    and after. By default a quarter of each task's examples is held out.

    \b
    Examples:
      tagi refine adapter --examples labelled.jsonl --out refined
      tagi refine adapters/agree --examples tasks.jsonl --out refined
      tagi refine adapters --examples tasks.csv --out refined
      tagi refine adapters --examples tasks.csv --tasks 'date*' --tasks plural --out refined
      tagi refine adapters --examples tasks.csv --steps 0 --out scored
      tagi refine adapter --examples labelled.jsonl --held-out 20 --steps 200 --out refined
      tagi predict -a refined/adapter "an input"
    """
    from tagi.api.lora_training import Refinement
    from tagi.api.refine import refine as run
    from tagi.api.refine import refine_all
    from tagi.formats.finding import find_adapters

    settings = Refinement(steps, learning_rate, batch_size, seed, held_out, truncate)
    how: Any = {"generator": generator, "base": base, "resume": resume, "progress": True}
    if list(find_adapters(adapter).values()) not in ([], [adapter]):
        several = refine_all(adapter, examples, out, settings, only=tasks or (), **how)
        print_record(several, _print_all, as_json=as_json)
        return
    if tasks:
        raise InputError(f"--tasks: expected a folder of several adapters with it, got {adapter}")
    print_record(run(adapter, examples, out, settings, **how), _print_refined, as_json=as_json)


_OLDER = {"rougeL": "ROUGE-L", "exact_match": "exact match"}
"""Score names in records of earlier versions."""


def _print_all(record: dict[str, Any]) -> None:
    print_table([{key: _cell(value) for key, value in row.items()} for row in record["tasks"]])
    counts = Counter(row["outcome"] for row in record["tasks"])
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def _cell(value: Any) -> Any:
    return "" if value is None else round(value, 1) if isinstance(value, float) else value


def _print_refined(record: dict[str, Any]) -> None:
    loss, kept = record["loss"], record["held_out"]
    trained = "" if loss is None else f": loss {loss['first']:.3f} -> {loss['last']:.3f}"
    typer.echo(f"{record['steps']} steps on {record['examples']} examples{trained}")
    for name, before in kept["before"].items() if kept is not None else ():
        after, digits = kept["after"][name], 3 if name == "loss" else 1
        label = kept["metric"] if name == "score" else _OLDER.get(name, name)
        of = f"{kept['examples']} held-out examples"
        typer.echo(f"{label} on {of}: {before:.{digits}f} -> {after:.{digits}f}")
    typer.echo(f"adapter: {record['adapter']}")
