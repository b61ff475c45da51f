"""A stage's identity follows the content of what it reads, not its name, and what scores it where it validates."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tagi.data.digest import files_digest
from tagi.settings.recipe import Recipe
from tagi.settings.stages import Stage
from tagi.stages.identity import stage_identity
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe

ASSETS = "src/tagi/assets/toy-backbone"
TASK = {"task": "one", "category": "c", "instruction": "do it", "instances": [{"input": "x", "outputs": ["y"]}]}


@pytest.fixture
def place(tmp_path: Path, repo_root: Path) -> Path:
    """Everything a stage may read from outside, in one folder that can be moved."""
    folder = tmp_path / "here"
    shutil.copytree(repo_root / ASSETS, folder / "model")
    (folder / "tasks.jsonl").write_text(json.dumps(TASK) + "\n")
    with gzip.open(folder / "text.json.gz", "wt") as file:
        file.write(json.dumps({"text": "a few words of text"}) + "\n")
    return folder


def recipe_at(place: Path, *overrides: str) -> Recipe:
    return load_recipe(
        "toy",
        [
            *("data.source=jsonl", f"data.path={place / 'tasks.jsonl'}", f"backbone.name={place / 'model'}"),
            *("pretraining.source=c4", f"pretraining.path={place / 'text.json.gz'}"),
            *overrides,
        ],
    )


def identities(place: Path, *overrides: str) -> dict[Stage, str]:
    recipe = recipe_at(place, *overrides)
    return {stage: stage_identity(recipe, stage, Sources()) for stage in recipe.run.stages}


def other_tasks(place: Path) -> None:
    (place / "tasks.jsonl").write_text(json.dumps({**TASK, "instruction": "do it too"}) + "\n")


def other_text(place: Path) -> None:
    with gzip.open(place / "text.json.gz", "wt") as file:
        file.write(json.dumps({"text": "a few words of test"}) + "\n")


def other_weights(place: Path) -> None:
    weights = place / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def other_tokenizer(place: Path) -> None:
    (place / "model" / "tokenizer.json").write_text((place / "model" / "tokenizer.json").read_text() + " ")


def test_a_shared_lora_is_of_its_own_rank_and_prompts(repo_root: Path) -> None:
    """What decides the LoRA that the stage metatrain trains: not what is generated on top of it."""

    def metatrained(*overrides: str) -> str:
        own = [f"backbone.name={repo_root / ASSETS}", "data.source=toy", "data.path=", "data.encoding=plain"]
        held = ["data.validation_categories=", "data.wordings=", "data.demonstrations=", "data.positives=0"]
        recipe = load_recipe("smollm2", [*own, *held, "losses.alone=0", "losses.alone_kl=0", *overrides])
        return stage_identity(recipe, "metatrain", Sources(), content=False)

    plain = metatrained()
    assert metatrained("generator.residual=low-rank", "generator.hidden=7") == plain
    assert metatrained("generator.instruction_cache=none") == plain
    assert metatrained("metatrain.rank=16") != plain  # another recipe, if not another LoRA
    assert metatrained("generator.shared_rank=5") != plain
    assert metatrained("generator.alpha=3.0") != plain
    older = ["generator.shared_rank=0", "generator.residual=low-rank", "run.start=backbone"]
    assert metatrained(*older, "generator.instruction_cache=") != metatrained(*older)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (other_tasks, {"metatrain", "teachers", "finetune"}),
        (other_text, {"pretrain"}),
        (other_weights, {"metatrain", "teachers", "pretrain", "finetune"}),
        (other_tokenizer, {"metatrain", "teachers", "pretrain", "finetune"}),
    ],
)
def test_content_behind_the_same_name_is_seen(place: Path, change: Callable[[Path], None], changed: set[str]) -> None:
    before = identities(place)
    change(place)
    after = identities(place)
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_moved_it_is_the_same(place: Path) -> None:
    before = identities(place)
    assert identities(place.rename(place.with_name("there"))) == before


def test_a_plan_needs_nothing_to_be_there(place: Path) -> None:
    recipe = recipe_at(place)
    shutil.rmtree(place)
    planned = {stage_identity(recipe, stage, Sources(), content=False) for stage in recipe.run.stages}
    assert len(planned) == len(recipe.run.stages)


def test_how_a_stage_is_scored_counts_where_it_validates(repo_root: Path) -> None:
    def finetune(*overrides: str) -> str:
        held_out = ("data.validation_tasks=5", "data.instances_per_task=3")
        return stage_identity(load_recipe("toy", [*held_out, *overrides]), "finetune", Sources())

    every = "training.finetune.validate_every=10"
    assert finetune(every) != finetune(every, "evaluation.max_new_tokens=3")
    assert finetune() == finetune("evaluation.max_new_tokens=3")


def test_a_large_file_is_known_by_its_ends_and_its_size(tmp_path: Path) -> None:
    file = tmp_path / "large"
    whole = bytearray(3 << 20)
    file.write_bytes(whole)
    first = files_digest([file], ends_only=True)
    for at in (0, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] = 1
        file.write_bytes(changed)
        assert files_digest([file], ends_only=True) != first
    file.write_bytes(whole + b"x")
    assert files_digest([file], ends_only=True) != first
    whole[len(whole) // 2] = 1
    file.write_bytes(whole)
    assert files_digest([file], ends_only=True) == first
    assert files_digest([file]) != files_digest([file], ends_only=True)
