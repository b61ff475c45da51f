from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tagi.config.faults import known_keys, nearest_key
from tagi.config.recipes import copy_recipe, recipe_text
from tagi.errors import ConfigError
from tagi.settings.training import StageSettings, TrainingSettings
from tagi.stages.recipes import check_recipe, load_recipe

VALID = """
name = "mine"
[backbone]
name = "toy"
[generator]
kind = "query"
alpha = 6.0
hidden = 48
[data]
source = "toy"
[training]
steps = 7
tasks_per_batch = 3
queries_per_task = 2
learning_rate = 0.001
[training.metatrain]
steps = 5
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("steps = 7", "steps = 7\nstepps = 8", "training.stepps: unknown key, did you mean training.steps?"),
        ("steps = 7", "steps = 7\nrank = 3", "training.rank: unknown key, did you mean generator.rank?"),
        ("steps = 7", "steps = 7\nseed = 0", "training.seed: unknown key, did you mean seed?"),
        ("alpha = 6.0", "alpha = 6.0\nseed = 3", "generator.seed: unknown key, did you mean seed?"),
        ("steps = 7", "steps = 0", "training.steps: expected at least 1, got 0"),
        ("steps = 5", "steps = 5.5", "training.metatrain.steps: expected a whole number, got 5.5"),
        ("alpha = 6.0", "", "generator.alpha: expected a value, got nothing"),
        ("alpha = 6.0", "alpha = '6'", "generator.alpha: expected a number, got '6'"),
        ("alpha = 6.0", "alpha = nan", "generator.alpha: expected a finite number, got nan"),
        (
            "alpha = 6.0",
            "alpha = 6.0\nheads = 5",
            "generator.heads: expected a divisor of generator.width (64), got 5",
        ),
        ('"query"', '"queries"', "generator.kind: expected 'pooled', 'query' or 'component', got 'queries'"),
        ('name = "toy"', 'name = ""', "backbone.name: expected some text, got ''"),
        (
            'name = "toy"',
            'name = "toy"\nrevision = "a"',
            "backbone.revision: expected no revision with backbone.name",
        ),
        (
            'name = "toy"',
            'name = "toy"\ntokenizer = "a"',
            "backbone.tokenizer: expected no tokenizer with backbone",
        ),
        (
            'name = "toy"',
            'name = "toy"\nconfig = {}',
            "backbone.config: expected no table with backbone.name = 'toy'",
        ),
        (
            'source = "toy"',
            'source = "sni"',
            "data.path: expected a path with data.source = 'sni', got nothing",
        ),
        (
            'source = "toy"',
            'source = "toy"\npath = "x"',
            "data.path: expected no path with data.source = 'toy', got 'x'",
        ),
        ('source = "toy"', 'source = "toy"\npositives = 9', "data.positives: expected at most 8, got 9"),
        ('source = "toy"', 'source = "toy"\ntruncate = 1', "data.truncate: expected true or false, got 1"),
        ('name = "mine"', 'name = "mine"\nseed = true', "seed: expected a whole number, got true"),
        ('name = "mine"', 'name = "mine"\nevaluation = 4', "evaluation: expected a table, got 4"),
    ],
)
def test_a_fault_is_named_by_its_key(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert check_recipe(write(tmp_path, VALID)) == []
    file = write(tmp_path, VALID.replace(old, new, 1))
    faults = check_recipe(file)
    assert len(faults) == 1
    assert faults[0].startswith(fault)
    with pytest.raises(ConfigError) as raised:
        load_recipe(file)
    assert str(raised.value) == f"{file}: {faults[0]}"


def test_a_made_backbone_is_checked_field_by_field() -> None:
    overrides = [
        "backbone.tokenizer=",
        "backbone.config.d_model=0",
        "backbone.config.d_fff=3",
        "backbone.config.d_kv=",
    ]
    assert check_recipe("sni-small", overrides) == [
        "backbone.tokenizer: expected a folder or hub name with backbone.name = 'config', got nothing",
        "backbone.config.d_model: expected at least 1, got 0",
        "backbone.config.d_kv: expected a value, got nothing",
        "backbone.config.d_fff: unknown key, did you mean backbone.config.d_ff?",
    ]
    missing = check_recipe("sni-small", ["backbone.config="])
    assert missing == [
        "backbone.config: expected a table of the model's fields with backbone.name = 'config', got nothing"
    ]


def test_all_faults_of_all_kinds_stand_in_one_line() -> None:
    overrides = [
        "generator.rnk=4",
        "training.steps=-1",
        "data.path=elsewhere",
        "nonsense",
        "training.finetune.bf16=2",
    ]
    with pytest.raises(ConfigError) as raised:
        load_recipe("toy", overrides)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("recipe 'toy': ")
    for key in (
        "generator.rnk",
        "training.steps",
        "data.path",
        "override 'nonsense'",
        "training.finetune.bf16",
    ):
        assert f"{key}: " in message
    assert message.count("; ") == 4


def test_overrides_are_typed_and_applied_in_order() -> None:
    recipe = load_recipe(
        "toy",
        [
            "training.learning_rate=3e-4",
            "generator.kind = pooled",
            "training.bf16=true",
            'name="a=b"',
            "training.finetune.steps=11",
            "training.finetune.steps=13",
            "data.source=jsonl",
            "data.path=my folder/tasks.jsonl",
            "evaluation.limit=9",
            "evaluation.limit=",
        ],
    )
    assert recipe.training.learning_rate == 3e-4
    assert recipe.generator.kind == "pooled"
    assert recipe.training.bf16 is True
    assert recipe.name == "a=b"
    assert recipe.training.finetune.steps == 13
    assert recipe.data.path == "my folder/tasks.jsonl"
    assert recipe.evaluation.limit is None


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("training.steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("training..steps=3", "expected key=value"),
        ("seed.x=3", "expected seed to be a table, got 0"),
        (
            "training.learning_rate=1\nsteps = 2",
            "training.learning_rate: expected a number, got '1\\nsteps = 2'",
        ),
    ],
)
def test_a_bad_override_is_quoted(override: str, fault: str) -> None:
    faults = check_recipe("toy", [override])
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_stage_overrides_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, VALID), ["training.metatrain.dropout=0.3"])
    assert recipe.training_for("metatrain").steps == 5
    assert recipe.training_for("metatrain").dropout == 0.3
    assert recipe.training_for("finetune").steps == 7
    assert recipe.training_for("finetune").dropout is None
    assert recipe.training_for("metatrain").tasks_per_batch == 3


def test_an_override_of_all_stages_is_not_lost_to_the_recipes_own_of_one(tmp_path: Path) -> None:
    path = write(tmp_path, VALID)
    for overrides, metatrain in (
        (["training.steps=3"], 3),
        (["training.steps=3", "training.metatrain.steps=4"], 4),
        (["training.metatrain.steps=4", "training.steps=3"], 4),
        (["training.dropout=0.1"], 5),
    ):
        recipe = load_recipe(path, overrides)
        assert recipe.training_for("metatrain").steps == metatrain
        assert recipe.training_for("finetune").steps == (7 if "dropout" in overrides[0] else 3)


def test_a_file_of_tasks_stands_for_a_recipe() -> None:
    recipe = load_recipe("my folder/tasks.csv", ["training.steps=3"])
    assert (recipe.name, recipe.data.path, recipe.training.steps) == ("own-tasks", "my folder/tasks.csv", 3)
    assert load_recipe("1.jsonl").data.path == "1.jsonl"
    assert load_recipe("a.csv", ["data.path=b.csv"]).data.path == "b.csv"


def test_a_stage_may_override_every_training_key() -> None:
    def ranges(table: Any) -> dict[str, object]:
        properties = TypeAdapter(table).json_schema()["properties"]
        kinds = {key: next(iter(schema.get("anyOf", [schema]))) for key, schema in properties.items()}
        return {key: {**kind, "title": None, "default": None} for key, kind in kinds.items()}

    assert ranges(StageSettings) == {key: kind for key, kind in ranges(TrainingSettings).items() if key != "seed"}
    assert ranges(StageSettings)["steps"] == {"type": "integer", "minimum": 1, "title": None, "default": None}
    assert StageSettings().model_dump(exclude_none=True) == {}


def test_the_nearest_key_is_sought_in_the_table_first() -> None:
    assert nearest_key("training.finetune.step") == "training.finetune.steps"
    assert nearest_key("generatr") == "generator"
    assert nearest_key("max_input_tokens") == "data.max_input_tokens"
    assert nearest_key("data.zzz") is None
    assert len(set(known_keys())) == len(known_keys())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"name = \xff", "expected UTF-8 text, got byte 0xff at offset 7"),
        (b"name = ", "expected TOML, got: Invalid value"),
        (None, "expected a readable TOML file, got: No such file or directory"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_recipe(file)
    assert str(raised.value).startswith(f"{file}: {fault}")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"shipped recipe \(.*sni-base.*\), got 'sni-bse'; did you mean sni-base\?"):
        load_recipe("sni-bse")


def test_a_copy_is_the_same_text_and_never_overwrites(tmp_path: Path) -> None:
    copied = copy_recipe("toy", tmp_path)
    assert copied == tmp_path / "toy.toml"
    assert copied.read_text(encoding="utf-8") == recipe_text("toy")
    assert load_recipe(copied) == load_recipe("toy")
    copied.write_text("kept", encoding="utf-8")
    with pytest.raises(ConfigError, match="does not exist yet, got an existing file"):
        copy_recipe("toy", tmp_path)
    assert copied.read_text(encoding="utf-8") == "kept"
    with pytest.raises(ConfigError, match="expected a path that can be written"):
        copy_recipe("toy", copied / "below-a-file.toml")
    assert [file.name for file in tmp_path.iterdir()] == ["toy.toml"]
