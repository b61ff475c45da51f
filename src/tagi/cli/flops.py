"""`tagi flops`: the cost of answering a task."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.describe import Names, default_names
from tagi.cli.output import JsonFlag, Overrides, print_record, print_table, refuse_used
from tagi.errors import InputError

RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="RECIPE", help="Recipe with the generator settings and test tasks.")
]
Length = float | None
Instruction = Annotated[
    Length,
    typer.Option("--instruction", metavar="TOKENS", min=1, help="Length of the instruction, instead of measuring it."),
]
Input = Annotated[Length, typer.Option("--input", metavar="TOKENS", min=1, help="Mean length of an input.")]
Output = Annotated[Length, typer.Option("--output", metavar="TOKENS", min=1, help="Mean length of an output.")]
Examples = Annotated[int, typer.Option("--examples", metavar="N", min=1, help="Number of inputs per task.")]
Unmerged = Annotated[
    bool, typer.Option("--unmerged", help="Count LoRA as separate products, as in batches with several tasks.")
]
Alone = Annotated[
    bool, typer.Option("--alone", help="Count the adapter alone, without KV prefix, instruction states and fusion.")
]
ByComponent = Annotated[bool, typer.Option("--components", help="Also print TFLOPs per task by component.")]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods", metavar="NAME,...", help="Methods listed by `tagi methods`, or all. Default: those of Table 2."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for record.json.")]
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
    alone: Alone = False,
    components: ByComponent = False,
    out: Out = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the FLOPs of each method relative to Tk-Instruct, next to the figures of the paper's Table 2.

    Lengths are measured on the recipe's test tasks, unless all three are given; a demonstration then has the length of
    an input plus an output. Loads no weights. "cached" methods compute the instruction's KV prefix once per task.
    "time" is the column of the paper's Table 3, in seconds relative to Tk-Instruct.

    \b
    Examples:
      tagi flops --instruction 100 --input 60 --output 5
      tagi flops t5-xl-lm-adapt --instruction 100 --input 60 --output 5 --components
      tagi flops --set data.path=natural-instructions --set backbone.tokenizer=t5_tokenizer --out runs/flops
      tagi flops --set data.path=natural-instructions --set data.positives=2 --json
      tagi flops --methods all --instruction 100 --input 60 --output 5
      tagi flops --recipe smollm2 --methods all --instruction 100 --input 60 --output 5
      tagi flops --recipe smollm2 --instruction 100 --input 60 --output 5 --alone
    """
    from tagi.config.methods import chosen_methods
    from tagi.stages.recipes import load_recipe

    refuse_used(out)
    loaded = load_recipe(recipe, overrides or [])
    from tagi.stages.flops import flops as run

    record = run(
        names or default_names(loaded),
        loaded,
        _given(instruction, input_tokens, output, examples, loaded),
        methods=None if methods is None else chosen_methods(methods, loaded.backbone.family),
        examples=examples,
        merged=not unmerged,
        alone=alone,
        out=out,
    )
    print_record(record, partial(_print_costs, components=components), as_json=as_json)


def _print_costs(record: dict[str, Any], components: bool) -> None:
    mean, data = record["lengths"], record["data"]
    source = "lengths as given"
    if data is not None:
        source = f"{data['tasks']} tasks, {data['instances']} instances, means over tasks"
    typer.echo(
        f"{record['examples']} examples a task, {source}: instruction {mean['instruction']:.1f} tokens, "
        f"input {mean['input']:.1f}, both in one text {mean['concatenated']:.1f}, output {mean['output']:.1f}"
    )
    print_table([_ratios(row) for row in record["methods"]])
    if components:
        backbones = list(record["methods"][0]["costs"])
        for name, own_model in [*((name, False) for name in backbones), (backbones[0], True)]:
            if rows := _components(record, name, own_model):
                typer.echo(f"TFLOPs of a task, {'decoder-only models' if own_model else name}")
                print_table(rows)


def _given(instruction: Length, input_tokens: Length, output: Length, examples: int, recipe: Any) -> Any:
    from tagi.methods.flops import Lengths

    lengths = {"--instruction": instruction, "--input": input_tokens, "--output": output}
    missing = [name for name, length in lengths.items() if length is None]
    if len(missing) == len(lengths):
        return None
    if instruction is None or input_tokens is None or output is None:
        raise InputError(f"expected all of {', '.join(lengths)} or none, got no {' and no '.join(missing)}")
    p3, fields = recipe.data.source == "p3", recipe.data.inputs == "fields"
    whole = instruction + input_tokens if fields else input_tokens  # what is read without an instruction
    return Lengths(
        instruction,
        input_tokens,
        output,
        examples,
        concatenated=whole if p3 else None,
        shots=recipe.shots.count,
        demonstration=whole + output,
        rendered=whole if p3 else None,
    )


def _ratios(row: dict[str, Any]) -> dict[str, Any]:
    """A method's ratios to Tk-Instruct: the paper's, and ours on every backbone."""
    paper = {"paper": row["paper"], "time": row["paper_time"]}
    return {
        "method": row["method"],
        **{name: "-" if value is None else f"{value:.2f}" for name, value in paper.items()},
        **{name: f"{cost['ratio']:.3f}" for name, cost in row["costs"].items()},
    }


def _components(record: dict[str, Any], backbone: str, own_model: bool) -> list[dict[str, Any]]:
    """TFLOPs of a task, one row per component and one for their sum, one column per method.

    `own_model` chooses the methods that are models of their own, else those on `backbone`.
    """
    costs = {row["method"]: row["costs"][backbone] for row in record["methods"] if row["own_model"] == own_model}
    columns = {method: {**cost["components"], "total": cost["flops"]} for method, cost in costs.items()}
    return [
        {"": component, **{method: f"{column[component] / _TERA:.4g}" for method, column in columns.items()}}
        for component in next(iter(columns.values()), {})
    ]
