"""Identity of a stage: a digest of its recipe tables, its inputs and the stages it depends on."""

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
"""Keys of a stage's table that do not affect its result."""
_TOKENIZER = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")


def stage_identity(
    recipe: Recipe, stage: str, sources: Sources, *, data: RecipeData | None = None, content: bool = True
) -> str:
    """Return a digest of everything that affects a stage's result.

    Recipes that differ elsewhere share the stage's output. Tasks, texts, and folders of backbones and tokenizers are
    identified by content, so that changes are noticed.

    Args:
        recipe: The recipe.
        stage: Name of the stage.
        sources: Sources of the stage.
        data: The recipe's tasks, loaded if they are not given.
        content: With False inputs are identified by name, for plans without the files.
    """
    asked = stage_of(stage)
    tables = recipe.model_dump(mode="json")
    read = None
    if content:
        read = {"backbone": _backbone(recipe), **asked.content(data or RecipeData(recipe))}
        _forget_places(tables, read["backbone"])
    settings = asked.settings(recipe)
    chosen = settings.model_dump(mode="json", exclude=_NOT_OUTCOME)
    scored = tables["evaluation"] if settings.validate_every else None  # selects the best step
    deciding = asked.deciding(recipe, tables)
    rests_on = sources.revisions() if content else sources.names()
    return fingerprint(stage, tables["seed"], tables["backbone"], chosen, scored, deciding, read, rests_on)


def score_identity(recipe: Recipe, trained: str) -> str:
    """Return a digest of everything that affects the scores of a stage with identity `trained`."""
    tables = {"data", "evaluation", *(["shots"] if wants_shots(recipe) else [])}
    return fingerprint("evaluate", trained, recipe.model_dump(mode="json", include=tables))


def _forget_places(tables: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Remove paths of inputs that are identified by content from the recipe's tables."""
    tables["data"] |= {"path": None, "test_path": None, "templates": None}
    tables["shots"]["path"] = None
    if tables["pretraining"] is not None:
        tables["pretraining"]["path"] = None
    for key, part in (("name", "weights"), ("tokenizer", "tokenizer")):
        if backbone[part] is not None:
            tables["backbone"][key] = None


def _backbone(recipe: Recipe) -> dict[str, Any]:
    """Return digests of weights and tokenizers in folders. Those on the hub have a revision."""
    name, tokenizer = recipe.backbone.name, recipe.backbone.tokenizer
    found = None if name == "config" else locate(name)
    tokens = locate(tokenizer) if tokenizer and (Path(tokenizer) / "config.json").is_file() else tokenizer or found
    folder = Path(tokens) if tokens is not None and Path(tokens).is_dir() else None
    files = {file for pattern in _TOKENIZER if folder for file in folder.glob(pattern) if file.is_file()}
    return {
        "weights": folder_revision(found) if isinstance(found, Path) else None,
        "tokenizer": files_digest(files) if folder else None,
    }
