"""Ranges and the rules between keys: every broken recipe is refused by one line that names the key."""

import subprocess
import sys

import pytest

from tagi.config.faults import known_keys
from tagi.stages.recipes import check_recipe, load_recipe

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
        "training.validate_every: expected data.validation_tasks of at least 1, "
        "or data.validation_categories, with it, got 500 and no tasks",
    ),
    (
        "toy",
        ["training.finetune.validate_every=50"],
        "training.finetune.validate_every: expected data.validation_tasks of at least 1, "
        "or data.validation_categories, with it, got 50 and no tasks",
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
    (
        "sni-base",
        ["data.wordings={terse = 0.0, plain = 0.0}"],
        "data.wordings: expected at least one weight above 0, got none",
    ),
    (
        "sni-base",
        ["data.validation_categories=Misc."],
        "data.validation_categories: expected a list, got 'Misc.'",
    ),
    (
        "sni-base",
        ["data.validation_categories=[]"],
        "data.validation_categories: expected a list of at least 1, got []",
    ),
    ("sni-base", ["data.demonstrations=1.5"], "data.demonstrations: expected at most 1.0, got 1.5"),
    (
        "sni-base",
        ["data.positives=0", "data.demonstrations=0.5"],
        "data.demonstrations: expected data.positives of at least 1 with it, got 0.5 and no positives",
    ),
    (
        "sni-base",
        ["data.positives=2", "data.demonstrations=0.5", "generator.reads=demonstrations"],
        "data.demonstrations: expected none with generator.reads = 'demonstrations', which always needs some, got 0.5",
    ),
    (
        "sni-base",
        ["data.validation_tasks=7", 'data.validation_categories=["Misc."]'],
        "data.validation_categories: expected this or data.validation_tasks, got both (data.validation_tasks = 7)",
    ),
    ("sni-base", ["data.task_split=36"], "data.task_split: expected one of 6, 15, 30, 60 with sni, got 36"),
    ("everyday", ["data.path=x"], "data.path: expected no path with data.source = 'everyday', got 'x'"),
    ("toy", ["data.task_split=6"], "data.task_split: expected no split with data.source = 'toy', got 6"),
    (
        "p3-xl",
        ["losses.alignment_split=6"],
        "losses.alignment_split: expected one of 5, 10, 20, 36 with data.source = 'p3', got 6",
    ),
    (
        "toy",
        ['run.stages=["pretrain", "metatrain", "finetune"]'],
        "run.stages: expected some of metatrain, teachers, pretrain, finetune, single in this order, "
        "got pretrain, metatrain, finetune",
    ),
    (
        "toy",
        ["run.stages=[]"],
        "run.stages: expected some of metatrain, teachers, pretrain, finetune, single in this order, got none",
    ),
    (
        "p3-base",
        ['run.stages=["metatrain", "pretrain", "finetune"]'],
        "run.stages: expected 'teachers' among stages (losses.ins), got metatrain, pretrain, finetune",
    ),
    (
        "p3-base",
        ['run.stages=["teachers", "finetune"]'],
        "run.stages: expected 'metatrain' among stages (losses.teacher = 'fid-icl'), got teachers, finetune",
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
        ["data.source=sni", "data.templates="],
        "data.test_path: expected no test_path with data.source = 'sni', got 'p3/eval'",
    ),
    (
        "sni-base",
        ["data.templates=here"],
        "data.templates: expected no templates with data.source = 'sni', got 'here'",
    ),
    ("toy", ["data.datasets=all"], "data.datasets: expected no datasets with data.source = 'toy', got 'all'"),
    ("toy", ["data.inputs=fields"], "data.inputs: expected no inputs with data.source = 'toy', got 'fields'"),
    ("p3-base", ["data.datasets=t0"], "data.datasets: expected 'table-11' or 'all', got 't0'"),
    ("p3-base", ["data.inputs=raw"], "data.inputs: expected 'rendered' or 'fields', got 'raw'"),
    (
        "p3-base+tk-instruct",
        ["metatrain.instruction=false"],
        "metatrain.instruction: expected true with data.source = 'p3', whose prompts hold the template's text, "
        "got false",
    ),
    ("toy", ["data.prompts=all"], "data.prompts: expected data.test_path with it, got 'all' alone"),
    ("p3-base", ["data.prompts=some"], "data.prompts: expected 'original' or 'all', got 'some'"),
    ("p3-xl", ["evaluation.choice_score=max"], "evaluation.choice_score: expected 'sum' or 'mean', got 'max'"),
    (
        "toy",
        ["metatrain.method=fid"],
        "metatrain.method: expected 'concatenation', 'concat-icl', 'fid-icl' or 'ensemble-icl', got 'fid'",
    ),
    ("toy", ["shots.count=0"], "shots.count: expected at least 1, got 0"),
    ("toy", ["shots.path=sets"], "shots.path: expected data.test_path with it, got 'sets' alone"),
    ("toy", ["shots.number=4"], "shots.number: unknown key"),
    ("toy", ["generator.reads=both"], "generator.reads: expected 'instruction' or 'demonstrations', got 'both'"),
    (
        "p3-base",
        ["generator.reads=demonstrations", "data.positives=2"],
        "data.positives: expected 0 with generator.reads = 'demonstrations', since P3's tasks have shots alone, got 2",
    ),
    (
        "toy",
        ["losses.teacher=fid-icl"],
        "run.stages: expected metatrain.method = 'fid-icl' among them (losses.teacher = 'fid-icl'), "
        "got 'concatenation'",
    ),
    (
        "p3-base",
        ["metatrain.method=concat-icl"],
        "run.stages: expected metatrain.method = 'fid-icl' among them (losses.teacher = 'fid-icl'), got 'concat-icl'",
    ),
    (
        "toy",
        ["metatrain.method=fid-icl", "teacher.base=metatrained"],
        "run.stages: expected metatrain.method = 'concatenation' among them (teacher.base = 'metatrained'), "
        "got 'fid-icl'",
    ),
    (
        "toy",
        ["losses.teacher=fid-icl", 'run.stages=["teachers", "finetune"]'],
        "run.stages: expected 'metatrain' among stages (losses.teacher = 'fid-icl'), got teachers, finetune",
    ),
    (
        "p3-base",
        ["generator.module=bottleneck+prefix"],
        "losses.ins: expected generator.module = 'lora' to align with LoRA teachers, got 'bottleneck+prefix'",
    ),
    (
        "p3-base",
        ["generator.module=adapter"],
        "generator.module: expected 'lora', 'bottleneck', 'prefix' or 'bottleneck+prefix', got 'adapter'",
    ),
    ("sni-base", ["generator.placement=cross"], "generator.placement: expected 'attention' or 'ffn', got 'cross'"),
    ("sni-base", ["generator.prefix=0"], "generator.prefix: expected at least 1, got 0"),
    ("sni-base", ["generator.bottleneck=0"], "generator.bottleneck: expected at least 1, got 0"),
    ("sni-base", ["generator.kind=deep"], "generator.kind: expected 'pooled', 'query' or 'component', got 'deep'"),
    ("p3-base", ["data.path="], "data.path: expected a path with data.source = 'p3', got nothing"),
]


BROKEN += [
    (
        "p3-base",
        ["data.test_path=", "data.templates=", "run.stages=['single']"],
        "run.stages: expected data.test_path (stage single), got single",
    ),
    (
        "toy",
        [
            "run.stages=['metatrain', 'teachers', 'pretrain', 'finetune', 'single']",
            *("run.start=metatrained", "generator.tune=ffn"),
        ],
        "run.start: expected generator.tune = 'all' to start on the meta-trained model, got 'ffn'",
    ),
]


BOTH_WAYS = "whose encoder reads a text in both directions"
BROKEN += [
    (
        "toy",
        [f"generator.instruction_cache={cache}"],
        f"generator.instruction_cache: expected no value with backbone.family = 't5', {BOTH_WAYS}, got '{cache}'",
    )
    for cache in ("none", "stock", "adapted")
]
BROKEN += [
    (
        "smollm2",
        ["generator.fusion=attention"],
        "generator.fusion: expected 'none' with generator.instruction_cache = 'adapted', got 'attention'",
    ),
    (
        "smollm2",
        ["generator.instruction_cache=stock", "generator.fusion=concatenation"],
        "run.stages: expected generator.fusion = 'none' or 'attention' with backbone.family = 'causal' and "
        "generator.instruction_cache, which takes the place of concatenation, got 'concatenation'",
    ),
    (
        "smollm2",
        ["generator.instruction_cache=stock", "generator.reader=own"],
        "run.stages: expected generator.reader = 'backbone' for 'finetune' with backbone.family = 'causal', got 'own'",
    ),
    (
        "smollm2",
        ["generator.state_dropout=0.25"],
        "losses.alone: expected generator.state_dropout = 0 with it, since half of the rows are without instruction "
        "anyway, got 0.25",
    ),
    (
        "toy",
        ["losses.alone_kl=0.5", "generator.state_dropout=0.1"],
        "losses.alone_kl: expected generator.state_dropout = 0 with it, since half of the rows are without "
        "instruction anyway, got 0.1",
    ),
    (
        "smollm2",
        ["generator.instruction_cache=none"],
        "losses.alone: expected generator.fusion or generator.instruction_cache other than 'none' with it, since "
        "otherwise every row is asked with the adapter alone, got 1.0",
    ),
    (
        "toy",
        ["generator.state_dropout=0", "losses.alone_kl=0.5", "generator.fusion=none"],
        "losses.alone_kl: expected generator.fusion or generator.instruction_cache other than 'none' with it, since "
        "otherwise every row is asked with the adapter alone, got 0.5",
    ),
    (
        "smollm2",
        ["metatrain.tune=all"],
        "run.start: expected metatrain.tune = 'lora' to be the shared LoRA, got 'all'",
    ),
    (
        "smollm2",
        ["metatrain.rank=7"],
        "run.start: expected metatrain.rank = 16, that of the shared LoRA, got 7",
    ),
    (
        "smollm2",
        ["run.start=backbone"],
        "run.start: expected 'metatrained' with generator.shared_rank and generator.shared_tune = false, since the "
        "shared LoRA is the meta-trained one, got 'backbone'",
    ),
    (
        "toy",
        ["generator.shared_tune=true"],
        "generator.shared_tune: expected generator.shared_rank of at least 1 with it, got True without",
    ),
    (
        "toy",
        ["generator.residual=scales"],
        "generator.residual: expected generator.shared_rank of at least 1 with it, got 'scales' without",
    ),
    (
        "toy",
        ["generator.module=prefix", "losses.ins=0", "generator.shared_rank=5"],
        "generator.shared_rank: expected 0 with generator.module = 'prefix', got 5",
    ),
    (
        "toy",
        ["generator.shared_rank=5", "generator.shared_tune=true", "losses.alignment=factors"],
        "losses.alignment: expected 'product' with losses.ins and generator.shared_rank, whose LoRA has a higher rank "
        "than teachers, got 'factors'",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "fault"), BROKEN, ids=[fault.split(":")[0] for *_, fault in BROKEN])
def test_a_broken_recipe_is_refused_by_its_key(name: str, overrides: list[str], fault: str) -> None:
    assert check_recipe(name) == []
    assert check_recipe(name, overrides) == [fault]
    key = fault.split(":")[0]
    assert ("unknown key" in fault) != (key in known_keys())


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("toy", ["generator.state_dropout=0", "losses.alone=0.5", "losses.alone_kl=0.25"]),
        ("toy", ["generator.shared_rank=5", "generator.shared_tune=true", "losses.alignment=product"]),
        ("smollm2", ["metatrain.rank=16"]),
        ("smollm2", ["run.start=backbone", "generator.shared_tune=true"]),
        ("smollm2", ["run.start=backbone", "run.stages=['finetune']"]),
        ("smollm2", ["metatrain.tune=all", "run.stages=['metatrain']"]),
        ("smollm2", ["generator.instruction_cache=none", "losses.alone=0", "losses.alone_kl=0"]),
        ("smollm2", ["generator.instruction_cache=none", "generator.fusion=attention"]),
        ("smollm2", ["generator.instruction_cache=stock", "generator.fusion=attention"]),
    ],
)
def test_what_is_possible_is_not_refused(name: str, overrides: list[str]) -> None:
    assert check_recipe(name, overrides) == []


def test_two_rules_of_one_table_are_both_named() -> None:
    overrides = ['run.stages=["metatrain", "finetune"]', "run.start=metatrained", "generator.tune=ffn"]
    assert check_recipe("toy", overrides) == [
        "run.stages: expected 'teachers' among stages (losses.ins), got metatrain, finetune",
        "run.start: expected generator.tune = 'all' to start on the meta-trained model, got 'ffn'",
    ]


def test_rules_between_tables_are_checked_beside_faults_of_other_tables() -> None:
    """A rule about a table with a fault of its own is not checked."""
    overrides = ["losses.kl=-1", "generator.instruction_cache=stock", 'run.stages=["metatrain", "finetune"]']
    assert check_recipe("toy", [*overrides, "metatrain.method=fid-icl", "metatrain.instruction=false"]) == [
        f"generator.instruction_cache: expected no value with backbone.family = 't5', {BOTH_WAYS}, got 'stock'",
        "metatrain.instruction: expected true with method = 'fid-icl', got false",
        "losses.kl: expected at least 0.0, got -1",
    ]
    assert check_recipe("toy", overrides[1:]) == [
        f"generator.instruction_cache: expected no value with backbone.family = 't5', {BOTH_WAYS}, got 'stock'",
        "run.stages: expected 'teachers' among stages (losses.ins), got metatrain, finetune",
    ]


def test_rules_are_checked_without_torch() -> None:
    code = (
        "import sys; from tagi.stages.recipes import check_recipe; check_recipe('toy'); "
        "print(*({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


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
        "training.finetune.validate_every: expected data.validation_tasks of at least 1, "
        "or data.validation_categories, with it, got 7 and no tasks"
    ]


def test_weights_of_wordings_are_not_negative_numbers() -> None:
    assert load_recipe("toy", ["data.wordings={definition = 1, 3 = 0.5}"]).data.wordings == {"definition": 1, "3": 0.5}
    assert check_recipe("toy", ["data.wordings.terse=-0.5", "data.wordings.plain=many"]) == [
        "data.wordings.terse: expected at least 0.0, got -0.5",
        "data.wordings.plain: expected a number, got 'many'",
    ]


@pytest.mark.parametrize("module", ["bottleneck", "prefix", "bottleneck+prefix"])
def test_what_is_generated_is_chosen_by_its_keys(module: str) -> None:
    """With no LoRA to align; sizes and places of what is not generated are no faults."""
    changed = [f"generator.module={module}", "losses.ins=0", "generator.placement=ffn", "generator.prefix=7"]
    generator = load_recipe("p3-base", changed).generator
    assert (generator.module, generator.placement, generator.prefix, generator.bottleneck) == (module, "ffn", 7, 64)
    plain = load_recipe("p3-base").generator
    assert (plain.module, plain.placement, plain.prefix, plain.bottleneck) == ("lora", "attention", 30, 64)
    odd = load_recipe("toy", ["generator.kind=component", "generator.heads=3"]).generator  # of the query kind alone
    assert (odd.kind, odd.heads) == ("component", 3)
