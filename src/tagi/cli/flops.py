"""`tagi flops`: what answering a task costs, beside the paper's figures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.describe import Names, default_names
from tagi.cli.output import JsonFlag, Overrides, print_json, print_table, refuse_used

RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="RECIPE", help="Whose generator is put on the models, and whose test tasks.")
]
Instruction = Annotated[
    float | None, typer.Option("--instruction", metavar="TOKENS", min=1, help="Instead of measuring: instruction.")
]
Input = Annotated[float | None, typer.Option("--input", metavar="TOKENS", min=1, help="Mean length of an input.")]
Output = Annotated[float | None, typer.Option("--output", metavar="TOKENS", min=1, help="Mean length of an output.")]
Examples = Annotated[int, typer.Option("--examples", metavar="N", min=1, help="Inputs answered for each task.")]
Unmerged = Annotated[bool, typer.Option("--unmerged", help="LoRA by its own products, as in a batch of several tasks.")]
ByComponent = Annotated[bool, typer.Option("--components", help="Also print TFLOPs of a task by what they are for.")]
Methods = Annotated[
    str | None,
    typer.Option("--methods", metavar="NAME,...", help="These of `tagi methods`, or all; by default Table 2's."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="A new folder for record.json.")]
_TERA = 1e12


def flops(
    names: Names = None,
    recipe: RecipeName = "sni-base",
    instruction: Instruction = None,
    input_tokens: Input = None,
    output: Output = None,
    examples: Examples = 100,
    methods: Methods = None,
    unmerged: Unmerged = False,
    components: ByComponent = False,
    out: Out = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the FLOPs column of the paper's Table 2, ratios to Tk-Instruct, beside the paper's figures.

    Lengths are measured over the recipe's test tasks, or given; a demonstration is then as long as an input and an
    output. No weights are made or loaded. "cached": a decoder-only model that keeps the instruction's keys and values
    for all examples of a task. "time" is the paper's column of Table 3, of seconds and not of FLOPs.

    \b
    Examples:
      tagi flops --instruction 100 --input 60 --output 5
      tagi flops t5-xl-lm-adapt --instruction 100 --input 60 --output 5 --components
      tagi flops --set data.path=natural-instructions --set backbone.tokenizer=t5_tokenizer --out runs/flops
      tagi flops --set data.path=natural-instructions --set data.positives=2 --json
      tagi flops --methods all --instruction 100 --input 60 --output 5
      tagi flops --recipe smollm2 --methods all --instruction 100 --input 60 --output 5
    """
    from tagi.cli.quiet import quiet
    from tagi.config.methods import chosen_methods
    from tagi.stages.recipes import load_recipe

    refuse_used(out)
    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.stages.flops import flops as run

    given = _given(instruction, input_tokens, output, examples, loaded.shots.count)
    chosen = None if methods is None else chosen_methods(methods, loaded.backbone.family)
    wanted = names or list(default_names(loaded))
    record = run(wanted, loaded, given, methods=chosen, examples=examples, merged=not unmerged, out=out)
    if as_json:
        print_json(record)
        return
    typer.echo(_lengths(record))
    print_table(ratio_rows(record), as_json=False)
    if components:
        backbones = list(record["methods"][0]["costs"])
        for name in backbones:
            typer.echo(f"TFLOPs of a task, {name}")
            print_table(component_rows(record, name), as_json=False)
        if own := component_rows(record, backbones[0], own_model=True):
            typer.echo("TFLOPs of a task, decoder-only models")
            print_table(own, as_json=False)


def _given(
    instruction: float | None, input_tokens: float | None, output: float | None, examples: int, shots: int
) -> Any:
    from tagi.errors import InputError
    from tagi.methods.flops.costs import Lengths

    lengths = {"--instruction": instruction, "--input": input_tokens, "--output": output}
    missing = [name for name, length in lengths.items() if length is None]
    if len(missing) == len(lengths):
        return None
    if instruction is None or input_tokens is None or output is None:
        raise InputError(f"expected all of {', '.join(lengths)} or none, got no {' and no '.join(missing)}")
    return Lengths(instruction, input_tokens, output, examples, shots=shots, demonstration=input_tokens + output)


def _lengths(record: dict[str, Any]) -> str:
    own, data = record["lengths"], record["data"]
    source = "lengths as given" if data is None else f"{data['tasks']} tasks, means over {data['instances']} instances"
    return (
        f"{record['examples']} examples a task, {source}: instruction {own['instruction']:.1f} tokens, "
        f"input {own['input']:.1f}, both in one text {own['concatenated']:.1f}, output {own['output']:.1f}"
    )


def ratio_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per method: the paper's ratio to Tk-Instruct, and ours on every backbone."""
    return [
        {
            "method": row["method"],
            "paper": "-" if row["paper"] is None else f"{row['paper']:.2f}",
            "time": "-" if row["paper_time"] is None else f"{row['paper_time']:.2f}",
            **{name: f"{cost['ratio']:.3f}" for name, cost in row["costs"].items()},
        }
        for row in record["methods"]
    ]


def component_rows(record: dict[str, Any], backbone: str, own_model: bool = False) -> list[dict[str, Any]]:
    """One row per component and one for all: TFLOPs of a task by every method that exists.

    Of the methods on `backbone`, or of those that are models of their own.
    """
    found = {row["method"]: row["costs"][backbone] for row in record["methods"] if row["own_model"] == own_model}
    costs = {method: {**cost["components"], "total": cost["flops"]} for method, cost in found.items()}
    return [
        {"": component, **{method: f"{own[component] / _TERA:.4g}" for method, own in costs.items()}}
        for component in next(iter(costs.values()), {})
    ]
