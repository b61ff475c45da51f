import json
from pathlib import Path

from tagi.config.recipes import list_recipes, recipe_text
from tests.commands import Run


def test_list_is_a_table_or_json(run_tagi: Run) -> None:
    shipped = list_recipes()
    table, as_json = run_tagi("recipes", "list"), run_tagi("recipes", "list", "--json")
    assert (table.code, as_json.code) == (0, 0)
    assert json.loads(as_json.out) == shipped
    rows = [line.split()[0] for line in table.out.splitlines() if line.strip()]
    assert rows[0] == "name"
    assert {one["name"] for one in shipped} <= set(rows)


def test_show_prints_the_recipe_as_it_is(run_tagi: Run, tmp_path: Path) -> None:
    assert run_tagi("recipes", "show", "toy").out == recipe_text("toy")
    mine = tmp_path / "mine.toml"
    mine.write_text("# só\n", encoding="utf-8")
    assert run_tagi("recipes", "show", mine).out == "# só\n"


def test_copy_then_check(run_tagi: Run, tmp_path: Path) -> None:
    target = tmp_path / "new" / "mine.toml"
    copied = run_tagi("recipes", "copy", "sni-base", target)
    assert (copied.code, copied.out) == (0, f"{target}\n")
    checked = run_tagi("recipes", "check", target, "toy", "--set", "training.learning_rate=1e-3")
    assert (checked.code, checked.out, checked.err) == (0, f"{target}: ok\ntoy: ok\n", "")
    again = run_tagi("recipes", "copy", "toy", target)
    assert (again.code, again.out) == (2, "")
    assert again.err == f"error: {target}: expected a path that does not exist yet, got an existing file\n"


def test_every_shipped_recipe_passes_the_check(run_tagi: Run) -> None:
    names = [one["name"] for one in list_recipes()]
    checked = run_tagi("recipes", "check", *names)
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.splitlines() == [f"{name}: ok" for name in names]


def test_check_names_every_fault_of_every_recipe(run_tagi: Run) -> None:
    ran = run_tagi("recipes", "check", "toy", "nowhere.toml", "sni-base", "--set", "data.path=x", "--set", "zzz=2")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "error: toy: data.path: expected no path with data.source = 'toy', got 'x'; zzz: unknown key",
        "error: nowhere.toml: expected a readable TOML file, got: No such file or directory",
        "error: sni-base: zzz: unknown key",
    ]


def test_check_as_json_holds_the_faults(run_tagi: Run) -> None:
    ran = run_tagi("recipes", "check", "toy", "sni-small", "--set", "data.path=x", "--json")
    assert ran.code == 2
    assert json.loads(ran.out) == [
        {
            "recipe": "toy",
            "valid": False,
            "faults": ["data.path: expected no path with data.source = 'toy', got 'x'"],
        },
        {"recipe": "sni-small", "valid": True, "faults": []},
    ]


def test_an_unknown_recipe_is_one_line_and_code_2(run_tagi: Run) -> None:
    ran = run_tagi("recipes", "show", "toyy")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: expected a TOML file or a shipped recipe (")
    assert ran.err.endswith("got 'toyy'; did you mean toy?\n")
    assert ran.err.count("\n") == 1
