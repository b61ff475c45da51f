"""`tagi compare`: two evaluations, instance by instance; or every method of the paper's tables on one recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, interval_text, print_record, print_table

Text = str | None
First = Annotated[str, typer.Argument(metavar="A", help="Folder of an evaluation; with --methods, a recipe.")]
Second = Annotated[Path | None, typer.Argument(metavar="B", help="Folder of another evaluation of the same test data.")]
Condition = Annotated[str, typer.Option("--condition", metavar="NAME", help="Condition to compare.")]
Metric = Annotated[Text, typer.Option("--metric", metavar="NAME", help="Metric to compare. Default: the metric of A.")]
Examples = Annotated[
    int, typer.Option("--examples", min=0, metavar="N", help="Print the N instances that differ most.")
]
Methods = Annotated[
    Text, typer.Option("--methods", metavar="NAME,...", help="Train and compare these methods, or all.")
]
Seeds = Annotated[
    str, typer.Option("--seeds", metavar="SEED,...", help="With --methods: seeds to train each method with.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, metavar="N", help="With --methods: maximum steps per stage.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="With --methods: folder for all of them.")]


def compare(
    a: First,
    b: Second = None,
    condition: Condition = "right",
    metric: Metric = None,
    examples: Examples = 0,
    methods: Methods = None,
    seeds: Seeds = "0",
    steps: Steps = None,
    out: Out = Path("runs/methods"),
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two evaluations instance by instance, or train and compare methods on one recipe.

    A - B is the mean difference in percent with its 95% bootstrap interval over tasks. Wins are instances on which A
    scores higher. Both evaluations must be of the same test data. Metrics are accuracy, rougeL, rouge1 and exact_match,
    and right, rouge_l and rouge_l_unicode where each task has its own metric. Means are those of `tagi evaluate`: over
    instances, and over tasks where tasks have their own metrics.

    With --methods, A is a recipe. Trains the named methods (or all of `tagi methods`) on its tasks, each shared stage
    once, and writes a table of scores, FLOPs and times to DIR/methods.md. Run the command again to continue after an
    interruption, or to add methods or seeds to the table.

    \b
    Examples:
      tagi evaluate runs/one toy --conditions --out scores/one
      tagi evaluate runs/two toy --conditions --out scores/two
      tagi compare scores/one scores/two --examples 5
      tagi compare scores/one scores/two --condition other --json
      tagi compare --methods all toy --out runs/methods
      tagi compare --methods hint,tagi toy --seeds 0,1,2 --steps 200 --out runs/methods
    """
    if methods is not None:
        if b is not None:
            raise typer.BadParameter(f"expected one recipe with --methods, got {a} and {b}")
        _methods(a, methods, seeds, steps, out, overrides or [], as_json)
        return
    if b is None:
        raise typer.BadParameter("expected the folders of two evaluations, or --methods and a recipe, got one folder")
    from tagi.evaluation.reports.paired_evaluations import compare as run

    compared = run(Path(a), b, condition=condition, metric=metric, examples=examples)
    print_record(compared, _print_compared, as_json=as_json)


def _print_compared(compared: dict[str, Any]) -> None:
    for name, of in compared["of"].items():
        partial = ", partial" if of["partial"] else ""
        partial += ", tested on training data" if of.get("trained_on") else ""
        checkpoint = f"({of['method']}, checkpoint {of['checkpoint']}, seed {of['seed']}{partial})"
        typer.echo(f"{name.upper()}: {of['folder']} {checkpoint}")
    over = compared["mean_over"]
    typer.echo(f"condition {compared['condition']!r}, {compared['metric']} in percent, means over {over}")
    for key, (one, other) in compared["recipes_differ"].items():
        typer.echo(f"  {key}: {one} in A, {other} in B")
    print_table([_row(name, own) for name, own in [*compared["per_category"].items(), ("all", compared)]])
    for example in compared["examples"]:
        typer.echo(_example(example))


def _methods(
    recipe: str, methods: str, seeds: str, steps: int | None, out: Path, overrides: list[str], as_json: bool
) -> None:
    from tagi.config.methods import chosen_methods
    from tagi.stages.recipes import load_recipe

    names = chosen_methods(methods, load_recipe(recipe, overrides).backbone.family)
    try:
        numbers = tuple(dict.fromkeys(int(seed) for seed in seeds.split(",")))
    except ValueError as error:
        raise typer.BadParameter(f"--seeds: expected whole numbers and commas, got {seeds!r}") from error
    from tagi.stages.compare_methods import MethodComparison, compare_methods, shown_rows

    record = compare_methods(recipe, MethodComparison(tuple(names), numbers, steps), out, overrides=overrides)
    print_record(record, lambda record: print_table(shown_rows(record)), as_json=as_json)


def _row(category: str, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "category": category,
        **{key: one[key] for key in ("n", "tasks")},
        "A": f"{one['a']:.1f}",
        "B": f"{one['b']:.1f}",
        "A - B": f"{one['difference']:+.1f}",
        "95%": interval_text(one["interval"], "+.1f") + (" (one task)" if one["drawn"] == "instances" else ""),
        **{key: one[key] for key in ("wins", "ties", "losses")},
    }


def _example(example: dict[str, Any]) -> str:
    lines = [
        f"{example['task']}, {example['id']} ({example['category']})",
        f"  input:     {example['input']}",
        *(f"  reference: {reference}" for reference in example["references"]),
        *(f"  {name.upper()} {example[name]['score']:5.1f}:   {example[name]['prediction']}" for name in ("a", "b")),
    ]
    return "\n".join(lines) + "\n"
