"""`tagi demo`: a shipped generator adapts to instructions it has never seen."""

from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_json, print_table

Toy = Annotated[bool, typer.Option("--toy", help="The built-in word-list tasks, the only backbone for now.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Instances of each unseen task.")]


def demo(toy: Toy = True, limit: Limit = 50, as_json: JsonFlag = False) -> None:
    """Adapt to unseen instructions, score the adapters, and show a few answers.

    \b
    Examples:
      tagi demo --toy
      tagi demo --toy --limit 10 --json
    """
    from tagi.cli.quiet import quiet

    quiet()
    from tagi.cli.evaluate import condition_rows
    from tagi.pipeline.demonstrating import demonstrate

    shown = demonstrate(limit=limit)
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
    typer.echo("Your own:  tagi predict -i 'take the tool and the animal and make each one plural .' \\")
    typer.echo("               'cat river king pen soup'")
