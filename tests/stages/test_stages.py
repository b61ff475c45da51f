"""Stages: what they write, what resuming finds, and what is refused."""

from pathlib import Path

import pytest

from tagi.errors import CheckpointError, ConfigError, TrainingError
from tagi.methods.load import load_method
from tagi.stages.recipe_models import load_recipe_backbone
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks
from tagi.stages.train import train_stage

SHORT = [
    *("training.steps=2", "data.instances_per_task=3", "training.tasks_per_batch=3", "training.queries_per_task=2"),
    *("losses.kl=0", "losses.ins=0"),
]


def test_a_finished_run_is_left_alone_on_resume(tmp_path: Path) -> None:
    recipe = load_recipe("toy", SHORT)
    record = train_stage(recipe, "finetune", tmp_path, progress=False)
    weights = tmp_path / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = train_stage(recipe, "finetune", tmp_path, resume=True, progress=False)
    assert again == record
    assert weights.stat().st_mtime_ns == before


def test_another_recipe_is_refused_on_resume(tmp_path: Path) -> None:
    train_stage(load_recipe("toy", SHORT), "finetune", tmp_path, progress=False)
    with pytest.raises(TrainingError, match="expected a run of this recipe"):
        train_stage(load_recipe("toy", [*SHORT, "seed=1"]), "finetune", tmp_path, resume=True, progress=False)
    with pytest.raises(TrainingError, match="--resume"):
        train_stage(load_recipe("toy", SHORT), "finetune", tmp_path, progress=False)


def test_the_record_says_how_it_came_about(tmp_path: Path) -> None:
    record = train_stage(load_recipe("toy", SHORT), "finetune", tmp_path, progress=False)
    assert record["recipe"]["training"]["steps"] == 2
    assert record["data"]["tasks"] == 96
    assert record["data"]["instances"] == 3 * 96
    assert record["environment"]["packages"]["torch"]
    assert record["parameters"]["frozen"] == 0
    assert load_method(tmp_path / "model").name == "tagi"


def test_shuffled_inputs_keep_targets(tmp_path: Path) -> None:
    plain = load_tasks(load_recipe("toy", SHORT), "train").tasks
    shuffled = load_tasks(load_recipe("toy", [*SHORT, "data.shuffle_inputs=true"]), "train").tasks
    for one, other in zip(plain, shuffled, strict=True):
        assert [instance.outputs for instance in one.instances] == [instance.outputs for instance in other.instances]
        assert sorted(instance.input for instance in one.instances) == sorted(i.input for i in other.instances)
    assert plain != shuffled


def test_the_backbone_stage_needs_the_toy_family(tmp_path: Path) -> None:
    recipe = load_recipe("toy", [*SHORT, "data.source=jsonl", f"data.path={tmp_path / 'tasks.jsonl'}"])
    with pytest.raises(ConfigError, match="the stage 'backbone' needs 'toy'"):
        train_stage(recipe, "backbone", tmp_path / "out", progress=False)


MADE = [
    *("backbone.name=config", "backbone.tokenizer=toy", "backbone.config.d_model=12", "backbone.config.d_kv=5"),
    *("backbone.config.d_ff=17", "backbone.config.num_layers=1", "backbone.config.num_heads=2"),
    "backbone.config.vocab_size=251",
]


def test_a_backbone_left_by_another_recipe_is_refused(tmp_path: Path) -> None:
    load_recipe_backbone(load_recipe("toy", MADE), tmp_path)
    assert load_recipe_backbone(load_recipe("toy", MADE), tmp_path).d_model == 12
    for change, named in (("seed=1", "seed 1, got one of 0"), ("backbone.config.d_ff=19", "made of config")):
        with pytest.raises(ConfigError, match=named):
            load_recipe_backbone(load_recipe("toy", [*MADE, change]), tmp_path)
    (tmp_path / "backbone" / "made_of.json").write_text("[")
    with pytest.raises(ConfigError, match="expected what the backbone was made of"):
        load_recipe_backbone(load_recipe("toy", MADE), tmp_path)


def test_more_of_a_teacher_than_there_is_is_refused(tmp_path: Path) -> None:
    overrides = [*SHORT, "losses.kl=1", "losses.teacher=metatrained", "losses.top_k=100000"]
    with pytest.raises(ConfigError, match=r"losses\.top_k: expected at most the vocabulary's"):
        train_stage(load_recipe("toy", overrides), "finetune", tmp_path, progress=False)


def test_a_cut_record_is_named(tmp_path: Path) -> None:
    recipe = load_recipe("toy", SHORT)
    for content in ("{", "[]", '{"identity": "x"}'):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"record\.json: expected a run's record"):
            train_stage(recipe, "finetune", tmp_path, resume=True, progress=False)
