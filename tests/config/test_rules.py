"""Ranges and the rules between keys: every broken recipe is refused by one line that names the key."""

import pytest

from tagi.config import check_recipe, load_recipe
from tagi.config.faults import known_keys

BROKEN = [
    ("sni-base", ["training.pretrain.steps=many"], "training.pretrain.steps: expected a whole number, got 'many'"),
    ("p3-base", ["data.max_target_tokens=0"], "data.max_target_tokens: expected at least 1, got 0"),
    ("p3-small", ["pretraining.max_tokens=0"], "pretraining.max_tokens: expected at least 1, got 0"),
    ("sni-xl", ["losses.temprature=2.0"], "losses.temprature: unknown key, did you mean losses.temperature?"),
    (
        "sni-xl",
        ["training.optimizer=adam"],
        "training.optimizer: expected 'adamw', 'adafactor' or 'adafactor-scaled', got 'adam'",
    ),
    (
        "toy",
        ["losses.contrast=0.1", "training.finetune.tasks_per_batch=1"],
        "losses.contrast: expected training.finetune.tasks_per_batch of at least 2 with it, got 1",
    ),
    (
        "toy",
        ["run.start=metatrained", "metatrain.tune=lora"],
        "run.start: expected metatrain.tune = 'all' to start on the whole model, got 'lora'",
    ),
    ("sni-base", ["training.patience=3"], "training.patience: expected validate_every with it, got 3 alone"),
    (
        "sni-base",
        ["training.metatrain.patience=2"],
        "training.metatrain.patience: expected validate_every with it, got 2 alone",
    ),
    (
        "sni-base",
        ["training.validate_every=500"],
        "training.validate_every: expected data.validation_tasks of at least 1 with it, got 500 and no tasks",
    ),
    (
        "toy",
        ["training.finetune.validate_every=50"],
        "training.finetune.validate_every: expected data.validation_tasks of at least 1 with it, got 50 and no tasks",
    ),
    (
        "toy",
        ["data.validation_tasks=4", "training.pretrain.validate_every=5"],
        "training.pretrain.validate_every: expected none, since only metatrain and finetune are scored on tasks, got 5",
    ),
    (
        "toy",
        ["data.validation_tasks=4", "training.teachers.validate_every=7"],
        "training.teachers.validate_every: expected none, since only metatrain and finetune are scored on tasks, got 7",
    ),
    (
        "toy-backbone",
        ["data.validation_tasks=4", "training.backbone.validate_every=9"],
        "training.backbone.validate_every: expected none, since only metatrain and finetune are scored on tasks, got 9",
    ),
    ("sni-base", ["data.task_split=36"], "data.task_split: expected one of 6, 15, 30, 60 with sni, got 36"),
    ("toy", ["data.task_split=6"], "data.task_split: expected no split with data.source = 'toy', got 6"),
    (
        "p3-xl",
        ["losses.alignment_split=6"],
        "losses.alignment_split: expected one of 5, 10, 20, 36 with data.source = 'p3', got 6",
    ),
    (
        "toy",
        ['run.stages=["pretrain", "metatrain", "finetune"]'],
        "run.stages: expected some of metatrain, teachers, pretrain, finetune in this order, ending in finetune, "
        "got pretrain, metatrain, finetune",
    ),
    (
        "toy",
        ['run.stages=["metatrain", "teachers"]'],
        "run.stages: expected some of metatrain, teachers, pretrain, finetune in this order, ending in finetune, "
        "got metatrain, teachers",
    ),
    (
        "p3-base",
        ['run.stages=["metatrain", "pretrain", "finetune"]'],
        "run.stages: expected 'teachers' among stages (losses.ins), got metatrain, pretrain, finetune",
    ),
    (
        "p3-base",
        ['run.stages=["teachers", "finetune"]'],
        "run.stages: expected 'metatrain' among stages (losses.teacher = 'metatrained'), got teachers, finetune",
    ),
    (
        "toy",
        ["teacher.base=metatrained", 'run.stages=["teachers", "finetune"]'],
        "run.stages: expected 'metatrain' among stages (teacher.base = 'metatrained'), got teachers, finetune",
    ),
    (
        "sni-xxl",
        ["pretraining="],
        "run.stages: expected a table [pretraining] (stage pretrain), got metatrain, pretrain, finetune",
    ),
    (
        "sni-base",
        ["run.start=metatrained"],
        "run.start: expected generator.tune = 'all' to start on the meta-trained model, got 'norms+embeddings'",
    ),
    (
        "toy-lora-only",
        ["run.start=metatrained"],
        "run.start: expected 'metatrain' among run.stages to start from it, got none",
    ),
    (
        "sni-base",
        ["pretraining.path="],
        "pretraining.path: expected a folder or file with pretraining.source = 'c4', got nothing",
    ),
    ("p3-small", ["backbone.config.d_model=0"], "backbone.config.d_model: expected at least 1, got 0"),
    (
        "p3-small",
        ["backbone.tokenizer="],
        "backbone.tokenizer: expected a folder or hub name with backbone.name = 'config', got nothing",
    ),
    (
        "p3-base",
        ["data.source=sni"],
        "data.test_path: expected no test_path with data.source = 'sni', got 'p3/eval'",
    ),
    ("p3-base", ["data.test_path="], "data.templates: expected data.test_path with it, got 'p3/templates' alone"),
    ("sni-base", ["data.templates=here"], "data.templates: expected data.test_path with it, got 'here' alone"),
    ("toy", ["data.prompts=all"], "data.prompts: expected data.test_path with it, got 'all' alone"),
    ("p3-base", ["data.prompts=some"], "data.prompts: expected 'original' or 'all', got 'some'"),
    ("p3-xl", ["evaluation.choice_score=max"], "evaluation.choice_score: expected 'sum' or 'mean', got 'max'"),
    ("p3-base", ["data.path="], "data.path: expected a path with data.source = 'p3', got nothing"),
]


@pytest.mark.parametrize(("name", "overrides", "fault"), BROKEN, ids=[fault.split(":")[0] for *_, fault in BROKEN])
def test_a_broken_recipe_is_refused_by_its_key(name: str, overrides: list[str], fault: str) -> None:
    assert check_recipe(name) == []
    assert check_recipe(name, overrides) == [fault]
    key = fault.split(":")[0]
    assert ("unknown key" in fault) != (key in known_keys())


def test_two_rules_of_one_table_are_both_named() -> None:
    overrides = ['run.stages=["metatrain", "finetune"]', "run.start=metatrained", "generator.tune=ffn"]
    assert check_recipe("toy", overrides) == [
        "run.stages: expected 'teachers' among stages (losses.ins), got metatrain, finetune",
        "run.start: expected generator.tune = 'all' to start on the meta-trained model, got 'ffn'",
    ]


def test_validation_is_of_the_stages_that_are_scored() -> None:
    recipe = load_recipe(
        "toy",
        [
            "data.validation_tasks=5",
            "training.validate_every=40",
            "training.patience=3",
            "training.finetune.validate_every=70",
        ],
    )
    validated = {
        stage: (recipe.training_for(stage).validate_every, recipe.training_for(stage).patience)
        for stage in ("backbone", "metatrain", "teachers", "pretrain", "finetune")
    }
    assert validated == {
        "backbone": (None, None),
        "metatrain": (40, 3),
        "teachers": (None, None),
        "pretrain": (None, None),
        "finetune": (70, 3),
    }
    assert check_recipe("toy", ["data.validation_tasks=5", "training.validate_every=40"]) == []
    assert check_recipe("toy", ["training.finetune.patience=2", "training.finetune.validate_every=7"]) == [
        "training.finetune.validate_every: expected data.validation_tasks of at least 1 with it, got 7 and no tasks"
    ]
