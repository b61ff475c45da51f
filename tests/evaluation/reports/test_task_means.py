"""Tasks with metrics of their own count the same, whatever their sizes: in comparisons and reports as in evaluations."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.evaluation.predictions_log import predictions_file
from tagi.evaluation.reports.groups import grouped
from tagi.evaluation.reports.paired_evaluations import compare
from tagi.evaluation.reports.records import read_records
from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.statistics import bootstrap_interval
from tagi.evaluation.scoring.task_metrics import TaskMetricScoring
from tagi.stages.compare_methods import _scores
from tests.evaluation.reports.made_up import evaluation, write

SIZES = {"one": 1, "three": 3, "six": 6}
FIRST, SECOND = {"one": 1, "three": 0, "six": 3}, {"one": 0, "three": 3, "six": 3}
"""Right answers of each task under two seeds: in percent of the tasks 100, 0, 50 and 0, 100, 50."""
OF_TASKS = {"first": (100 + 0 + 50) / 3, "second": (0 + 100 + 50) / 3}
OF_INSTANCES = {"first": 40.0, "second": 60.0}


def evaluated(folder: Path, right: dict[str, int], seed: int = 0) -> Path:
    """An evaluation's folder: so many right answers of each task, and a task that is scored by ROUGE-L."""
    answers = [
        Answer(task, "own", str(at), f"input {at}", ("yes",), "yes" if at < right[task] else "no", "exact")
        for task, size in SIZES.items()
        for at in range(size)
    ]
    answers += [Answer("title", "own", str(at), "a b c", ("a b",), "a b", "rouge_l") for at in range(5)]
    scoring = TaskMetricScoring(1, 1)
    result = {"given": "the task's instruction", **scoring.summarize(answers, scoring.scores(answers))}
    write(folder, evaluation(recipe="own-tasks", seed=seed, results={"right": result}, overrides=["data.path=t.jsonl"]))
    lines = [json.dumps(answer.as_line()) + "\n" for answer in answers]
    (folder / predictions_file("right")).write_text("".join(lines))
    return folder


def test_an_evaluation_and_a_comparison_of_it_say_the_same(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / str(at), right) for at, right in enumerate((FIRST, SECOND))]
    found = compare(*folders)
    said = [json.loads((folder / "record.json").read_text())["results"]["right"] for folder in folders]
    assert [one["overall"]["right"] for one in said] == pytest.approx(list(OF_TASKS.values()))
    assert (found["a"], found["b"]) == pytest.approx(tuple(OF_TASKS.values()))
    assert found["difference"] == pytest.approx(OF_TASKS["first"] - OF_TASKS["second"])
    assert found["interval"] == pytest.approx(bootstrap_interval([100, -100, 0]))
    assert (found["n"], found["tasks"], found["mean_over"]) == (10, 3, "tasks")
    assert (found["wins"], found["ties"], found["losses"]) == (1, 6, 3)
    by_instance = compare(*folders, metric="accuracy")
    assert (by_instance["n"], by_instance["mean_over"]) == (15, "instances")
    assert by_instance["a"] == pytest.approx((40 * 10 + 100 * 5) / 15)


def test_a_report_reads_tasks_of_several_metrics(tmp_path: Path) -> None:
    """Its n is that of the answers which its score is the mean of, and its interval is over the tasks, over seeds too."""
    evaluated(tmp_path / "one", FIRST, seed=0)
    evaluated(tmp_path / "two", SECOND, seed=1)
    records, left_out = read_records(tmp_path)
    assert left_out == []
    (group,) = grouped(records)
    score = group.score()
    assert score is not None
    assert score.n == 10
    assert score.value == pytest.approx(50)
    assert score.seeds == pytest.approx({0: OF_TASKS["first"], 1: OF_TASKS["second"]})
    assert score.interval == pytest.approx(bootstrap_interval([50.0, 50.0, 50.0]))


def test_a_report_over_seeds_resamples_tasks_that_differ(tmp_path: Path) -> None:
    evaluated(tmp_path / "one", FIRST, seed=0)
    evaluated(tmp_path / "two", FIRST, seed=1)
    (group,) = grouped(read_records(tmp_path)[0])
    score = group.score()
    assert score is not None
    assert score.interval == pytest.approx(bootstrap_interval([100.0, 0.0, 50.0]))


def test_predictions_of_other_tasks_are_still_refused(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "one", FIRST)
    file = folder / predictions_file("right")
    file.write_text(file.read_text().replace('"three"', '"four"'))
    records, (one,) = read_records(tmp_path)
    assert records == []
    assert "expected predictions of the record's tasks" in one.detail


def test_methods_are_compared_by_the_mean_over_tasks(tmp_path: Path) -> None:
    evaluated(tmp_path / "scores", FIRST)
    entry: dict[str, Any] = {"scored": "scores", "seed": 3}
    metric, answers, runs = _scores(tmp_path, [entry])
    assert (metric, answers) == ("right", 10)
    assert {task: own.tolist() for task, own in runs[3].items()} == {"one": [100], "three": [0], "six": [50]}
