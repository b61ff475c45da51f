"""`tagi describe`: sizes, before anything is trained."""

from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_json, print_table

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Published models such as t5-xl-lm-adapt, a folder, a GGUF file, a hub name, or 'recipe'; default: "
        "T5-LM-adapt base, XL, XXL, or of a decoder-only recipe its own.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", metavar="RECIPE", help="Whose generator is put on the models.")]
DEFAULT = ("t5-base-lm-adapt", "t5-xl-lm-adapt", "t5-xxl-lm-adapt")


def default_names(recipe: Any) -> tuple[str, ...]:
    """What is shown if nothing is named: published T5s, or a decoder-only recipe's own model."""
    return DEFAULT if recipe.backbone.family == "t5" else ("recipe",)


def describe(
    names: Names = None,
    recipe: RecipeName = "sni-base",
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print target modules, generated, tuned and frozen parameters; no weights are made or loaded.

    \b
    Examples:
      tagi describe
      tagi describe t5-xl-lm-adapt --set generator.kind='"pooled"' --json
      tagi describe recipe --recipe sni-small --set backbone.tokenizer=x
      tagi describe --recipe smollm2
    """
    from tagi.cli.quiet import quiet
    from tagi.stages.recipes import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.stages.describe import describe as run

    described = [run(name, loaded) for name in names or default_names(loaded)]
    if as_json:
        print_json(described)
        return
    rows = [
        {"": key.replace("_", " "), **{one["backbone"]: _shown(key, one[key]) for one in described}}
        for key in described[0]
        if key != "backbone"
    ]
    print_table(rows, as_json=False)


def _shown(key: str, value: int | float | str) -> str:
    if "share_of" in key:
        return f"{100 * float(value):.1f}%"
    return f"{value:,}" if isinstance(value, int) else str(value)
