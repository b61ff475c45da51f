"""What decides a stage's outcome, as a digest: its own tables of the recipe, what it reads and what it rests on."""

from pathlib import Path
from typing import Any

from tagi.backbones.load import folder_revision, locate
from tagi.data.digest import files_digest
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import Sources
from tagi.stages.registry import stage_of
from tagi.stages.shots import wants_shots
from tagi.stages.tasks import RecipeData
from tagi.training.trainer import fingerprint

_NOT_OUTCOME = {"keep_checkpoints", "report_to"}
"""Keys of a stage's table that change nothing in what it trains."""
_TOKENIZER = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")


def stage_identity(
    recipe: Recipe, stage: str, sources: Sources, *, data: RecipeData | None = None, content: bool = True
) -> str:
    """Return a digest of all that decides a stage's outcome.

    Two recipes that differ elsewhere share the stage's output. Tasks, texts, a backbone's and a tokenizer's folder
    count by what is in them, so that a change behind the same name is seen.

    Args:
        recipe: The recipe.
        stage: The stage's name.
        sources: What it rests on.
        data: The recipe's tasks. They are read for this call if they are not given.
        content: With False everything counts by its name alone, for a plan that is made where nothing need be there.
    """
    asked = stage_of(stage)
    tables = recipe.model_dump(mode="json")
    read = None
    if content:
        read = {"backbone": _backbone(recipe), **asked.content(data or RecipeData(recipe))}
        _forget_places(tables, read["backbone"])
    settings = asked.settings(recipe)
    chosen = settings.model_dump(mode="json", exclude=_NOT_OUTCOME)
    scored = tables["evaluation"] if settings.validate_every else None  # chooses the best step
    deciding = asked.deciding(recipe, tables)
    rests_on = sources.revisions() if content else sources.names()
    return fingerprint(stage, tables["seed"], tables["backbone"], chosen, scored, deciding, read, rests_on)


def score_identity(recipe: Recipe, trained: str) -> str:
    """Return a digest of all that decides the scores of a stage whose own identity is `trained`."""
    tables = {"data", "evaluation", *(["shots"] if wants_shots(recipe) else [])}
    return fingerprint("evaluate", trained, recipe.model_dump(mode="json", include=tables))


def _forget_places(tables: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Take the paths of what is known by its content out of the recipe's tables: moved, it is the same."""
    tables["data"] |= {"path": None, "test_path": None, "templates": None}
    tables["shots"]["path"] = None
    if tables["pretraining"] is not None:
        tables["pretraining"]["path"] = None
    for key, part in (("name", "weights"), ("tokenizer", "tokenizer")):
        if backbone[part] is not None:
            tables["backbone"][key] = None


def _backbone(recipe: Recipe) -> dict[str, Any]:
    """Return digests of weights and tokenizer that are in a folder; the hub's are pinned by their revision."""
    name, tokenizer = recipe.backbone.name, recipe.backbone.tokenizer
    found = None if name == "config" else locate(name)
    tokens = locate(tokenizer) if tokenizer and (Path(tokenizer) / "config.json").is_file() else tokenizer or found
    folder = Path(tokens) if tokens is not None and Path(tokens).is_dir() else None
    files = {file for pattern in _TOKENIZER if folder for file in folder.glob(pattern) if file.is_file()}
    return {
        "weights": folder_revision(found) if isinstance(found, Path) else None,
        "tokenizer": files_digest(files) if folder else None,
    }
