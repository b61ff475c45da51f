"""The shapes of the paper's tables and figures, for its data and for any other."""

from collections.abc import Sequence
from typing import Any

import pytest

from tagi.evaluation.reports.ablations import FIGURES, ablation, curve_table, curves, hyperparameters
from tagi.evaluation.reports.groups import Group, grouped
from tagi.evaluation.reports.records import Record
from tagi.evaluation.reports.tables import Cell, Table, by_condition, by_size, p3_averages
from tests.evaluation.reports.made_up import evaluation, result

SCORES = dict.fromkeys("abc", 50.0)


def groups(*made: dict[str, Any]) -> list[Group]:
    return grouped([Record(f"{index}/record.json", content, float(index)) for index, content in enumerate(made)])


def sni(score: float, *overrides: str, recipe: str = "sni-base", **changes: Any) -> dict[str, Any]:
    return evaluation(score, recipe=recipe, overrides=overrides, metric="rougeL", **changes)


def cell(table: Table, row: str, column: str) -> Cell:
    (cells,) = [cells for name, cells in table.rows if name == row]
    return cells[table.columns.index(column)]


def texts(cells: Sequence[Cell]) -> list[str]:
    return [one.text for one in cells]


def test_by_condition_has_every_setting_and_condition() -> None:
    both = {"right": result(SCORES), "none": result(dict.fromkeys("abc", 4.0), given="nothing")}
    table = by_condition(groups(evaluation(results=both), evaluation(40.0, stage="metatrain")))
    assert table.columns == ("right", "none")
    assert [name for name, _ in table.rows] == ["TAGI (Def, toy)", "Meta-trained (Def, toy)"]
    assert [texts(cells) for _, cells in table.rows] == [["50.0", "4.0"], ["40.0", "missing"]]
    assert table.rows[0][1][0].details == ("47.0 to 54.0, n\N{NO-BREAK SPACE}12", "seed 0")
    assert "none: nothing" in table.note


def test_seeds_stand_below_their_mean() -> None:
    table = by_condition(groups(*(evaluation(score, seed=seed) for seed, score in ((0, 40.0), (4, 50.0)))))
    (shown,) = table.rows[0][1]
    assert shown.text == "45.0"
    assert shown.details[1:] == ("seeds 0: 40.0, 4: 50.0; s.d. 7.1",)


def test_table_2_at_the_papers_settings_has_the_papers_figures() -> None:
    table = by_size(
        groups(
            sni(34.0),
            sni(41.0, "data.positives=2"),
            sni(47.0, recipe="sni-xl"),
            sni(51.0, recipe="sni-xxl"),
            sni(33.0, stage="metatrain"),
            sni(12.0, "training.finetune.steps=200"),
        ),
        "sni",
    )
    assert len(table.columns) == 6
    assert [cell(table, "TAGI", column).text for column in table.columns] == [
        *("34.0", "47.0", "51.0"),
        *("41.0", "missing", "missing"),
    ]
    assert cell(table, "TAGI", "Def, Base (250M)").quoted == "paper 35.3"
    assert cell(table, "TAGI", "Def + 2 Pos, XXL (11B)").quoted == "paper 58.4"
    assert cell(table, "Tk-Instruct", "Def, Base (250M)").text == "33.0"
    assert cell(table, "HINT", "Def, XL (3B)") == Cell("missing", quoted="paper 47.2")
    assert cell(table, "HyperTuning", "Def, Base (250M)") == Cell("missing")
    (apart,) = [name for name, _ in table.rows if "not the paper's" in name]
    assert apart.endswith("(not the paper's: 200 steps)")
    assert cell(table, apart, "Def, Base (250M)") == Cell("12.0", ("9.0 to 16.0, n\N{NO-BREAK SPACE}12", "seed 0"))
    assert "Table 2" in table.note


def test_two_runs_that_claim_the_papers_row_have_rows_of_their_own() -> None:
    table = by_size(groups(sni(34.0), sni(36.0, "losses.alignment=product")), "sni")
    assert cell(table, "TAGI", "Def, Base (250M)") == Cell("missing", quoted="paper 35.3")
    assert cell(table, "TAGI, losses.alignment = product", "Def, Base (250M)").text == "36.0"


def test_table_2_of_other_data_quotes_nothing() -> None:
    made = (evaluation(), evaluation(60.0, overrides=["data.positives=3"]), evaluation(9.0, overrides=["losses.kl=0"]))
    table = by_size(groups(*made), "toy")
    assert table.columns == ("Def, toy", "Def + 3 Pos, toy")
    assert [(name, texts(cells)) for name, cells in table.rows] == [("TAGI", ["50.0", "60.0"])]
    assert not any(one.quoted for _, cells in table.rows for one in cells)


def test_settings_that_differ_in_their_backbone_alone_keep_a_row_each() -> None:
    made = (evaluation(), evaluation(60.0, overrides=["backbone.dtype=bfloat16"]))
    assert [name for name, _ in by_size(groups(*made), "toy").rows] == ["TAGI", "TAGI (2)"]


def p3(score: float, *overrides: str, averages: Any, recipe: str = "p3-base") -> dict[str, Any]:
    return evaluation(recipe=recipe, overrides=overrides, results={"right": {**result(SCORES), "averages": averages}})


def test_table_3() -> None:
    made = (
        p3(0, averages={"mtest11": {"value": 44.5}, "hypert5": {"value": None, "missing": ["cb"]}}),
        p3(0, averages={"MTest11": 57.0, "HyperT5": 58.0}, recipe="p3-xl-t0"),
    )
    mtest11, hypert5 = p3_averages(groups(*made))
    assert cell(mtest11, "TAGI", "T5-LM, Base (250M)").text == "44.5"
    assert cell(mtest11, "TAGI", "T5-LM, Base (250M)").quoted == "paper 45.6"
    assert cell(mtest11, "TAGI", "T0, XL (3B)").text == "57.0"
    assert cell(mtest11, "Full FT", "T0, XL (3B)") == Cell("missing", quoted="paper 61.4")
    assert cell(hypert5, "TAGI", "T5-LM, Base (250M)") == Cell("missing", quoted="paper 46.7")
    assert cell(hypert5, "TAGI", "T0, XL (3B)").text == "58.0"
    assert cell(hypert5, "TAGI", "T0, XL (3B)").details == ("no interval, n\N{NO-BREAK SPACE}12", "seed 0")


WITHOUT = {
    "without pretraining": ('run.stages=["metatrain", "teachers", "finetune"]',),
    "without attention in the encoder": ("generator.fusion=concatenation",),
    "without instruction fusion": ("generator.fusion=none",),
    "without L_pred": ("losses.prediction=0",),
    "without L_kl": ("losses.kl=0",),
    "without L_ins": ("losses.ins=0",),
    "without L_kl and L_ins": ("losses.kl=0", "losses.ins=0"),
}


def test_table_4() -> None:
    made = [evaluation(70.0), *(evaluation(float(at), overrides=own) for at, own in enumerate(WITHOUT.values()))]
    (table,) = ablation(groups(*made), "toy")
    assert table.columns == ("Def, toy",)
    assert cell(table, "TAGI", "Def, toy").text == "70.0"
    for at, name in enumerate(WITHOUT):
        assert cell(table, name, "Def, toy").text == f"{at}.0"
    assert cell(table, "without concatenation before the decoder", "Def, toy") == Cell("missing")


def test_table_4_quotes_the_paper_at_xl_alone() -> None:
    (quoted,) = ablation(groups(sni(48.0, recipe="sni-xl"), sni(45.0, "losses.kl=0", recipe="sni-xl")), "sni")
    assert cell(quoted, "TAGI", "Def, XL (3B)").quoted == "paper 48.4"
    assert cell(quoted, "without L_kl", "Def, XL (3B)").quoted == "paper 45.7"
    assert cell(quoted, "without L_ins", "Def, XL (3B)") == Cell("missing", quoted="paper 47.5")
    (other,) = ablation(groups(sni(34.0), sni(32.0, "losses.kl=0")), "sni")
    assert not any(one.quoted for _, cells in other.rows for one in cells)


def test_table_4_compares_only_what_differs_in_parts_alone() -> None:
    two_keys = evaluation(overrides=["losses.kl=0", "training.finetune.steps=7"])
    assert ablation(groups(evaluation(), two_keys), "toy") == []
    two = ("training.finetune.steps=7",)
    made = [evaluation(overrides=[*own, *more]) for own in ((), two) for more in ((), ("losses.kl=0",))]
    (table,) = ablation(groups(*made), "toy")
    assert sorted(table.columns) == ["Def, toy, TAGI, 1000 steps", "Def, toy, TAGI, 7 steps"]


def test_a_part_weighed_in_two_ways_is_not_one_score() -> None:
    made = (evaluation(70.0), evaluation(60.0, overrides=["losses.kl=0.5"]), evaluation(5.0, overrides=["losses.kl=0"]))
    (table,) = ablation(groups(*made), "toy")
    shown = cell(table, "TAGI", "Def, toy")
    assert shown.text == "2 settings"
    assert any("losses.kl = 0.5: 60.0" in detail for detail in shown.details)
    assert any("losses.kl = 1: 70.0" in detail for detail in shown.details)


def test_table_7() -> None:
    made = [
        sni(34.0),
        sni(30.0, "training.finetune.learning_rate=1e-3"),
        sni(33.0, "generator.rank=16", "generator.alpha=32.0"),
        sni(32.0, "generator.rank=64"),  # of another scale: not the rank alone
        sni(31.0, "training.finetune.steps=15000", "training.finetune.learning_rate=1e-3"),
        sni(29.0, stage="metatrain"),
        sni(28.0, "training.metatrain.steps=25000", stage="metatrain"),
    ]
    tables = {table.title.split()[1]: table for table in hyperparameters(groups(*made), "sni")}
    assert set(tables) == {"learning", "rank", "steps"}
    (row,) = tables["learning"].rows
    assert tables["learning"].columns == ("0.0001", "0.001")
    assert texts(row[1]) == ["34.0", "30.0"]
    assert [one.quoted for one in row[1]] == ["paper 35.3", "paper 31.8"]
    assert tables["rank"].columns == ("16", "32")
    assert texts(tables["rank"].rows[0][1]) == ["33.0", "34.0"]
    assert tables["steps"].columns == ("15000", "20000", "25000")
    steps = {texts(cells)[0]: cells for _, cells in tables["steps"].rows}
    assert texts(steps["31.0"]) == ["31.0", "30.0", "missing"]
    assert [one.quoted for one in steps["31.0"]] == [None] * 3  # the rate is not the paper's either
    assert texts(steps["missing"]) == ["missing", "29.0", "28.0"]
    assert [one.quoted for one in steps["missing"]] == ["paper 34.4", "paper 34.2", "paper 34.5"]


def test_figure_3() -> None:
    made = [sni(10.0 + split, f"data.task_split={split}") for split in (6, 60, 15)]
    made += [sni(5.0 + split, f"data.task_split={split}", "losses.ins=0") for split in (15, 6)]
    (curve,) = curves(groups(*made, sni(1.0)), "sni", FIGURES["Figure 3"])
    points = {name: [(x, score.value) for x, score in own] for name, own in curve.lines.items()}
    assert points == {
        "L_ins weighed 1": [(6, 16), (15, 25), (60, 70)],
        "without L_ins": [(6, 11), (15, 20)],
    }
    table = curve_table(curve)
    assert table.columns == ("6", "15", "60")
    assert [(name, texts(cells)) for name, cells in table.rows] == [
        ("L_ins weighed 1", ["16.0", "25.0", "70.0"]),
        ("without L_ins", ["11.0", "20.0", "missing"]),
    ]


def test_figure_4() -> None:
    made = [evaluation(score, overrides=[f"training.finetune.steps={steps}"]) for steps, score in ((9, 2.0), (5, 1.0))]
    (curve,) = curves(groups(*made), "toy", FIGURES["the left of Figure 4"])
    assert [(x, score.value) for x, score in curve.lines["TAGI"]] == [(5, 1), (9, 2)]
    aligned = [sni(10.0 + split, f"losses.alignment_split={split}") for split in (15, 6)]
    (curve,) = curves(groups(sni(7.0, "losses.ins=0"), *aligned), "sni", FIGURES["the right of Figure 4"])
    assert [(x, score.value) for x, score in curve.lines["L_ins weighed 1"]] == [(0, 7), (6, 16), (15, 25)]


@pytest.mark.parametrize("name", FIGURES)
def test_one_place_is_no_curve(name: str) -> None:
    assert curves(groups(evaluation(), evaluation(stage="metatrain")), "toy", FIGURES[name]) == []
    one_split = groups(sni(1.0, "data.task_split=6"), sni(2.0, "data.task_split=6", "losses.ins=0"))
    assert curves(one_split, "sni", FIGURES[name]) == []


def test_a_checkpoint_of_unknown_training_is_in_no_table_of_the_papers_shapes_but_the_second() -> None:
    own = groups(sni(34.0), sni(33.0, stage=None), sni(32.0, stage=None, checkpoint="y", revision="sha256:y"))
    assert ablation(own, "sni") == []
    assert hyperparameters(own, "sni") == []
    assert [curves(own, "sni", figure) for figure in FIGURES.values()] == [[], [], []]
    table = by_size(own, "sni")
    assert cell(table, "TAGI", "Def, Base (250M)").text == "34.0"
    assert len([name for name, _ in table.rows if "training not recorded" in name]) == 2
    assert len(by_condition(own).rows) == 3
