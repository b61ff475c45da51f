"""`tagi demo`: a built-in generator on unseen instructions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.evaluation_tables import condition_rows
from tagi.cli.output import JsonFlag, print_record, print_table, quality_line

Toy = Annotated[bool, typer.Option("--toy", help="Use the built-in toy tasks and model, and print scores.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="With --toy: number of inputs per task.")]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where one adapter is exported; an earlier export is replaced.")
]


def demo(toy: Toy = False, limit: Limit = 50, out: Out = Path("runs/demo"), as_json: JsonFlag = False) -> None:
    """Generate adapters for six everyday instructions, compare answers with the stock model, export an adapter.

    \b
    Examples:
      tagi demo
      tagi demo --json
      tagi demo --toy
      tagi demo --toy --limit 10 --json
    """
    from tagi.api.demo import demonstrate, demonstrate_toy

    if toy:
        print_record(demonstrate_toy(limit=limit), _print_toy, as_json=as_json)
        return
    typer.echo("Loading SmolLM2-135M-Instruct (the first time its weights are unpacked: half a minute) ...", err=True)
    print_record(demonstrate(out), _print_demonstration, as_json=as_json)


def _print_demonstration(shown: dict[str, Any]) -> None:
    for line in lines_of(shown):
        typer.echo(line)
    print_table(shown["checks"])
    typer.echo("Your own:  tagi predict -i 'Say whether the text is about food. Answer yes or no.' \\")
    typer.echo("               'The soup was cold and the bread stale.'")


def lines_of(shown: dict[str, Any]) -> list[str]:
    """Return the lines that show the answers."""
    from tagi.api.demo import COLUMNS
    from tagi.formats.finding import DEFAULT

    answers = shown["answers"]
    lines = [
        f"Generated {len(answers)} LoRA adapters ({shown['parameters']:,} parameters each) in one pass of "
        f"{shown['seconds']['adapting']} s;",
        f"{shown['base']} stays as it is.",
        "",
        "  stock               the stock model, with the instruction in every prompt",
        "  instruction + LoRA  the generated LoRA, with the instruction, which is read once and cached",
        "  LoRA alone          the generated LoRA, without the instruction",
        "",
    ]
    width = max(map(len, COLUMNS.values()))
    for one in answers:
        rows = [("instruction", "", one["instruction"]), ("input", "", one["input"])]
        for name, title in COLUMNS.items():
            rows.append((title, "right" if one["right"][name] else "wrong", " ".join(one[name].split())))
        if not all(one["right"].values()):
            rows.append(("right answer", "", one["expected"][0]))
        lines += [*(f"  {title:<{width}}  {mark:<5}  {text}" for title, mark, text in rows), ""]
    counts = [f"{title} {shown['right'][name]} of {len(answers)}" for name, title in COLUMNS.items()]
    lines += [f"right: {', '.join(counts)}", *filter(None, [quality_line(DEFAULT)]), ""]
    lines.append(f"The first of the adapters, exported for PEFT to {shown['exported']['export']} and read back by it:")
    return lines


def _print_toy(shown: dict[str, Any]) -> None:
    data = shown["record"]["data"]
    typer.echo(
        f"Generated LoRA adapters for {data['tasks']} unseen tasks from their instructions. The generator was trained\n"
        f"on {shown['trained_on']} other word-list tasks. Exact answers on {data['instances']} inputs:\n"
    )
    print_table(condition_rows(shown["record"]))
    typer.echo("A few of them:\n")
    for one in shown["answers"]:
        typer.echo(f"  instruction  {one['instruction']}")
        typer.echo(f"  input        {one['input']}")
        typer.echo(f"  answer       {one['answer']}   {'right' if one['right'] else 'wrong: ' + one['expected']}\n")
    typer.echo("Your own:  tagi predict -g toy -i 'take the tool and the animal and make each one plural .' \\")
    typer.echo("               'cat river king pen soup'")
