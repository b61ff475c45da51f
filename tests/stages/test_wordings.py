"""Recipes that train on several wordings, with drawn demonstrations, and that hold out whole categories."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tagi.errors import ConfigError
from tagi.methods.objective.teacher_cache import sample_key
from tagi.settings.recipe import Recipe
from tagi.stages.identity import score_identity, stage_identity
from tagi.stages.protocol import Job, Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of
from tagi.stages.tasks import load_tasks

WEIGHTS = "data.wordings={definition = 1.0, 1 = 2.0}"
SHOWING = ("data.positives=2", "data.demonstrations=0.5")


def line(at: int, **changed: Any) -> str:
    task = {
        "task": f"t{at}",
        "category": f"Group {at % 3}",
        "instruction": f"do {at}",
        "paraphrases": [f"please do {at}"],
        "examples": [{"input": f"e{n}", "output": "z"} for n in range(3)],
        "instances": [{"input": f"x{n}", "outputs": ["y"]} for n in range(5)],
    }
    return json.dumps({**task, **changed})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join([*(line(at) for at in range(6)), line(7, paraphrases=[])]) + "\n")
    return path


def recipe_at(file: Path, *overrides: str) -> Recipe:
    return load_recipe("toy", ["data.source=jsonl", f"data.path={file}", *overrides])


def test_every_stage_on_training_tasks_draws_them(file: Path) -> None:
    recipe = recipe_at(file, WEIGHTS, *SHOWING)
    loaded = load_tasks(recipe, "train")
    for stage in ("metatrain", "teachers", "finetune", "single"):
        found = stage_of(stage).task_batches(recipe, loaded)
        assert found.wordings == (None if stage == "single" else {"definition": 1.0, "1": 2.0})
        assert (found.demonstrations, found.positives) == (0.5, 2)
    batch = stage_of("finetune").task_batches(recipe, loaded)
    rows = [sample for at in range(20) for sample in batch[at]]
    assert {sample.instruction for sample in rows if sample.task.name == "t2"} == {"do 2", "please do 2"}
    assert {len(sample.examples or ()) for sample in rows} == {0, 1, 2}
    plain = stage_of("finetune").task_batches(recipe_at(file), loaded)
    assert (plain.wordings, plain.demonstrations) == (None, None)


def test_an_unknown_wording_is_refused_before_training(file: Path, tmp_path: Path) -> None:
    recipe = recipe_at(file, "data.wordings={definition = 1.0, polite = 2.0}")
    message = r"data.wordings.polite: no training task has a wording of this name; known names: definition, 1$"
    with pytest.raises(ConfigError, match=message):
        stage_of("finetune").build(Job.of(recipe, tmp_path))
    with pytest.raises(ConfigError, match=message):
        stage_identity(recipe, "teachers", Sources())
    with pytest.raises(ConfigError, match=r"known names: definition, 1, 2, .*, 11 and 53 more$"):
        load_tasks(load_recipe("toy", ["data.wordings.polite=1.0"]), "train")


def test_names_of_the_real_tasks(data_dir: Path) -> None:
    weights = "data.wordings={definition = 0.5, terse = 0.1, short = 0.1, plain = 0.1, request = 0.1, detailed = 0.1}"
    place = f"data.path={data_dir / 'natural-instructions'}"
    recipe = load_recipe("smollm2", [place, weights, "data.instances_per_task=2"])
    loaded = load_tasks(recipe, "train")
    batch = stage_of("finetune").task_batches(recipe, loaded)
    rows = [sample for at in range(50) for sample in batch[at]]
    names = {name for sample in rows for name, text in sample.task.texts.items() if text == sample.instruction}
    assert names == {"definition", "terse", "short", "plain", "request", "detailed"}
    with pytest.raises(ConfigError, match=r"known names: definition, .*terse, short, plain, request, detailed"):
        load_tasks(load_recipe("smollm2", [place, "data.wordings.polite=1.0", "data.instances_per_task=2"]), "train")


def test_whole_categories_are_held_out(file: Path) -> None:
    recipe = recipe_at(file, 'data.validation_categories=["Group 1", "Group 0"]')
    training, validation = load_tasks(recipe, "train"), load_tasks(recipe, "validation")
    assert [task.name for task in training.tasks] == ["t2", "t5"]
    assert [task.name for task in validation.tasks] == ["t0", "t1", "t3", "t4", "t7"]
    assert training.summary["categories"] == {"Group 2": 2}
    assert all(task.instruction == f"do {task.name[1]}" for task in validation.tasks)
    assert all(len(task.examples) == 3 for task in validation.tasks)
    assert len(load_tasks(recipe, "test").tasks) == 7


def test_validation_shows_what_evaluation_shows(file: Path) -> None:
    held_out = 'data.validation_categories=["Group 1"]'
    recipe = recipe_at(file, held_out, *SHOWING)
    assert {len(task.examples) for task in load_tasks(recipe, "validation").tasks} == {0}
    assert {len(task.examples) for task in load_tasks(recipe, "train").tasks} == {3}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ('"Group1"', r"no training task is of category 'Group1'; did you mean 'Group 1' or"),
        ('"Cooking"', r"no training task is of category 'Cooking'; did you mean 'Group 0' or 'Group 1' or 'Group 2'\?"),
        ('"Group 2", "Group 0", "Group 1"', "all 3 categories are held out; nothing is left"),
    ],
)
def test_impossible_categories_are_refused(file: Path, names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tasks(recipe_at(file, f"data.validation_categories=[{names}]"), "train")


def test_validation_categories_allow_validation(file: Path) -> None:
    held_out = 'data.validation_categories=["Group 1"]'
    every = "training.finetune.validate_every=2"
    overrides = [held_out, every, "losses.kl=0.0", "losses.ins=0.0", 'run.stages=["finetune"]']
    recipe = recipe_at(file, *overrides)
    one = stage_identity(recipe, "finetune", Sources())
    other = recipe_at(file, *[held_out.replace("1", "2"), *overrides[1:]])
    assert stage_identity(other, "finetune", Sources()) != one


def test_new_keys_count_only_where_they_are_set(file: Path) -> None:
    data = recipe_at(file).model_dump(mode="json")["data"]
    assert not data.keys() & {"wordings", "demonstrations", "validation_categories"}
    changes = [(), (WEIGHTS,), SHOWING, (SHOWING[0],), ('data.validation_categories=["Group 1"]',)]
    for stage in ("metatrain", "teachers", "finetune"):
        identities = [stage_identity(recipe_at(file, *changed), stage, Sources()) for changed in changes]
        assert len(set(identities)) == len(changes)
    assert len({score_identity(recipe_at(file, *changed), "x") for changed in changes}) == len(changes)
    recipe = recipe_at(file, WEIGHTS, *SHOWING)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_identities_of_older_recipes_hold() -> None:
    recipe = load_recipe("toy", ["losses.ins_normalized=false"])
    # As they were before these keys existed.
    assert stage_identity(recipe, "finetune", Sources(), content=False) == "3b678c3b8f42d833"
    assert score_identity(recipe, "trained") == "912947171604e0ec"


def test_drawn_demonstrations_belong_to_a_sample(file: Path) -> None:
    recipe = recipe_at(file, *SHOWING)
    batch = stage_of("finetune").task_batches(recipe, load_tasks(recipe, "train"))
    old = stage_of("finetune").task_batches(recipe_at(file), load_tasks(recipe, "train"))[0][0]
    # As it was before demonstrations were drawn.
    assert sample_key(old) == "c9ef91a29f7b4b690dd997b7"
    rows = [sample for at in range(9) for sample in batch[at]]
    keys = {
        (sample.task.name, sample.instruction, sample.input, sample.examples): sample_key(sample) for sample in rows
    }
    assert len(set(keys.values())) == len(keys)
    assert len({key[:3] for key in keys}) < len(keys)


def test_batches_of_the_toy_recipe_are_what_they_always_were() -> None:
    recipe = load_recipe("toy")
    batch = stage_of("finetune").task_batches(recipe, load_tasks(recipe, "train"))
    rows = [(row.task.name, row.instruction, row.input, row.target) for at in range(7) for row in batch[at]]
    assert len(rows) == 7 * 64
    assert rows[5 * 64 + 26] == (
        "toy-animal-food-plural",
        "please turn each into its plural form , using the one that is an animal and the food .",
        "nurse nail cat hill pear",
        "cats pears",
    )
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "52706be1bda7e6e9"
