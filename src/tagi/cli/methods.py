"""`tagi methods`: every row of the paper's tables as a recipe, and what it is like."""

from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_table

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe that the methods are made of.")]
Keys = Annotated[bool, typer.Option("--keys", help="Also print the keys that make each of them.")]


def methods(
    recipe: RecipeName = "sni-base", keys: Keys = False, overrides: Overrides = None, as_json: JsonFlag = False
) -> None:
    """List the methods of the paper's tables, with the characteristics of its Table 8.

    Any of them is RECIPE+METHOD wherever a command takes a recipe. Characteristics are worked out from the recipe with
    the method's keys in place of its own and --set on top: what is changed shows.

    \b
    Examples:
      tagi methods
      tagi methods toy --keys
      tagi methods toy --set generator.fusion=attention
      tagi run toy+hint --out runs/toy-hint
    """
    from tagi.config.methods import chosen_methods, method_row
    from tagi.stages.recipes import load_recipe
    from tagi.stages.registry import characteristics

    rows: list[dict[str, Any]] = []
    changed = {}
    family = load_recipe(recipe, overrides or []).backbone.family
    for row in map(method_row, chosen_methods("all", family)):
        loaded = load_recipe(f"{recipe}+{row.name}", overrides or [])
        has = characteristics(loaded)
        changed[row.name] = row.changes(loaded.data.source, loaded.name)
        shown = has if as_json else {name: "yes" if one else "-" for name, one in has.items()}
        extra = {"keys": changed[row.name], "source": row.source} if as_json else {}
        rows.append({"method": row.name, "title": row.title, **shown, **extra})
    print_table(rows, as_json=as_json)
    if keys and not as_json:
        for name, own in changed.items():
            typer.echo(f"{name}:")
            for key, value in own.items():
                typer.echo(f"  {key} = {value!r}")
