"""`tagi compare` and `tagi report` on evaluations as the commands leave them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Ran, Run
from tests.evaluation.reports.made_up import evaluation, write

SMALL = ("--set", "data.test_instances_per_task=2")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two conditions' scores: `whole`, and `part`, of the first two instances of some tasks."""
    from tagi.stages.evaluate import EvaluationRequest, evaluate
    from tagi.stages.recipes import load_recipe

    folder = tmp_path_factory.mktemp("scores")
    recipe = load_recipe("toy", [SMALL[1]])
    evaluate("toy", recipe, request=EvaluationRequest(("right", "none")), out=folder / "whole")
    evaluate("toy", recipe, request=EvaluationRequest(tasks=("*-copy",)), out=folder / "part")
    return folder


@pytest.fixture
def worse(scores: Path, tmp_path: Path) -> Path:
    """The same with every other answer of some tasks made wrong, by a recipe that differs."""
    folder = tmp_path / "worse"
    shutil.copytree(scores / "whole", folder)
    file = folder / "predictions-right.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines[::2]:
        line["prediction"] = "nothing of the kind"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    change(folder, lambda record: record["recipe"]["losses"].update(kl=0.0))
    return folder


def change(folder: Path, how: Callable[[Any], object]) -> None:
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    how(record)
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


def assert_refused(ran: Ran, *words: str) -> None:
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    for word in words:
        assert word in ran.err


def test_compare_prints_the_difference_and_examples(run_tagi: Run, scores: Path, worse: Path) -> None:
    ran = run_tagi("compare", scores / "whole", worse, "--examples", "2")
    assert ran.code == 0, ran.err
    assert "losses.kl: 1.0 in A, 0.0 in B" in ran.out
    assert "+50.0" in ran.out
    assert ran.out.count("nothing of the kind") == 2
    assert "reference: " in ran.out


def test_compare_as_json(run_tagi: Run, scores: Path, worse: Path) -> None:
    ran = run_tagi("compare", worse, scores / "whole", "--json")
    found = json.loads(ran.out)
    assert found["difference"] == pytest.approx(-50)
    assert found["interval"][1] < 0
    assert (found["wins"], found["ties"], found["losses"]) == (0, 24, 24)
    assert (found["condition"], found["metric"]) == ("right", "accuracy")
    assert found["of"]["a"]["folder"] == str(worse)
    assert found["recipes_differ"] == {"losses.kl": [0.0, 1.0]}
    same = json.loads(run_tagi("compare", worse, scores / "whole", "--condition", "none", "--json").out)
    assert (same["difference"], same["interval"]) == (0, [0, 0])
    rouge = json.loads(run_tagi("compare", worse, scores / "whole", "--metric", "rougeL", "--json").out)
    assert -60 < rouge["difference"] < -40


def test_compare_refuses_other_data(run_tagi: Run, scores: Path) -> None:
    digests = [
        json.loads((scores / name / "record.json").read_text(encoding="utf-8"))["data"]["digest"]
        for name in ("whole", "part")
    ]
    assert digests[0] != digests[1]
    assert_refused(run_tagi("compare", scores / "whole", scores / "part"), *digests, "48 instances", "8 instances")


def test_compare_refuses_what_is_no_evaluation(run_tagi: Run, scores: Path, worse: Path, tmp_path: Path) -> None:
    whole = scores / "whole"
    assert_refused(run_tagi("compare", whole, tmp_path / "nowhere"), "nowhere", "expected a run's record")
    assert_refused(run_tagi("compare", whole, tmp_path), "record.json", "expected a run's record")
    assert_refused(run_tagi("compare", whole, worse, "--condition", "other"), "right, none", "'other'")
    assert_refused(run_tagi("compare", whole, worse, "--metric", "bleu"), "rougeL", "'bleu'")
    file = worse / "predictions-right.jsonl"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    assert_refused(run_tagi("compare", whole, worse), "expected 48 answers", "got 47")
    file.unlink()
    assert_refused(run_tagi("compare", whole, worse), "predictions-right.jsonl", "expected an evaluation's predictions")
    change(worse, lambda record: record["data"].pop("digest"))
    assert_refused(run_tagi("compare", whole, worse), "data.digest")
    change(worse, lambda record: record.update(kind="training"))
    assert_refused(run_tagi("compare", whole, worse), "kind 'training' of format 1")


def test_report_writes_a_page_and_markdown(run_tagi: Run, scores: Path, worse: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(scores, folder)
    page, markdown = tmp_path / "out" / "page.html", tmp_path / "out" / "page.md"
    ran = run_tagi("report", folder, "--out", page)
    assert ran.code == 0, ran.err
    assert "1 evaluations" in ran.out
    assert "partial" in ran.out
    assert "part/record.json" in page.read_text(encoding="utf-8")
    assert "100.0 to 100.0, n 48" in markdown.read_text(encoding="utf-8")
    shown = json.loads(run_tagi("report", folder, "--json").out)
    assert shown["used"] == ["whole/record.json"]
    assert [(one["path"], one["reason"]) for one in shown["left_out"]] == [("part/record.json", "partial")]
    assert (folder / "report.html").is_file()
    assert (folder / "report.md").is_file()


def test_report_says_where_it_looked(run_tagi: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(run_tagi("report", tmp_path / "empty"), str(tmp_path / "empty"), "got none")
    assert_refused(run_tagi("report", tmp_path / "nowhere"), "expected a folder with records")
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_report_refuses_files_that_cannot_be_written(run_tagi: Run, scores: Path, tmp_path: Path) -> None:
    assert_refused(run_tagi("report", scores, "--out", tmp_path), "--out", "which is a folder")
    same = tmp_path / "x.html"
    assert_refused(run_tagi("report", scores, "--out", same, "--markdown", same), "--markdown", "another file")
    assert_refused(run_tagi("report", scores, "--out", tmp_path / "x.md"), "--markdown", "another file")


def test_without_matplotlib_one_line_says_so(
    run_tagi: Run, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagi.evaluation.reports.charts.find_spec", lambda name: None)
    ran = run_tagi("report", scores, "--out", tmp_path / "x.html")
    assert ran.code == 0
    assert ran.err == "no charts: they need matplotlib (pip install 'tagi-adapters[plots]')\n"
    assert (tmp_path / "x.html").is_file()


def test_an_evaluation_says_how_its_checkpoint_was_trained(run_tagi: Run, tmp_path: Path) -> None:
    short = ("--set", "training.steps=2", "--set", "data.instances_per_task=3", "--set", "losses.kl=0")
    made = run_tagi(
        "train", "finetune", "toy", *short, "--set", "losses.ins=0", "--set", "seed=7", "--out", tmp_path / "t"
    )
    assert made.code == 0, made.err
    scored = run_tagi("evaluate", tmp_path / "t", "toy", *SMALL, "--out", tmp_path / "s", "--json")
    trained = json.loads(scored.out)["trained"]
    assert (trained["stage"], trained["seed"], trained["recipe"]["training"]["steps"]) == ("finetune", 7, 2)
    ran = run_tagi("report", tmp_path, "--json")
    assert json.loads(ran.out)["left_out"] == []
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "without L\\_kl and L\\_ins" not in text  # one setting is no ablation
    assert "seed 7" in text
    assert "training not recorded" not in text


def test_nothing_but_an_earlier_report_is_overwritten(run_tagi: Run, tmp_path: Path) -> None:
    write(tmp_path / "one", evaluation(20.0))
    record = tmp_path / "one" / "record.json"
    before = record.read_bytes()
    for option in ("--out", "--markdown"):
        ran = run_tagi("report", tmp_path, option, record)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "expected a new file or an earlier report" in ran.err
    assert record.read_bytes() == before
    for _ in range(2):
        assert run_tagi("report", tmp_path).code == 0
