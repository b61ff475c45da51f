"""Scores by tasks' own metrics: which metric a task has, means over tasks, and the best constant answer."""

from dataclasses import replace

import numpy as np
import pytest

from tagi.data.task import Instance, Task
from tagi.errors import DataError, InputError
from tagi.evaluation.reports.paired_evaluations import score_answers
from tagi.evaluation.scoring.answers import Answer, read_line
from tagi.evaluation.scoring.free_form import Scoring
from tagi.evaluation.scoring.statistics import bootstrap_interval, paired_difference, task_means
from tagi.evaluation.scoring.task_metrics import TaskMetricScoring, best_constant, checked_metric, metric_of
from tests.evaluation.echo import Echo

SCORING = TaskMetricScoring(batch_size=2, max_new_tokens=7)


def task(
    name: str, *outputs: tuple[str, ...], metric: str | None = None, choices: tuple[str, ...] | None = None
) -> Task:
    instances = tuple(Instance(f"{name}-{at}", f"input {at}", one, choices) for at, one in enumerate(outputs))
    return Task(name, f"{name[0]}s", f"do {name}", instances, metric=metric)


def answered(of: Task, *texts: str) -> list[Answer]:
    metric = metric_of(of)
    return [
        Answer(of.name, of.category, one.id, one.input, one.outputs, text, metric)
        for one, text in zip(of.instances, texts, strict=True)
    ]


MOOD = task("mood", ("good",), ("bad",), ("bad",), choices=("good", "bad"))
DATE = task("date", ("1 May", "May 1"), ("2 May",))
MOVE = task("move", ("[1]",), metric="json")
TITLE = task("title", ("a b", "c d e f"), ("a x",), metric="rouge_l")
GIVEN = [
    *answered(MOOD, "Good.", "good", '"bad"'),
    *answered(DATE, "may 1.", "on 2 May"),
    *answered(MOVE, "[1.0]"),
    *answered(TITLE, "a", "a x"),
]


def test_a_task_without_a_metric_has_one_that_fits() -> None:
    assert isinstance(SCORING, Scoring)
    assert [metric_of(one) for one in (MOOD, DATE, MOVE, TITLE)] == ["choice", "exact", "json", "rouge_l"]
    assert metric_of(task("long", ("one two three",), ("one two three four",))) == "rouge_l_unicode"
    assert metric_of(task("three", ("one two three",))) == "exact"
    some = replace(MOOD, instances=(MOOD.instances[0], replace(MOOD.instances[1], choices=None)))
    assert metric_of(some) == "exact"
    assert metric_of(replace(MOOD, metric="rouge_l")) == "rouge_l"
    assert metric_of(task("list", ("[1]",), ('{"a": 2}',))) == "json"
    assert metric_of(task("count", ("1",), ("2",))) == "exact"


def one_input(text: str, *outputs: str) -> Task:
    return Task("t", "t", "do it", tuple(Instance(str(at), text, (one,)) for at, one in enumerate(outputs)))


def test_a_task_about_case_or_a_full_stop_is_scored_with_them() -> None:
    assert metric_of(one_input("help me", "HELP ME")) == "exact_case"
    assert metric_of(one_input("please help me with this", "Please help me with this.")) == "exact_case"
    assert metric_of(one_input("cat", "CAT", "hat")) == "exact_case"
    assert metric_of(one_input("a cat sat on a mat", "A cat sat on a mat.", "A cat stood on a mat.")) == (
        "rouge_l_unicode"  # one that repeats an input by chance makes no task about case
    )
    assert metric_of(one_input("cat", "cat", "hat")) == "exact"


def test_what_needs_no_model_shows_that_a_metric_tells_little() -> None:
    past = one_input("she walks to the old station", "she walked to the old station")
    assert metric_of(past) == "rouge_l_unicode"
    assert SCORING.baseline([past])["unchanged_input"]["overall"] == {"rouge_l_unicode": pytest.approx(500 / 6)}
    stemmed = replace(past, metric="rouge_l")
    assert SCORING.baseline([stemmed])["unchanged_input"]["overall"] == {"rouge_l": 100}


def test_references_that_rouge_cannot_read_are_named() -> None:
    chinese = replace(one_input("cat", "\u4e00\u53ea\u732b", "A 4"), metric="rouge_l")
    with pytest.raises(
        DataError, match=r"task 't': instance '0': metric 'rouge_l': .* got '.*': use 'rouge_l_unicode'"
    ):
        checked_metric(chinese)
    assert checked_metric(replace(chinese, metric="rouge_l_unicode")) == "rouge_l_unicode"
    perfect = answered(replace(chinese, metric="rouge_l_unicode"), "\u4e00\u53ea\u732b", "A 4")
    assert SCORING.scores(perfect)["rouge_l_unicode"].tolist() == [100, 100]


def test_means_are_over_tasks() -> None:
    scores = SCORING.scores(GIVEN)
    assert list(scores) == ["right", "rouge_l"]
    np.testing.assert_array_equal(scores["right"], [100, 0, 100, 100, 0, 100, np.nan, np.nan])
    # "a" against "a b": precision 1, recall 1/2.
    np.testing.assert_allclose(scores["rouge_l"], [np.nan] * 6 + [200 / 3, 100])
    found = SCORING.summarize(GIVEN, scores)
    shares = [200 / 3, 50, 100]
    assert (found["n"], found["metric"]) == (8, "right")
    assert found["overall"] == {"right": pytest.approx(sum(shares) / 3), "rouge_l": pytest.approx(500 / 6)}
    assert found["interval"] == found["intervals"]["right"] == list(bootstrap_interval(shares))
    assert found["intervals"]["rouge_l"] == pytest.approx([500 / 6, 500 / 6])
    assert found["counts"] == {"right": {"tasks": 3, "answers": 6}, "rouge_l": {"tasks": 1, "answers": 2}}
    assert found["per_category"] == {
        "ms": {"right": pytest.approx(250 / 3)},
        "ds": {"right": 50},
        "ts": {"rouge_l": pytest.approx(500 / 6)},
    }
    assert found["per_task"] == {
        "mood": {"right": pytest.approx(200 / 3)},
        "date": {"right": 50},
        "move": {"right": 100},
    }
    assert [(row["task"], row["metric"], row["n"]) for row in found["tasks"]] == [
        ("mood", "choice", 3),
        ("date", "exact", 2),
        ("move", "json", 1),
        ("title", "rouge_l", 2),
    ]
    assert found["tasks"][3] == {
        "task": "title",
        "category": "ts",
        "metric": "rouge_l",
        "n": 2,
        "score": pytest.approx(500 / 6),
        "sample": {
            "input": "input 0",
            "references": ["a b", "c d e f"],
            "answer": "a",
            "score": pytest.approx(200 / 3),
        },
    }


def test_a_score_that_no_task_has_is_left_out() -> None:
    titles, others = GIVEN[6:], GIVEN[:6]
    found = SCORING.summarize(titles, SCORING.scores(titles))
    assert (found["metric"], list(found["overall"]), list(found["per_task"])) == ("rouge_l", ["rouge_l"], ["title"])
    assert list(SCORING.scores(others)) == ["right"]
    with pytest.raises(DataError, match="expected answers to score, got none"):
        SCORING.summarize([], {})
    with pytest.raises(DataError, match="task 'mood': expected answers with the task's metric"):
        SCORING.scores([replace(GIVEN[0], metric=None)])


def test_answers_are_asked_freely_and_keep_their_metric() -> None:
    method = Echo()
    states = method.prepare([DATE])
    given = SCORING.ask(method, states, replace(DATE, metric="exact_case"))
    assert [one.prediction for one in given] == ["do date input 0", "do date input 1"]
    assert {one.metric for one in given} == {"exact_case"}
    assert [read_line(one.as_line()) for one in given] == given
    wrong = replace(DATE, metric="number", instances=(*DATE.instances, Instance("x", "?", ("none",))))
    before = len(method.batches)
    message = "task 'date': instance 'x': metric 'number': expected a reference with one number, got 'none'"
    with pytest.raises(DataError, match=message):
        SCORING.ask(method, states, wrong)
    assert len(method.batches) == before


def test_a_line_names_a_metric_that_there_is() -> None:
    line = GIVEN[0].as_line()
    assert line["metric"] == "choice"
    assert "metric" not in replace(GIVEN[0], metric=None).as_line()
    assert read_line(line) == GIVEN[0]
    known = "choice, exact, exact_case, json, number, rouge_l, rouge_l_unicode"
    with pytest.raises(DataError, match=f"^metric: expected one of {known}, got 'bleu'$"):
        read_line({**line, "metric": "bleu"})


def test_the_best_constant_answer_by_hand() -> None:
    # json: "[1]" is right; mood: "bad" twice of three; date: each answer once of two, so the first.
    number = task("sum", ("1",), ("2.0",), ("2",), metric="number")
    found = best_constant([MOOD, DATE, MOVE, number, TITLE])
    rows = {row["task"]: (row["sample"]["answer"], row["score"]) for row in found["tasks"]}
    assert rows["mood"] == ("bad", pytest.approx(200 / 3))
    assert rows["date"] == ("1 May", 50)
    assert rows["move"] == ("[1]", 100)
    assert rows["sum"] == ("2.0", pytest.approx(200 / 3))
    assert rows["title"] == ("a b", pytest.approx(75))  # 1 and 1/2; "a x" has 1/2 and 1, and comes later
    assert found["overall"]["right"] == pytest.approx((200 / 3 + 50 + 100 + 200 / 3) / 4)
    assert found["counts"]["rouge_l"] == {"tasks": 1, "answers": 2}


def test_differences_count_every_task_the_same() -> None:
    values = {"mood": np.array([100.0, 0, 100]), "date": np.array([50.0]), "title": np.array([np.nan, np.nan])}
    means = task_means(values)
    assert {name: one.tolist() for name, one in means.items()} == {"mood": [pytest.approx(200 / 3)], "date": [50]}
    other = {"mood": np.array([0.0]), "date": np.array([0.0])}
    assert paired_difference(means, other)["mean"] == pytest.approx((200 / 3 + 50) / 2)


def test_kept_answers_are_compared_by_what_they_are_scored_by() -> None:
    right = score_answers(GIVEN, "right")
    assert [one.score for one in right] == [100, 0, 100, 100, 0, 100]
    assert {one.answer.task for one in right} == {"mood", "date", "move"}
    assert [one.score for one in score_answers(GIVEN, "rouge_l")] == pytest.approx([200 / 3, 100])
    assert score_answers(GIVEN[:6], "rouge_l") == []
    with pytest.raises(InputError, match="expected another than 'right' for answers without their task's metric"):
        score_answers([replace(GIVEN[0], metric=None)], "right")
