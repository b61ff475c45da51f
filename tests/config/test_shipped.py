"""The shipped recipes: all are valid, and those of the paper say what its Table 6 says."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tagi.config.faults import known_keys
from tagi.config.recipes import list_recipes, recipe_names, recipe_text
from tagi.settings.recipe import Recipe
from tagi.stages.describe import describe
from tagi.stages.recipes import load_recipe

# Table 6, a row for each recipe: model, input and output tokens, optimizer, rate, precision, steps, warm-up, batch,
# accumulation, rank.
TABLE_6 = """
sni-base     google/t5-base-lm-adapt     1024  128  adamw  1e-4  bf16  20000  0.02  8  2  32
sni-xl       google/t5-xl-lm-adapt       1024  128  adamw  5e-5  bf16  20000  0.02  2  4  32
sni-xxl      google/t5-xxl-lm-adapt      1024  128  adamw  5e-5  bf16  20000  0.02  1  2  32
p3-base      google/t5-base-lm-adapt     512   64   adamw  1e-4  bf16  20000  0.02  8  2  32
p3-large     google/t5-large-lm-adapt    512   64   adamw  1e-4  bf16  20000  0.02  4  4  32
p3-xl        google/t5-xl-lm-adapt       512   64   adamw  5e-5  bf16  20000  0.02  2  4  32
p3-base-t0   qinyuany/my-t0-base    512   64   adamw  1e-4  bf16  20000  0.02  8  2  32
p3-large-t0  qinyuany/my-t0-large   512   64   adamw  1e-4  bf16  20000  0.02  4  4  32
p3-xl-t0     qinyuany/my-t0-3b      512   64   adamw  5e-5  bf16  20000  0.02  2  4  32
"""
ROWS = [line.split() for line in TABLE_6.strip().splitlines()]
PAPER = [row[0] for row in ROWS]
ALL_STAGES = ["metatrain", "teachers", "pretrain", "finetune"]


def shipped_files(repo_root: Path) -> list[str]:
    return sorted(file.stem for file in (repo_root / "src" / "tagi" / "recipes").glob("*.toml"))


def stage_row(recipe: Recipe, stage: Any) -> list[object]:
    """Optimizer, rate, precision, steps, warm-up, batch and accumulation of a stage."""
    table = recipe.training_for(stage)
    batch = table.tasks_per_batch * table.queries_per_task
    precision = "bf16" if table.bf16 else "float32"
    return [
        *(table.optimizer, table.learning_rate, precision, table.steps),
        *(table.warmup_ratio, batch, table.accumulation),
    ]


def test_every_shipped_recipe_is_found_and_valid(repo_root: Path) -> None:
    names = shipped_files(repo_root)
    assert {"everyday", "toy", "toy-lora-only", "toy-backbone", "sni-small", "p3-small", *PAPER} <= set(names)
    assert names == recipe_names()
    for name in names:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert [summary["name"] for summary in list_recipes()] == names


@pytest.mark.parametrize("row", ROWS, ids=PAPER)
def test_finetuning_is_a_column_of_table_6(row: list[str]) -> None:
    name, hub, given, target, optimizer, rate, precision, steps, warm_up, batch, accumulation, rank = row
    recipe = load_recipe(name)
    assert recipe.backbone.name == hub
    assert recipe.data.source == name.partition("-")[0]
    lengths = (recipe.data.max_instruction_tokens, recipe.data.max_input_tokens, recipe.data.max_target_tokens)
    assert lengths == (int(given), int(given), int(target))
    assert recipe.evaluation.max_new_tokens == int(target)
    assert stage_row(recipe, "finetune") == [
        *(optimizer, float(rate), precision, int(steps)),
        *(float(warm_up), int(batch), int(accumulation)),
    ]
    assert recipe.generator.rank == int(rank)


@pytest.mark.parametrize("name", PAPER)
def test_the_other_stages_are_the_other_columns_of_table_6(name: str) -> None:
    recipe = load_recipe(name)
    assert stage_row(recipe, "teachers") == ["adamw", 1e-4, "bf16", 10000, 0.0, 8, 2]
    assert stage_row(recipe, "pretrain") == ["adafactor", 1e-3, "float32", 50000, 0.0, 8, 1]
    assert recipe.pretraining is not None
    assert (recipe.pretraining.source, recipe.pretraining.max_tokens, recipe.pretraining.parts) == ("c4", 1024, 3)
    assert recipe.pretraining.tune is None
    assert stage_row(recipe, "metatrain")[-2:] == stage_row(recipe, "finetune")[-2:]  # as many examples a step


def test_the_rest_that_the_paper_states() -> None:
    for name in PAPER:
        recipe = load_recipe(name)
        per_task = {"sni": 100, "p3": 1000}[recipe.data.source]  # appendix A.2
        assert recipe.data.instances_per_task == per_task
        assert recipe.data.positives == 0
        assert recipe.losses.alignment == "factors"  # eq. 4
        assert recipe.losses.ins_normalized  # else the term has no effect
        p3 = recipe.data.source == "p3"
        assert (recipe.losses.teacher, recipe.losses.kl > 0) == (
            "fid-icl" if p3 else "metatrained",
            True,
        )  # section 4.3
        assert (recipe.metatrain.method, recipe.shots.count) == ("fid-icl" if p3 else "concatenation", 16)
        large = name == "sni-xxl"  # Table 2: no parameter alignment
        assert (recipe.losses.ins == 0) is large
        assert recipe.run.stages == [stage for stage in ALL_STAGES if not (large and stage == "teachers")]
        assert recipe.run.start == "backbone"


def test_p3_is_tested_on_raw_sets_in_t0s_prompts() -> None:
    for name in [*PAPER, "p3-small"]:
        recipe = load_recipe(name)
        p3 = recipe.data.source == "p3"
        assert recipe.data.prompts == "original"  # appendix A.2
        assert recipe.evaluation.choice_score == "sum"
        paths = (recipe.data.test_path, recipe.data.templates)
        assert paths == (("p3/eval", "p3/templates") if p3 else (None, None))
        if name in PAPER and p3:
            assert (
                recipe.data.test_instances_per_task > 10_042
            )  # Table 5: whole sets, of which HellaSwag is the largest


def test_the_hubs_rendered_prompts_need_no_templates() -> None:
    recipe = load_recipe("p3-base", ["data.templates=", "data.prompts=all", "data.test_path=p3/hub"])
    assert (recipe.data.test_path, recipe.data.templates, recipe.data.prompts) == ("p3/hub", None, "all")


@pytest.mark.parametrize("name", [name for name in PAPER if not name.endswith("t0")])
def test_the_hypernetwork_is_under_a_tenth_of_the_backbone(name: str) -> None:
    recipe = load_recipe(name)
    described = describe(recipe.backbone.name.removeprefix("google/"), recipe)
    assert 0.005 < described["hypernetwork_share_of_backbone"] < 0.1
    assert described["rank"] == 32


def test_t0_differs_from_its_size_in_the_backbone_alone() -> None:
    for size in ("base", "large", "xl"):
        plain, t0 = load_recipe(f"p3-{size}").model_dump(), load_recipe(f"p3-{size}-t0").model_dump()
        assert [key for key in plain if plain[key] != t0[key]] == ["name", "description", "backbone"]
        assert plain["backbone"] == {**t0["backbone"], "name": plain["backbone"]["name"]}


def test_the_toy_recipes_differ_in_fusion_alone() -> None:
    whole, lora_only = load_recipe("toy").model_dump(), load_recipe("toy-lora-only").model_dump()
    differing = [key for key in whole if whole[key] != lora_only[key]]
    assert differing == ["name", "description", "generator", "losses", "run"]
    assert {**whole["generator"], "fusion": "none", "state_dropout": 0.0} == lora_only["generator"]
    weights = {"prediction", "kl", "ins", "contrast"}
    assert {key: lora_only["losses"][key] for key in weights} == {"prediction": 1, "kl": 0, "ins": 0, "contrast": 0}
    assert lora_only["run"] == {**whole["run"], "stages": ["finetune"]}


def test_the_small_recipes_do_every_stage_with_one_model() -> None:
    sni, p3 = load_recipe("sni-small"), load_recipe("p3-small")
    assert sni.run.stages == p3.run.stages == ALL_STAGES
    assert (sni.backbone, sni.generator) == (p3.backbone, p3.generator)
    assert (sni.data.source, p3.data.source) == ("sni", "p3")


def keys(tables: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tables.items():
        yield prefix + key
        if isinstance(value, dict) and prefix + key != "data.wordings":  # whose keys are names of wordings
            yield from keys(value, f"{prefix}{key}.")


def test_shipped_recipes_name_only_keys_that_exist(repo_root: Path) -> None:
    for name in shipped_files(repo_root):
        assert set(keys(tomllib.loads(recipe_text(name)))) <= set(known_keys())
