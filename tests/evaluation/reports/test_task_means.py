"""Tasks with metrics of their own count the same, whatever their sizes, wherever their mean is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.cli.evaluation_tables import task_rows
from tagi.data.task import Instance, Task
from tagi.evaluation.predictions_log import predictions_file
from tagi.evaluation.reports.groups import grouped
from tagi.evaluation.reports.paired_evaluations import compare
from tagi.evaluation.reports.records import read_records
from tagi.evaluation.reports.tables import by_task
from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.statistics import bootstrap_interval
from tagi.evaluation.scoring.task_metrics import TaskMetricScoring
from tagi.methods.flops import Components, Cost, Lengths
from tagi.stages.compare_methods import _flops_ratio, _rows, _scores, shown_rows
from tests.evaluation.echo import Echo
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
    """Its n is that of the answers which its score is the mean of; its interval is over tasks, also of two seeds."""
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


def test_a_row_of_a_method_holds_its_figures(tmp_path: Path) -> None:
    """Means over seeds: scores of the tasks' means, minutes of all stages; FLOPs and time are the first seed's."""
    time = {"ratio": 0.5, "interval": [0.4, 0.6], "pairs": 5}
    for seed, right in enumerate((FIRST, SECOND)):
        evaluated(tmp_path / f"tagi-{seed}", right)
        evaluated(tmp_path / f"tk-{seed}", FIRST)
    entries = [
        {
            "method": method,
            "seed": seed,
            "trained": "runs",
            "scored": f"{folder}-{seed}",
            "steps": 7,
            "seconds": 60.0 + 120 * seed,
            "tuned": 1234,
            "generated": 567,
            "flops": 0.25 + seed,
            "time": time,
        }
        for method, folder in (("tagi", "tagi"), ("tk-instruct", "tk"))
        for seed in (0, 1)
    ]
    rows = {row["method"]: row for row in _rows(tmp_path, entries)}
    found = rows["tagi"]
    assert (found["metric"], found["mean"], found["n"]) == ("right", pytest.approx(50), 10)
    assert found["seeds"] == pytest.approx({0: 50.0, 1: 50.0})
    difference = found["minus_reference"]
    # Means over seeds by task: 50, 50, 50 against 100, 0, 50.
    assert (difference["mean"], difference["tasks"]) == (pytest.approx(0), 3)
    assert difference["interval"] == pytest.approx(list(bootstrap_interval([-50.0, 50.0, 0.0])))
    shown = shown_rows({"methods": [found]})[0]
    assert {name: shown[name] for name in ("right", "seeds", "tuned", "generated", "steps", "minutes")} == {
        "right": "50.0",
        "seeds": "50.0, 50.0",
        "tuned": "1,234",
        "generated": "567",
        "steps": "7",
        "minutes": "2.0",
    }
    assert shown["FLOPs"].startswith("0.25")
    assert shown["time"].startswith("0.50 (0.40 to 0.60)")
    assert shown["- Tk-Instruct"].startswith("+0.0 (")


class Costly(Echo):
    """A method that costs so much for the instruction once and for every input by its length."""

    def __init__(self, once: int, power: int) -> None:
        super().__init__()
        self.once, self.power = once, power

    def cost(self, lengths: Lengths) -> Cost:
        return Cost(Components(instruction=self.once), Components(encoder=lengths.input**self.power), lengths.examples)


def test_flops_of_methods_are_sums_over_tasks_of_100_inputs_each() -> None:
    made = [
        Task(name, "c", "w1 w2", tuple(Instance(str(at), "w3 " * words, ("w4",)) for at, words in enumerate(sizes)))
        for name, sizes in (("a", (1, 3)), ("b", (6,)))
    ]
    own, reference = Costly(7, 1), Costly(0, 2)
    lengths = [len(own.text.input("w3 w3")), len(own.text.input("w3 " * 6))]
    wanted = sum(7 + 100 * one for one in lengths) / sum(100 * one**2 for one in lengths)
    assert _flops_ratio(own, reference, made) == pytest.approx(wanted)


def test_tables_of_tasks_have_each_tasks_own_numbers(tmp_path: Path) -> None:
    """On the terminal beside the stock model's and what needs no model, in a report as means over seeds."""
    first, second = (evaluated(tmp_path / str(seed), right, seed) for seed, right in enumerate((FIRST, SECOND)))
    one, other = (json.loads((folder / "record.json").read_text())["results"]["right"] for folder in (first, second))
    record = {"results": {"right": one, "stock": other}, "best_constant": other, "unchanged_input": one}
    rows = {row["task"]: row for row in task_rows(record)}
    assert rows["six"] == {
        "task": "six",
        "metric": "exact",
        "n": 6,
        "score": 50.0,
        "stock": 50.0,
        "constant": 50.0,
        "unchanged": 50.0,
        "sample answer": "yes",
    }
    assert [rows["three"][name] for name in ("n", "score", "stock", "constant", "unchanged")] == [3, 0, 100, 100, 0]
    (table,) = by_task(grouped(read_records(tmp_path)[0]))
    cells = {task: cells[0] for task, cells in table.rows}
    assert [cells[task].text for task in ("one", "three", "six", "title")] == ["50.0", "50.0", "50.0", "100.0"]
    assert [cells[task].details[0].split("\N{NO-BREAK SPACE}")[1] for task in ("one", "three", "six")] == [
        "1",
        "3",
        "6",
    ]
