"""Methods as changes to recipes: every one loads on every shipped recipe that trains tasks, and says what it is."""

import re
import tomllib
from pathlib import Path

import pytest

from tagi.config.methods import chosen_methods, method_row, method_rows, with_method
from tagi.config.recipes import copy_recipe, recipe_names, recipe_text
from tagi.errors import ConfigError
from tagi.settings import methods
from tagi.settings.methods import implementations, method_names
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import CHARACTERISTICS, characteristics

TABLE8 = {
    "simple-ft": "..XX....",
    "tk-instruct": "X.XX...X",
    "hypter": "X...XX.X",
    "hyperprefix": "XX..XX.X",
    "hyperlora": "XX..XX.X",
    "hint": "XXX.XX.X",
    "tagi": "XXXXXXXX",
}
"""The paper's ticks, its last column without degrees."""
RECIPES = [name for name in recipe_names() if name != "toy-backbone"]


def cells(name: str, *overrides: str, recipe: str = "sni-base") -> str:
    found = characteristics(load_recipe(f"{recipe}+{name}", overrides))
    assert tuple(found) == CHARACTERISTICS
    return "".join("X" if one else "." for one in found.values())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", method_names())
def test_every_method_can_be_made_of_every_recipe(recipe: str, name: str) -> None:
    """But for those that need an encoder: a recipe on a decoder-only model refuses them, and "all" lacks them."""
    family = load_recipe(recipe).backbone.family
    able = name in chosen_methods("all", family)
    assert able == (family in method_row(name).families)
    if not able:
        with pytest.raises(ConfigError, match=f"{name}: expected a recipe of backbone.family = 't5', got 'causal'"):
            load_recipe(f"{recipe}+{name}")
        return
    loaded = load_recipe(f"{recipe}+{name}")
    assert loaded.method == method_row(name).title
    assert loaded.name == load_recipe(recipe).name


def test_methods_have_names_titles_and_figures_of_their_own() -> None:
    rows = method_rows()
    assert len({row.title for row in rows}) == len(rows) == len(set(method_names())) >= 15
    assert {row.name: row.flops for row in rows if row.flops}["hint"] == 0.37
    assert {row.name: row.time for row in rows if row.time}["ensemble-icl"] == 13.2


def test_a_file_that_the_papers_order_does_not_name_is_a_method_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = method_names()
    for file in methods._FOLDER.iterdir():
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("zz-two", "zz-one"):
        (tmp_path / f"{name}.toml").write_text(f'title = "{name}"\nsource = "ours"\n', encoding="utf-8")
    monkeypatch.setattr(methods, "_FOLDER", tmp_path)
    assert method_names() == [*shipped, "zz-one", "zz-two"]
    assert load_recipe("toy+zz-two").method == "zz-two"


def test_a_file_that_names_a_class_is_a_method_of_metatrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in methods._FOLDER.iterdir():
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    text = 'title = "Own"\nsource = "ours"\nimplementation = "own_module:Own"\n[recipe]\n"metatrain.method" = "own"\n'
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"metatrain.method: expected .* or 'ensemble-icl', got 'own'"):
        load_recipe("toy", ["metatrain.method=own"])
    monkeypatch.setattr(methods, "_FOLDER", tmp_path)
    monkeypatch.setattr(methods, "implementations", implementations.__wrapped__)
    assert load_recipe("toy+own").metatrain.method == "own"
    assert implementations.__wrapped__()["own"] == "own_module:Own"


def test_a_method_file_that_is_no_toml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.toml").write_text('source = "ours"\ntitle = Odd\n', encoding="utf-8")
    monkeypatch.setattr(methods, "_FOLDER", tmp_path)
    fault = "odd.toml: expected TOML, got: title: Invalid value (at line 2, column 9): text needs quotes"
    with pytest.raises(ConfigError, match=f"^{re.escape(fault)}$"):
        methods.method_file("odd")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("title = 3", "title: expected text, got 3"),
        ('flops = "0.37"', "flops: expected a number, got '0.37'"),
        ('families = "t5"', "families: expected a list, got 't5'"),
        ('familes = ["t5"]', "familes: expected a table, got ['t5']"),
        ("recipe = 1", "recipe: expected a table, got 1"),
    ],
)
def test_a_wrong_value_of_a_method_file_is_named_with_its_key(
    line: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = "" if line.startswith("title") else 'title = "Odd"\n'
    (tmp_path / "odd.toml").write_text(f'{title}source = "ours"\n{line}\n', encoding="utf-8")
    monkeypatch.setattr(methods, "_FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=f"^odd.toml: {re.escape(fault)}$"):
        methods.method_file("odd")


def test_characteristics_are_the_papers_but_for_what_hint_trains() -> None:
    for name, ticks in TABLE8.items():
        if name == "hint":  # the paper's tick for few updated parameters is not HINT's own: it trains all of them
            assert cells(name) == "XXX..X.X"
            assert cells(name, "generator.tune=none") == ticks
        else:
            assert cells(name) == ticks, name


@pytest.mark.parametrize(
    ("name", "overrides", "column"),
    [
        ("tagi", ["run.stages=['metatrain', 'teachers', 'finetune']"], "Pre-Train"),
        ("tagi", ["generator.fusion=attention"], "Instr. Concat."),
        ("tagi", ["generator.fusion=concatenation"], "Instr. Fus."),
        ("tagi", ["generator.tune=all"], "Low Up. Params"),
        (
            "hypter",
            ["losses.kl=1.0", "losses.teacher=metatrained", "run.stages=['metatrain', 'finetune']"],
            "Instr. Learning",
        ),
        ("tk-instruct", ["metatrain.tune=none"], "Meta-Train"),
        ("tk-instruct", ["metatrain.method=fid-icl"], "Low Infer. Cost"),
        ("tk-instruct", ["run.stages=['single']"], "Unseen Task"),
        ("full-ft", ["single.tune=lora"], "Low Up. Params"),
    ],
)
def test_a_key_changes_its_cell(name: str, overrides: list[str], column: str) -> None:
    before, after = (characteristics(load_recipe(f"sni-base+{name}", own)) for own in ([], overrides))
    assert before[column] is not after[column]


def test_a_decoder_only_generator_reads_what_it_keeps() -> None:
    """Inputs go on from the instruction, and what is said with it teaches what is said without."""
    assert cells("tagi", recipe="smollm2") == "X.XXXXXX"
    apart = ("generator.instruction_cache=none", "losses.alone=0", "losses.alone_kl=0")
    assert cells("tagi", *apart, recipe="smollm2") == "X...XX.X"
    assert cells("hyperlora", recipe="smollm2") == "XX..XX.X"


def test_a_source_and_a_recipe_have_keys_of_their_own() -> None:
    assert load_recipe("toy+hypter").generator.bottleneck == 16
    assert load_recipe("sni-base+hypter").generator.bottleneck == 32
    assert load_recipe("sni-small+causal").backbone.name == "config"
    assert load_recipe("sni-base+causal").backbone.name == "openai-community/gpt2-xl"
    assert load_recipe("p3-base+hyperprefix").generator.reads == "demonstrations"
    assert load_recipe("sni-base+hyperprefix").generator.reads == "instruction"


def test_every_method_of_a_decoder_only_recipe_reads_the_same_texts() -> None:
    limits = {load_recipe(f"smollm2+{name}").data.max_input_tokens for name in chosen_methods("all", "causal")}
    assert limits == {load_recipe("smollm2").data.max_input_tokens}


def test_overrides_come_after_the_method() -> None:
    assert load_recipe("toy+hint", ["generator.prefix=7"]).generator.prefix == 7


def test_what_both_make_can_be_shown_and_copied(tmp_path: Path) -> None:
    copied = copy_recipe("toy+hint", tmp_path)
    assert copied.name == "toy-hint.toml"
    assert copied.read_text(encoding="utf-8") == recipe_text("toy+hint")
    assert load_recipe(copied) == load_recipe("toy+hint")
    plain = copy_recipe("toy", tmp_path)
    assert load_recipe(f"{plain}+hypter") == load_recipe("toy+hypter")
    assert load_recipe(Path(f"{plain}+hypter")) == load_recipe("toy+hypter")


def test_what_is_shown_is_read_back_as_it_was() -> None:
    tables = with_method(tomllib.loads(recipe_text("toy")), method_row("hint"))
    assert tomllib.loads(recipe_text("toy+hint")) == tables


def test_the_recipes_own_tables_stay_as_they_are() -> None:
    tables = {"name": "toy", "data": {"source": "toy"}, "generator": {"kind": "query"}}
    changed = with_method(tables, method_row("hypter"))
    assert changed["generator"]["kind"] == "pooled"
    assert tables == {"name": "toy", "data": {"source": "toy"}, "generator": {"kind": "query"}}


def test_a_recipe_is_made_one_method_alone(tmp_path: Path) -> None:
    copied = copy_recipe("toy+hint", tmp_path)
    for name in ("toy+hint+tagi", f"{copied}+tagi"):
        with pytest.raises(
            ConfigError, match=r"toy\+tagi: expected a recipe that no method was made of yet, got .* HINT"
        ):
            load_recipe(name)


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"expected one of no-ft, .*, got 'hitn'; did you mean hint\?"):
        load_recipe("toy+hitn")


def test_a_file_with_a_plus_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a+b.toml"
    path.write_text(recipe_text("toy"), encoding="utf-8")
    assert load_recipe(path) == load_recipe("toy")
