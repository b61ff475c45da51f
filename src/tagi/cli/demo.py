"""`tagi demo`: a shipped generator adapts to instructions it has never seen."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, print_json, print_table

Toy = Annotated[bool, typer.Option("--toy", help="The built-in word-list tasks and backbone, with scores.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="With --toy: instances of each unseen task.")]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where one adapter is exported to; an export there is replaced.")
]


def demo(toy: Toy = False, limit: Limit = 50, out: Out = Path("runs/demo"), as_json: JsonFlag = False) -> None:
    """Adapt SmolLM2-135M-Instruct to six everyday instructions, mark the answers right or wrong, export an adapter.

    \b
    Examples:
      tagi demo
      tagi demo --json
      tagi demo --toy
      tagi demo --toy --limit 10 --json
    """
    from tagi.cli.quiet import quiet

    quiet()
    if toy:
        _toy(limit, as_json)
        return
    from tagi.api.demo import demonstrate

    typer.echo("Loading SmolLM2-135M-Instruct (the first time its weights are unpacked: half a minute) ...", err=True)
    shown = demonstrate(out)
    if as_json:
        print_json(shown)
        return
    for line in lines_of(shown):
        typer.echo(line)
    print_table(shown["checks"], as_json=False)
    typer.echo("Your own:  tagi predict -i 'Say whether the text is about food. Answer yes or no.' \\")
    typer.echo("               'The soup was cold and the bread stale.'")


def lines_of(shown: dict[str, Any]) -> list[str]:
    """Return what the demonstration prints of its answers."""
    from tagi.api.demo import COLUMNS

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
        lines += [f"  {'instruction':<{width}}         {one['instruction']}"]
        lines += [f"  {'input':<{width}}         {one['input']}"]
        for name, title in COLUMNS.items():
            mark = "right" if one["right"][name] else "wrong"
            lines.append(f"  {title:<{width}}  {mark}  {' '.join(one[name].split())}")
        if not all(one["right"].values()):
            lines.append(f"  {'right answer':<{width}}         {one['expected'][0]}")
        lines.append("")
    counts = [f"{title} {shown['right'][name]} of {len(answers)}" for name, title in COLUMNS.items()]
    lines += [f"right: {', '.join(counts)}", ""]
    lines.append(f"The first of the adapters, exported for PEFT to {shown['exported']['export']} and read back by it:")
    return lines


def _toy(limit: int, as_json: bool) -> None:
    from tagi.api.demo import demonstrate_toy
    from tagi.cli.evaluation_tables import condition_rows

    shown = demonstrate_toy(limit=limit)
    if as_json:
        print_json(shown)
        return
    data = shown["record"]["data"]
    typer.echo(
        f"A generator trained on {shown['trained_on']} word-list tasks reads the instructions of\n"
        f"{data['tasks']} tasks it has never seen and writes a LoRA adapter for each, without training.\n"
        f"{data['instances']} inputs; an answer counts only if it is exact.\n"
    )
    print_table(condition_rows(shown["record"]), as_json=False)
    typer.echo("A few of them:\n")
    for one in shown["answers"]:
        typer.echo(f"  instruction  {one['instruction']}")
        typer.echo(f"  input        {one['input']}")
        typer.echo(f"  answer       {one['answer']}   {'right' if one['right'] else 'wrong: ' + one['expected']}\n")
    typer.echo("Your own:  tagi predict -g toy -i 'take the tool and the animal and make each one plural .' \\")
    typer.echo("               'cat river king pen soup'")
