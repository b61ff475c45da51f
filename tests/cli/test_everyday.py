"""The everyday benchmark on the command line: it scores any checkpoint, and nothing is trained on it."""

import json
from pathlib import Path

import pytest

from tagi.data.everyday import EVERYDAY_FILE
from tagi.errors import ConfigError
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks
from tests.commands import Run

TWO = ("--tasks", "review*", "--tasks", "polite*", "--limit", "3")


def test_a_checkpoint_is_scored_by_tasks_own_metrics(run_tagi: Run, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    ran = run_tagi("evaluate", "toy", "everyday", *TWO, "--condition", "LoRA alone", "--out", out, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record == json.loads((out / "record.json").read_text())
    assert list(record["results"]) == ["right", "LoRA alone"]
    for result in record["results"].values():
        assert (result["n"], result["metric"]) == (6, "right")
        assert result["counts"] == {name: {"tasks": 1, "answers": 3} for name in ("right", "rouge_l")}
        assert [row["metric"] for row in result["tasks"]] == ["choice", "rouge_l"]
    assert record["results"]["LoRA alone"]["minus_right"]["tasks"] == 1
    constant = record["best_constant"]
    assert constant["overall"]["right"] == pytest.approx(200 / 3)  # two of the three reviews are negative
    assert constant["tasks"][0]["sample"]["answer"] == "negative"
    assert 0 < constant["overall"]["rouge_l"] < 100
    lines = [json.loads(line) for line in (out / "predictions-right.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in lines] == ["choice"] * 3 + ["rouge_l"] * 3
    same = run_tagi("compare", out, out, "--json")
    assert same.code == 0, same.err
    compared = json.loads(same.out)
    assert (compared["metric"], compared["n"], compared["difference"]) == ("right", 3, 0)
    reported = run_tagi("report", tmp_path, "--out", tmp_path / "report")
    assert reported.code == 0, reported.err
    table = run_tagi("evaluate", "toy", "everyday", *TWO, "--condition", "LoRA alone")
    rows = [line.split() for line in table.out.splitlines()]
    assert ["task", "metric", "n", "score", "constant", "unchanged", "sample", "answer"] in rows
    assert ["best", "constant", "answer", "66.7", "66.7", "to", "66.7", "1"] in [row[:8] for row in rows]
    heads = [
        "condition",
        "right",
        "answers",
        "95%",
        "tasks",
        "minus",
        "own",
        "instruction",
        "95%",
        "of",
        "it",
        "ROUGE-L",
    ]
    assert [*heads, "its", "tasks"] in rows


@pytest.mark.parametrize(
    "command",
    [
        ("train", "finetune", "everyday", "--out", "new"),
        ("train", "pretrain", "everyday", "--out", "new"),
        ("train", "single", "toy", "--set", "data.source=everyday", "--out", "new"),
        ("run", "everyday", "--out", "new"),
        ("run", "everyday", "--out", "new", "--dry-run"),
    ],
)
def test_training_on_it_is_refused(
    run_tagi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_tagi(*command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: data.source = 'everyday': the everyday benchmark is for evaluation only, nothing can be trained on it: "
        "score a checkpoint with `tagi evaluate CHECKPOINT everyday`\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_copy_of_it_is_refused_too(run_tagi: Run, tmp_path: Path) -> None:
    copy = tmp_path / "mine.jsonl"
    copy.write_bytes(EVERYDAY_FILE.read_bytes())
    own = ("--set", "data.source=jsonl", "--set", f"data.path={copy}")
    ran = run_tagi("train", "metatrain", "toy", *own, "--out", tmp_path / "new")
    assert ran.code == 2
    assert ran.err.startswith(f"error: data.path = '{copy}': the everyday benchmark is for evaluation only")


def test_nothing_is_chosen_by_it() -> None:
    recipe = load_recipe("everyday")
    assert len(load_tasks(recipe, "test").tasks) == 24
    for split in ("train", "validation"):
        with pytest.raises(ConfigError, match="the everyday benchmark is for evaluation only"):
            load_tasks(recipe, split)  # type: ignore[arg-type]


def test_methods_that_learn_in_context_get_the_tasks_examples() -> None:
    tasks = load_tasks(load_recipe("everyday"), "test", shots=True).tasks
    assert [set(task.shots) for task in tasks] == [set(task.examples) for task in tasks]
    assert {len(task.shots) for task in tasks} == {2}


def test_own_tasks_are_scored_by_the_metric_that_they_name_or_by_one_that_fits(run_tagi: Run, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    line = {"task": "one", "instruction": "do it", "instances": [{"input": "cat", "outputs": ["3"]}]}
    own = ("evaluate", "toy", "toy", "--set", "data.source=jsonl", "--set", f"data.path={tasks}", "--json")
    for metric, wanted in (({"metric": "rouge_l"}, "rouge_l"), ({}, "right"), ({"metric": "number"}, "right")):
        tasks.write_text(json.dumps(line | metric) + "\n")
        ran = run_tagi(*own)
        assert ran.code == 0, ran.err
        record = json.loads(ran.out)
        assert record["results"]["right"]["metric"] == wanted
        assert record["best_constant"]["overall"] == {wanted: 100}
        assert record["unchanged_input"]["overall"] == {wanted: 0}
    ran = run_tagi(*own, "--set", "evaluation.num_beams=2")
    assert ran.code == 0, ran.err
