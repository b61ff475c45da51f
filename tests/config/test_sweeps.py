"""Points of sweeps: how many, what they change, that each of them loads, and what is refused."""

import pytest

from tagi.config.sweeps import Point, sweep_points
from tagi.errors import ConfigError
from tagi.stages.identity import stage_identity
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe

PAPER = ["sni-base", "sni-xl", "sni-xxl", "p3-base", "p3-large", "p3-xl-t0"]


def labels(points: list[Point]) -> list[str]:
    return [point.label for point in points]


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("grid", ["table4", "table7", "figure3", "figure4-alignment"])
def test_every_point_of_every_grid_loads(name: str, grid: str) -> None:
    grid = f"figure3-{name.partition('-')[0]}" if grid == "figure3" else grid
    points = sweep_points(name, grids=[grid])
    recipes = [load_recipe(name, point.overrides).model_dump_json() for point in points]
    assert len(set(recipes)) == len(set(labels(points))) == len(points) > 3


def test_table_7_varies_one_thing_at_a_time_and_has_the_default_once() -> None:
    assert labels(sweep_points("sni-base", grids=["table7"])) == [
        *("learning rate 5e-5", "default", "learning rate 3e-4", "learning rate 1e-3"),
        *("rank 16", "rank 64", "15000 steps", "25000 steps", "warm-up 0.01", "warm-up 0.03"),
    ]
    own = load_recipe("sni-base")
    for point in sweep_points("sni-base", grids=["table7"]):
        recipe = load_recipe("sni-base", point.overrides)
        assert recipe.generator.alpha / recipe.generator.rank == 2.0
        for stage in ("metatrain", "teachers", "pretrain"):
            assert recipe.training_for(stage) == own.training_for(stage)  # so that they can be shared
    assert "learning rate 5e-5" not in labels(sweep_points("sni-xl", grids=["table7"]))


@pytest.mark.parametrize(
    ("name", "stage", "others"),
    [
        ("sni-base+tk-instruct", "metatrain", []),
        ("p3-base+tk-instruct", "metatrain", []),
        ("sni-base+tk-instruct-lora", "metatrain", ["rank 16", "rank 64"]),
        ("sni-base+simple-ft", "single", []),
        ("sni-base+hint", "finetune", []),
        ("sni-base+hyperlora", "finetune", ["rank 16", "rank 64"]),
    ],
)
def test_table_7_varies_the_stage_that_a_recipe_trains(name: str, stage: str, others: list[str]) -> None:
    points = sweep_points(name, grids=["table7"])
    rates = [load_recipe(name, point.overrides).training_for(stage).learning_rate for point in points]  # type: ignore[arg-type]
    steps = [load_recipe(name, point.overrides).training_for(stage).steps for point in points]  # type: ignore[arg-type]
    assert len(set(rates)) == 4
    assert {15000, 25000} < set(steps)
    assert [label for label in labels(points) if label.startswith("rank")] == others
    identities = {stage_identity(load_recipe(name, one.overrides), stage, Sources(), content=False) for one in points}
    assert len(identities) == len(points) >= 8 + len(others)


def test_the_rank_of_a_metatrained_lora_is_varied_where_it_is_given() -> None:
    points = sweep_points("smollm2+tk-instruct-lora", grids=["table7"])
    loaded = {one.label: load_recipe("smollm2+tk-instruct-lora", one.overrides).metatrain for one in points}
    assert {label: own.rank for label, own in loaded.items() if label.startswith("rank")} == {
        "rank 16": 16,
        "rank 32": 32,
        "rank 64": 64,
    }


def test_table_4_is_the_whole_and_six_without_a_part() -> None:
    points = sweep_points("p3-xl", grids=["table4"])
    assert points[0] == Point("default")
    assert {point.label: point.overrides for point in points[1:]} == {
        "without pretraining": ('run.stages=["metatrain", "teachers", "finetune"]',),
        "without attention in the encoder": ("generator.fusion=concatenation",),
        "without instruction fusion": ("generator.fusion=none",),
        "without L_pred": ("losses.prediction=0.0",),
        "without L_kl": ("losses.kl=0.0",),
        "without L_ins": ("losses.ins=0.0",),
    }
    assert "without L_ins" not in labels(sweep_points("sni-xxl", grids=["table4"]))  # it has none
    # What the LoRA-only recipe leaves out already is no point of its own.
    assert labels(sweep_points("toy-lora-only", grids=["table4"])) == [
        *("default", "without attention in the encoder", "without L_pred"),
    ]


def test_the_figures_take_the_papers_splits() -> None:
    splits = {"sni-base": ("figure3-sni", [6, 15, 30, 60]), "p3-base": ("figure3-p3", [5, 10, 20, 36])}
    for name, (grid, sizes) in splits.items():
        points = sweep_points(name, grids=[grid])
        assert [load_recipe(name, point.overrides).data.task_split for point in points] == sizes
        aligned = [load_recipe(name, one.overrides).losses for one in sweep_points(name, grids=["figure4-alignment"])]
        assert [(losses.ins, losses.alignment_split) for losses in aligned] == [
            (0.0, None),
            *((1.0, size) for size in sizes),
        ]


def test_alignment_brings_its_teachers_where_the_recipe_has_none() -> None:
    none, *aligned = sweep_points("sni-xxl", grids=["figure4-alignment"])
    assert none == Point("default")
    for point in aligned:
        recipe = load_recipe("sni-xxl", point.overrides)
        assert recipe.losses.ins == 1.0
        assert recipe.run.stages == ["metatrain", "teachers", "pretrain", "finetune"]


def test_keys_with_values_one_at_a_time_or_crossed() -> None:
    over = ["losses.kl=0,1.0,2", "generator.rank=4, 8"]
    assert labels(sweep_points("toy", over=over)) == ["losses.kl=0", "default", "losses.kl=2", "generator.rank=4"]
    crossed = sweep_points("toy", over=over, cross=True)
    assert len(crossed) == 6
    assert crossed[2] == Point("losses.kl=1.0, generator.rank=4", ("losses.kl=1.0", "generator.rank=4"))
    assert crossed[3] == Point("default")
    assert len(sweep_points("p3-base", grids=["figure3-p3"], over=["losses.ins=0,1.0"], cross=True)) == 8


def test_a_comma_inside_brackets_or_quotes_separates_nothing() -> None:
    points = sweep_points("toy", over=["training.report_to=[],[\"wandb\", 'mlflow']", 'name="a,b",c'])
    loaded = [load_recipe("toy", point.overrides) for point in points]
    assert [recipe.training.report_to for recipe in loaded[:2]] == [(), ("wandb", "mlflow")]
    assert [recipe.name for recipe in loaded[2:]] == ["a,b", "c"]
    taken_away = sweep_points("toy", over=["training.metatrain.steps=,900"])
    assert [load_recipe("toy", point.overrides).training_for("metatrain").steps for point in taken_away] == [1000, 900]


def test_the_default_is_the_recipe_with_the_overrides_of_all_points() -> None:
    over = ["training.finetune.learning_rate=1e-4,3e-4"]
    shifted = sweep_points("sni-base", over=over, overrides=["training.learning_rate=3e-4"])
    assert labels(shifted) == ["training.finetune.learning_rate=1e-4", "default"]


@pytest.mark.parametrize(
    ("name", "asked", "fault"),
    [
        ("toy", {}, "sweep: expected a grid (table4, table7, figure3-sni, figure3-p3, figure4-alignment) or a key"),
        ("toy", {"grids": ["table77"]}, "got 'table77'; did you mean table7?"),
        ("p3-xl", {"grids": ["figure3-sni"]}, "grid figure3-sni: expected data.source = 'sni', got 'p3'"),
        ("toy", {"grids": ["figure4-alignment"]}, "grid figure4-alignment: expected data.source of sni, p3, got 'toy'"),
        (
            "toy+no-ft",
            {"grids": ["table7"]},
            "grid table7: expected a recipe that trains anything, got run.stages = metatrain with metatrain.tune = ",
        ),
        (
            "sni-base+tk-instruct",
            {"grids": ["table4"]},
            "grid table4: expected a recipe that trains 'finetune', got run.stages = metatrain",
        ),
        (
            "p3-base+full-ft",
            {"grids": ["figure3-p3"]},
            "expected a recipe that trains 'metatrain' or 'teachers' or 'finetune', got run.stages = single",
        ),
        (
            "p3-base+tk-instruct",
            {"grids": ["figure4-alignment"]},
            "grid figure4-alignment: expected a recipe that trains 'finetune', got run.stages = metatrain",
        ),
        ("toy", {"over": ["losses.kl"]}, "sweep over 'losses.kl': expected KEY=VALUE,VALUE,... with a dotted key"),
        ("toy", {"over": ["losses.kl= "]}, "sweep over 'losses.kl= ': expected KEY=VALUE"),
        (
            "toy",
            {"over": ["losses.kl=-1,0", "losses.klo=2"]},
            "losses.kl=-1: recipe 'toy': losses.kl: expected at least 0.0, got -1; "
            "losses.klo=2: recipe 'toy': losses.klo: unknown key, did you mean losses.kl?",
        ),
        ("toyy", {"over": ["losses.kl=0"]}, "got 'toyy'; did you mean toy?"),
    ],
)
def test_what_is_no_sweep_is_refused(name: str, asked: dict[str, list[str]], fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sweep_points(name, **asked)  # type: ignore[arg-type]
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)
