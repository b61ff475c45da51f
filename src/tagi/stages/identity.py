"""What decides a stage's outcome, as a digest: its own tables of the recipe, what it reads and what it rests on."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from tagi.backbones.load import folder_revision, locate
from tagi.data.digest import files_digest, tasks_digest
from tagi.data.readers.c4 import C4Documents
from tagi.settings.recipe import Recipe
from tagi.settings.tables import Stage
from tagi.stages.building import Sources, concatenated_text, metatrain_lora
from tagi.stages.shots import shots_that_decide, wants_shots
from tagi.stages.tasks import load_tasks
from tagi.training.trainer import fingerprint

_NOT_OUTCOME = {"keep_checkpoints", "report_to"}
"""Keys of a stage's table that change nothing in what it trains."""
_OF_TESTS = {"templates", "prompts"}
"""Keys of `[data]` that, like those that start with `test_`, are about test tasks alone."""
_TOKENIZER = ("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
_STAMPS = 32
_OF_PROMPTS = ("encoding", "positives", "template_arguments")


def stage_identity(recipe: Recipe, stage: Stage, sources: Sources, *, content: bool = True) -> str:
    """A digest of all that decides a stage's outcome; two recipes that differ elsewhere share the stage's output.

    Tasks, unlabelled text, a backbone's and a tokenizer's folder count by what is in them, so that a change behind the
    same name is seen; with `content=False` by their names alone, for a plan that is made where they need not be.
    """
    tables = recipe.model_dump(mode="json")
    read = None
    if content:
        read = _content(recipe, stage)
        _forget_places(tables, read)
    data = {key: value for key, value in tables["data"].items() if not key.startswith("test_") and key not in _OF_TESTS}
    text = {key: value for key, value in data.items() if key.startswith("max_") or key in _OF_PROMPTS}
    lora = {key: tables["generator"][key] for key in ("rank", "alpha")}
    metatrained_by: dict[str, Any] | None = None
    if recipe.metatrain.tune == "lora":
        shape = metatrain_lora(recipe)
        metatrained_by = {"rank": shape.rank, "alpha": shape.alpha} if recipe.generator.shared_rank else lora
    apart = {"apart": True} if concatenated_text(recipe).apart else {}
    depends: dict[str, Any] = {
        "backbone": {"data": data["source"]},
        "metatrain": {"data": data, "metatrain": tables["metatrain"], "lora": metatrained_by, **apart},
        "teachers": {"data": data, "teacher": tables["teacher"], "lora": lora, **apart},
        "pretrain": {"text": text, "generator": tables["generator"], "pretraining": tables["pretraining"]},
        "finetune": {"data": data, "generator": tables["generator"], "losses": tables["losses"]},
        "single": {
            "data": tables["data"],
            "single": tables["single"],
            "shots": tables["shots"],
            "lora": lora if recipe.single.tune == "lora" else None,
            **apart,
        },
    }
    shots = shots_that_decide(recipe, stage)
    if shots is not None:
        depends[stage]["shots"] = shots
    settings = recipe.training_for(stage)
    chosen = settings.model_dump(mode="json", exclude=_NOT_OUTCOME)
    scored = tables["evaluation"] if settings.validate_every else None  # chooses the best step
    return fingerprint(
        stage, tables["seed"], tables["backbone"], chosen, scored, depends[stage], read, sources.revisions()
    )


def score_identity(recipe: Recipe, trained: str) -> str:
    """A digest of all that decides the scores of a stage whose own identity is `trained`."""
    tables = {"data", "evaluation", *(["shots"] if wants_shots(recipe) else [])}
    return fingerprint("evaluate", trained, recipe.model_dump(mode="json", include=tables))


def _forget_places(tables: dict[str, Any], read: dict[str, Any]) -> None:
    """Take out of the recipe's tables where lies what is known by its content: moved, it is the same."""
    tables["data"] |= {"path": None, "test_path": None, "templates": None}
    tables["shots"]["path"] = None
    if tables["pretraining"] is not None:
        tables["pretraining"]["path"] = None
    for key, part in (("name", "weights"), ("tokenizer", "tokenizer")):
        if read["backbone"][part] is not None:
            tables["backbone"][key] = None


def _content(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Digests of what the stage reads from outside."""
    read: dict[str, Any] = {"backbone": _backbone(recipe)}
    if stage in ("metatrain", "teachers", "finetune"):
        read["tasks"] = _tasks(recipe)
    if stage == "single":
        tests = load_tasks(recipe, "test", shots=True, every=recipe.single.examples == "all")
        read["tasks"] = [tasks_digest(tests.tasks)]
    if stage == "pretrain" and recipe.pretraining is not None and recipe.pretraining.path is not None:
        read["text"] = files_digest(C4Documents(Path(recipe.pretraining.path)).files, ends_only=True)
    return read


def _backbone(recipe: Recipe) -> dict[str, Any]:
    """Weights and tokenizer where they are in a folder; a hub's commit is pinned by the name's own revision."""
    name, tokenizer = recipe.backbone.name, recipe.backbone.tokenizer
    found = None if name == "config" else locate(name)
    words = locate(tokenizer) if tokenizer and (Path(tokenizer) / "config.json").is_file() else tokenizer or found
    return {
        "weights": folder_revision(found) if isinstance(found, Path) else None,
        "tokenizer": _tokenizer(Path(words)) if words is not None and Path(words).is_dir() else None,
    }


def _tokenizer(folder: Path) -> str:
    return files_digest({file for pattern in _TOKENIZER for file in folder.glob(pattern) if file.is_file()})


def _tasks(recipe: Recipe) -> list[str]:
    """Of the tasks trained on, and of those held out of them."""
    path = recipe.data.path
    return list(_read_tasks(recipe.model_dump_json(), () if path is None else _stamp(Path(path))))


@lru_cache(maxsize=_STAMPS)
def _read_tasks(recipe_json: str, stamp: tuple[Any, ...]) -> tuple[str, ...]:
    # Reading takes seconds, and a run asks at every step: what has the same files is not read again.
    recipe = Recipe.model_validate_json(recipe_json)
    data = recipe.data
    splits = ("train", "validation") if data.validation_tasks or data.validation_categories else ("train",)
    worded = data.wordings is not None
    return tuple(tasks_digest(load_tasks(recipe, split).tasks, wordings=worded) for split in splits)  # type: ignore[arg-type]


def _stamp(path: Path) -> tuple[Any, ...]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found = [(str(file), file.stat()) for file in files if file.exists()]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)
