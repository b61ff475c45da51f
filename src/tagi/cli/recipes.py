"""`tagi recipes`: list, show, copy and check."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tagi.cli.output import JsonFlag, Overrides, RecipeName, print_json, print_table


class _Listing(TyperGroup):
    """Commands that list the recipes where none of them is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take no arguments for the command `list`."""
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(
    cls=_Listing, help="List, show, copy and check recipes; without a command list them.", rich_markup_mode=None
)

Names = Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipe names or TOML files.")]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="New file, or a folder to copy into.")]


@app.command("list")
def list_shipped(as_json: JsonFlag = False) -> None:
    """List the built-in recipes.

    \b
    Examples:
      tagi recipes list
      tagi recipes list --json
    """
    from tagi.config.recipes import list_recipes

    print_table(list_recipes(), as_json=as_json)


@app.command()
def show(recipe: RecipeName) -> None:
    """Print a recipe with its comments.

    \b
    Examples:
      tagi recipes show toy
      tagi recipes show my-recipe.toml
    """
    from tagi.config.recipes import recipe_text

    typer.echo(recipe_text(recipe), nl=False)


@app.command()
def copy(recipe: RecipeName, dest: Destination = Path()) -> None:
    """Copy a recipe to a new file and print its path. Existing files are not overwritten.

    \b
    Examples:
      tagi recipes copy toy
      tagi recipes copy sni-base my-recipe.toml
    """
    from tagi.config.recipes import copy_recipe

    typer.echo(str(copy_recipe(recipe, dest)))


@app.command()
def check(recipes: Names, overrides: Overrides = None, as_json: JsonFlag = False) -> None:
    """Check recipes and report every error with its key. Exits with 2 if there is one.

    \b
    Examples:
      tagi recipes check toy sni-base
      tagi recipes check my-recipe.toml --set training.steps=10
      tagi recipes check toy --set training.learning_rate=1e-4 --json
    """
    faults = {recipe: _faults(recipe, overrides or []) for recipe in recipes}
    if as_json:
        print_json([{"recipe": recipe, "valid": not found, "faults": found} for recipe, found in faults.items()])
    for recipe, found in faults.items():
        if found:
            typer.echo(f"error: {recipe}: {'; '.join(found)}", err=True)
        elif not as_json:
            typer.echo(f"{recipe}: ok")
    if any(faults.values()):
        raise typer.Exit(2)


def _faults(recipe: str, overrides: list[str]) -> list[str]:
    from tagi.errors import ConfigError
    from tagi.stages.recipes import check_recipe

    try:
        return check_recipe(recipe, overrides)
    except ConfigError as error:  # unreadable: the other recipes are still checked
        return [str(error).removeprefix(f"{recipe}: ")]
