import json
from pathlib import Path

from tests.commands import Run

TINY = [
    *("training.finetune.steps=2", "training.tasks_per_batch=3", "training.queries_per_task=2"),
    *('run.stages=["finetune"]', "losses.kl=0", "losses.ins=0", "training.report_to=[]"),
    *("data.instances_per_task=2", "data.test_instances_per_task=1", "evaluation.max_new_tokens=2"),
]
SET = [part for setting in TINY for part in ("--set", setting)]


def test_a_sweep_prints_a_row_for_each_point(run_tagi: Run, tmp_path: Path) -> None:
    asked = ("sweep", "toy", "--over", "losses.prediction=1.0,2", *SET, "--out", tmp_path / "out")
    planned = run_tagi(*asked, "--dry-run", "--tflops", "1", "--json")
    assert planned.code == 0, planned.err
    rows = json.loads(planned.out)
    assert all(float(row.pop("hours")) > 0 for row in rows)
    assert rows == [
        {"n": 1, "point": "default", "finetune": "to do", "evaluate": "to do"},
        {"n": 2, "point": "losses.prediction=2", "finetune": "to do", "evaluate": "to do"},
    ]
    assert not (tmp_path / "out").exists()
    table = run_tagi(*asked)
    assert table.code == 0, table.err
    assert [line.split()[0] for line in table.out.splitlines() if line.strip()][2:] == [
        "default",
        "losses.prediction=2",
    ]
    assert "point 2 of 2: losses.prediction=2" in table.err
    again = run_tagi(*asked, "--json")
    rows = json.loads(again.out)
    assert [(row["label"], row["metric"], row["steps"]) for row in rows] == [
        *(("default", "accuracy", 2), ("losses.prediction=2", "accuracy", 2)),
    ]
    assert len(rows[0]["interval"]) == 2
    assert again.err == ""


def test_a_grid_is_planned_without_data_or_weights(run_tagi: Run, tmp_path: Path) -> None:
    ran = run_tagi("sweep", "sni-base", "--grid", "table7", "--dry-run", "--json", "--out", tmp_path)
    rows = json.loads(ran.out)
    assert len(rows) == 10
    assert [row["pretrain"] for row in rows].count("to do") == 3  # one for each rank
    assert [row["finetune"] for row in rows].count("to do") == 10


def test_a_mistake_is_one_line(run_tagi: Run) -> None:
    for asked, said in (
        (("toy",), "expected a grid (table4, table7, figure3-sni, figure3-p3, figure4-alignment) or a key with values"),
        (("toy", "--grid", "table5"), "grid: expected one of table4, table7"),
        (("toy", "--over", "losses.kl=-1"), "losses.kl: expected at least 0.0, got -1"),
    ):
        ran = run_tagi("sweep", *asked)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert said in ran.err
