"""`tagi compare`: two evaluations, instance by instance."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, print_json, print_table

First = Annotated[Path, typer.Argument(metavar="A", help="The folder of an evaluation.")]
Second = Annotated[Path, typer.Argument(metavar="B", help="The folder of another, of the same test data.")]
Condition = Annotated[str, typer.Option("--condition", metavar="NAME", help="Which instruction was given.")]
Metric = Annotated[
    str | None,
    typer.Option("--metric", metavar="NAME", help="accuracy, rougeL, rouge1 or exact_match; by default A's own."),
]
Examples = Annotated[int, typer.Option("--examples", min=0, metavar="N", help="Print the N that differ most.")]


def compare(
    a: First,
    b: Second,
    condition: Condition = "right",
    metric: Metric = None,
    examples: Examples = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare two evaluations of the same test data, paired over instances.

    A - B is the mean difference in percent, with its 95% bootstrap interval over tasks; wins are instances on which A
    scores higher. Evaluations of other data are refused.

    \b
    Examples:
      tagi evaluate runs/one toy --conditions --out scores/one
      tagi evaluate runs/two toy --conditions --out scores/two
      tagi compare scores/one scores/two --examples 5
      tagi compare scores/one scores/two --condition other --json
    """
    from tagi.pipeline.comparing import compare as run

    compared = run(a, b, condition=condition, metric=metric, examples=examples)
    if as_json:
        print_json(compared)
        return
    for name in ("a", "b"):
        typer.echo(_heading(name.upper(), compared["of"][name]))
    typer.echo(f"condition {compared['condition']!r}, {compared['metric']} in percent")
    for key, (one, other) in compared["recipes_differ"].items():
        typer.echo(f"  {key}: {one} in A, {other} in B")
    rows = [_row(name, own) for name, own in compared["per_category"].items()]
    print_table([*rows, _row("all", compared)], as_json=False)
    for example in compared["examples"]:
        typer.echo(_shown(example))


def _heading(name: str, of: dict[str, Any]) -> str:
    partial = ", partial" if of["partial"] else ""
    return f"{name}: {of['folder']} ({of['method']}, checkpoint {of['checkpoint']}, seed {of['seed']}{partial})"


def _row(category: str, one: dict[str, Any]) -> dict[str, Any]:
    low, high = one["interval"]
    return {
        "category": category,
        "n": one["n"],
        "tasks": one["tasks"],
        "A": f"{one['a']:.1f}",
        "B": f"{one['b']:.1f}",
        "A - B": f"{one['difference']:+.1f}",
        "95%": f"{low:+.1f} to {high:+.1f}" + (" (one task)" if one["drawn"] == "instances" else ""),
        "wins": one["wins"],
        "ties": one["ties"],
        "losses": one["losses"],
    }


def _shown(example: dict[str, Any]) -> str:
    lines = [
        f"{example['task']}, {example['id']} ({example['category']})",
        f"  input:     {example['input']}",
        *(f"  reference: {reference}" for reference in example["references"]),
        *(f"  {name.upper()} {example[name]['score']:5.1f}:   {example[name]['prediction']}" for name in ("a", "b")),
    ]
    return "\n".join(lines) + "\n"
