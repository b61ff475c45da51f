"""`tagi methods`: the methods of the paper's tables and their characteristics."""

from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_table

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe that the methods are applied to.")]
Keys = Annotated[bool, typer.Option("--keys", help="Also print the recipe keys that each method sets.")]


def methods(
    recipe: RecipeName = "sni-base", keys: Keys = False, overrides: Overrides = None, as_json: JsonFlag = False
) -> None:
    """List the methods of the paper's tables with the characteristics of Table 8.

    Every command that takes a recipe also takes RECIPE+METHOD. The characteristics are computed from the recipe with
    the method's keys and --set applied.

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
