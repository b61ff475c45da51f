"""`tagi describe`: sizes of a model and its generator."""

from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_record, print_table

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Published model such as t5-xl-lm-adapt, folder, GGUF file, hub name, or 'recipe' for the recipe's own. "
        "Default: T5-LM-adapt base, XL and XXL, or the recipe's own model if it is decoder-only.",
    ),
]
RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="RECIPE", help="Recipe whose generator settings are used.")
]
_DEFAULT = {"t5": ["t5-base-lm-adapt", "t5-xl-lm-adapt", "t5-xxl-lm-adapt"]}


def default_names(recipe: Any) -> list[str]:
    """Return what is shown if nothing is named: published T5s, or a decoder-only recipe's own model."""
    return _DEFAULT.get(recipe.backbone.family, ["recipe"])


def describe(
    names: Names = None, recipe: RecipeName = "sni-base", overrides: Overrides = None, as_json: JsonFlag = False
) -> None:
    """Print the sizes of models with a generator: target modules and parameters. Loads no weights.

    \b
    Examples:
      tagi describe
      tagi describe t5-xl-lm-adapt --set generator.kind='"pooled"' --json
      tagi describe recipe --recipe sni-small --set backbone.tokenizer=x
      tagi describe --recipe smollm2
    """
    from tagi.stages.recipes import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from tagi.stages.describe import describe as run

    described = [run(name, loaded) for name in names or default_names(loaded)]
    print_record(described, _print_described, as_json=as_json)


def _print_described(described: list[dict[str, Any]]) -> None:
    columns = {one.pop("backbone"): one for one in described}
    shown = {key: {name: _shown(key, one[key]) for name, one in columns.items()} for key in described[0]}
    print_table([{"": key.replace("_", " "), **row} for key, row in shown.items()])


def _shown(key: str, value: int | float | str) -> str:
    if "share_of" in key:
        return f"{100 * float(value):.1f}%"
    return f"{value:,}" if isinstance(value, int) else str(value)
