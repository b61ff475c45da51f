"""All methods on one recipe, from training to one table: what is shared, what a second call adds, what is refused."""

import json
from pathlib import Path

import pytest

from tagi.errors import ConfigError
from tagi.settings.methods import method_names
from tagi.settings.stages import STAGES
from tagi.stages.compare_methods import MethodComparison, _applying, _bounds, compare_methods, shown_rows
from tagi.stages.recipes import load_recipe
from tests.commands import Run

TINY = [
    *("training.tasks_per_batch=3", "training.queries_per_task=2", "training.report_to=[]"),
    *("training.teachers.tasks_per_batch=3", "training.teachers.queries_per_task=2"),
    *("training.pretrain.tasks_per_batch=2", "data.instances_per_task=24", "data.test_instances_per_task=2"),
    *("evaluation.max_new_tokens=2", "training.single.tasks_per_batch=1", "training.single.queries_per_task=2"),
]
SOME = ("no-ft", "tk-instruct", "fid-icl", "hypter", "tagi")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of a few methods. Never write into it."""
    out = tmp_path_factory.mktemp("rivals") / "out"
    asked = MethodComparison(SOME, steps=1, inputs=2, pairs=2)
    compare_methods("toy", asked, out, overrides=TINY, progress=False)
    return out


def test_every_method_has_a_row_with_its_figures(finished: Path) -> None:
    record = json.loads((finished / "record.json").read_text(encoding="utf-8"))
    assert record["kind"] == "methods"
    rows = {row["method"]: row for row in record["methods"]}
    assert tuple(rows) == SOME  # the paper's order
    assert rows["no-ft"]["steps"] == rows["no-ft"]["tuned"] == 0
    assert {name: row["steps"] for name, row in rows.items() if name != "no-ft"} == dict.fromkeys(SOME[1:], 1)
    assert rows["no-ft"]["flops"] == rows["tk-instruct"]["flops"] == pytest.approx(1.0)
    assert rows["fid-icl"]["flops"] > 1.0
    assert rows["hypter"]["generated"] > 0
    assert rows["tk-instruct"]["generated"] == 0
    assert rows["tk-instruct"]["minus_reference"] is None
    assert rows["tagi"]["minus_reference"]["tasks"] == 24
    assert {row["n"] for row in rows.values()} == {48}
    assert all(row["time"]["ratio"] > 0 for row in rows.values())
    assert (finished / "methods.md").read_text(encoding="utf-8").count("\n") == 2 + len(SOME)


def test_stages_that_methods_share_are_trained_once(finished: Path) -> None:
    kinds = [folder.name.rpartition("-")[0] for folder in (finished / "shared").iterdir()]
    assert kinds.count("metatrain") == 3  # none, all, with demonstrations
    assert kinds.count("finetune") == 2
    assert kinds.count("evaluate") == 2


def test_a_second_call_adds_to_the_table_and_trains_nothing_again(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "shared").rglob("record.json")}
    record = compare_methods(
        "toy", MethodComparison(("hypter",), (0, 1), steps=1, inputs=2, pairs=2), out, overrides=TINY, progress=False
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = {row["method"]: row for row in record["methods"]}
    assert tuple(rows) == SOME
    assert list(rows["hypter"]["seeds"]) == [0, 1]
    assert "," in next(row for row in shown_rows(record) if row["method"] == "Hypter")["seeds"]


def test_a_budget_bounds_what_a_method_itself_says() -> None:
    """Full FT has steps of its own, which no recipe has."""
    recipe = load_recipe("toy+full-ft")
    assert recipe.training_for("single").steps == 300
    bounded = load_recipe("toy+full-ft", _bounds(recipe, 7))
    assert all(bounded.training_for(stage).steps == 7 for stage in STAGES)
    assert load_recipe("toy+full-ft", _bounds(recipe, 10**6)) == recipe
    assert _bounds(recipe, None) == []


def test_a_fault_of_any_method_comes_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of no-ft"):
        compare_methods("toy", MethodComparison(("tagi", "hitn")), tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match="losses"):
        compare_methods(
            "toy", MethodComparison(("tagi",)), tmp_path / "out", overrides=["losses.kl=-1"], progress=False
        )
    assert not (tmp_path / "out").exists()


def test_fields_of_one_architecture_are_not_set_in_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backbone that a decoder-only method makes has no `d_ff`; the others have, and both have a seed."""
    overrides = ["backbone.config.d_ff=19", "backbone.config.num_layers=1", "data.instances_per_task=24"]
    applying = {name: _applying("sni-small", name, overrides) for name in ("tagi", "hint", "causal")}
    assert applying == {"tagi": overrides, "hint": overrides, "causal": overrides[2:]}
    asked = MethodComparison(("no-ft", "causal"), steps=1, inputs=2, pairs=2)
    small = ("{d_model=12, d_kv=5, d_ff=17, num_layers=1, num_heads=2, vocab_size=251}", "d_ff=19")
    made = [
        "backbone.name=config",
        "backbone.tokenizer=toy",
        f"backbone.config={small[0]}",
        f"backbone.config.{small[1]}",
    ]
    record = compare_methods("toy", asked, tmp_path / "out", overrides=[*TINY, *made])
    assert [row["method"] for row in record["methods"]] == ["no-ft", "causal"]
    said = "not applied to causal, whose backbone is made from its own configuration: "
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("not applied"))
    assert line == f"{said}backbone.config, backbone.config.d_ff"


def test_the_command_lists_runs_and_refuses(run_tagi: Run, finished: Path, tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    listed = json.loads(run_tagi("methods", "toy", "--json").out)
    assert [row["method"] for row in listed] == method_names()
    assert "generator.placement = 'attention'" in run_tagi("methods", "toy", "--keys").out
    ran = run_tagi(
        "compare", "--methods", "no-ft", "toy", "--steps", "1", *settings, "--out", tmp_path / "out", "--json"
    )
    assert ran.code == 0, ran.err
    assert [row["method"] for row in json.loads(ran.out)["methods"]] == ["no-ft"]
    for asked, said in (
        (("--methods", "hitn", "toy"), "did you mean hint?"),
        (("--methods", "all", "toy", "other"), "expected one recipe with --methods"),
        (("--methods", "all", "toy", "--seeds", "0,x"), "expected whole numbers and commas"),
        (("runs/one",), "expected the folders of two evaluations"),
    ):
        ran = run_tagi("compare", *asked)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
        assert said in ran.err
