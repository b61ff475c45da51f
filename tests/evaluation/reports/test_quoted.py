"""The embedded figures are the paper's, every one; and ours stand beside them only at the paper's settings."""

import re
from pathlib import Path

import pytest

from tagi.evaluation.reports.quoted import departures, figure, paper
from tagi.evaluation.reports.records import Record
from tagi.evaluation.reports.settings import setting_of
from tests.evaluation.reports.made_up import evaluation


def lines(data_dir: Path, table: str) -> list[list[str]]:
    text = (data_dir / "paper" / f"{table}.tsv").read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.split("\t")] for line in text.splitlines()]


def numbers(cells: list[str]) -> list[float | None]:
    found = [re.match(r"\d+\.\d", cell) for cell in cells]
    return [float(one[0]) if one else None for one in found]


def values(table: dict[str, float | None]) -> list[float | None]:
    return list(table.values())


def row(rows: list[list[str]], start: str) -> list[str]:
    (found,) = [one for one in rows if one[0].lower().startswith(start.lower())]
    return found


def test_table_2(data_dir: Path) -> None:
    rows = [one for one in lines(data_dir, "table2") if len(one) == 8]
    table = paper()["table2"]
    assert len(table) == len([one for one in rows if any(numbers(one[1:7]))]) == 8
    for name, own in table.items():
        assert values(own) == numbers(row(rows, name)[1:7])
    columns = [f"{form}, {size}" for form in ("Def", "Def + 2 Pos") for size in ("Base (250M)", "XL (3B)", "XXL (11B)")]
    assert all(list(own) == columns for own in table.values())


def test_table_3(data_dir: Path) -> None:
    rows = [one for one in lines(data_dir, "table3") if len(one) == 8 or one[0].startswith("# ")]
    at = next(index for index, one in enumerate(rows) if one[0].startswith("# HyperT5"))
    for average, part in (("MTest11", rows[:at]), ("HyperT5", rows[at:])):
        table = paper()["table3"][average]
        assert len(table) == len([one for one in part if any(numbers(one[1:7]))])
        for name, own in table.items():
            assert values(own) == numbers(row(part, name)[1:7])


def in_latex(name: str) -> str:
    """A loss as Table 4 prints it; our L_pred is its L_ce."""
    return re.sub(r"L_(\w+)", r"$\\mathcal{L}_{\1}$", name.replace("L_pred", "L_ce"))


def test_table_4(data_dir: Path) -> None:
    rows = lines(data_dir, "table4")
    table = paper()["table4"]
    assert len(table) == len([one for one in rows if len(one) == 4 and any(numbers(one[1:]))])
    for name, own in table.items():
        (found,) = [one for one in rows if one[0] == in_latex(name)]
        assert values(own) == numbers(found[1:])


def test_table_7(data_dir: Path) -> None:
    rows = [one for one in lines(data_dir, "table7") if len(one) == 14 and any(numbers(one[1:]))]
    found = [one for own in paper()["table7"].values() for one in own.values()]
    assert [[figure for axis in one.values() for figure in axis.values()] for one in found] == [
        numbers(one[1:]) for one in rows
    ]
    header = next(one for one in lines(data_dir, "table7") if "5e-5" in one)
    axes = [float(value) for axis in found[0].values() for value in axis]
    assert axes == [float(value) for value in header[1:]]
    assert [(form, *own) for form, own in paper()["table7"].items()] == [
        ("Def + 2 Pos", "Tk-Instruct", "TAGI"),
        ("Def", "Tk-Instruct", "TAGI"),
        ("MTest11", "Metatrain", "TAGI"),
    ]


def test_a_figure_is_looked_up_by_its_keys() -> None:
    assert figure("table2", "TAGI", "Def, XL (3B)") == 48.4
    assert figure("table2", "HyperTuning", "Def, Base (250M)") is None
    assert figure("table7", "Def", "TAGI", "learning rate", str(3e-4)) == 33.5
    assert figure("table7", "Def", "TAGI", "rank", "8") is None


def found(recipe: str, *overrides: str, stage: str | None = "finetune") -> list[str]:
    made = evaluation(recipe=recipe, overrides=overrides, stage=stage)
    return departures(setting_of(Record("x", made, 0.0)), made["recipe"]["data"]["source"])


@pytest.mark.parametrize(
    "recipe", ["sni-base", "sni-xl", "sni-xxl", "p3-base", "p3-base-t0", "p3-large", "p3-large-t0", "p3-xl", "p3-xl-t0"]
)
def test_shipped_recipes_of_the_papers_sizes_do_not_depart(recipe: str) -> None:
    assert found(recipe) == []
    if recipe.startswith("p3"):  # whose teacher is FiD-ICL
        assert found(recipe, stage="metatrain") == ["no method that the paper trains"]
        recipe += "+tk-instruct"
    assert found(recipe, stage="metatrain") == []


def test_departures_are_named() -> None:
    assert found("toy") == ["another backbone"]
    assert found("sni-small") == ["another backbone"]
    assert found("sni-base", "training.finetune.steps=200", "generator.rank=16") == ["200 steps", "rank 16"]
    assert found("sni-base", "training.finetune.accumulation=1") == ["batches of 8"]
    assert found("sni-base", "data.task_split=6", "losses.alignment_split=15") == [
        "6 categories",
        "L_ins on 15 categories",
    ]
    assert found("sni-base", "data.shuffle_inputs=true", stage="metatrain") == ["inputs shuffled"]
    assert found("sni-base", "metatrain.tune=lora", stage="metatrain") == ["no method that the paper trains"]
    assert found("sni-base", stage=None) == ["training not recorded"]
