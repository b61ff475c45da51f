"""Paired comparisons: planted differences are found, equal answers are equal, other instances are refused."""

from typing import Any

import pytest

from tagi.errors import DataError, InputError
from tagi.evaluation.reports.paired_evaluations import ScoredAnswer, compare_answers, score_answers
from tagi.evaluation.scoring.answers import read_line

TASKS = {"a": ("odd", 5), "b": ("even", 7), "c": ("odd", 11), "d": ("even", 2), "e": ("odd", 3)}


def lines(right_every: int = 1, wrong: str = "wrong") -> list[dict[str, Any]]:
    """Answers of which every `right_every`th, and of each task the first, is right."""
    return [
        {
            "id": str(index),
            "task_id": task,
            "task_category": category,
            "input": f"input {index}",
            "references": [f"the answer {index}", f"answer {index}"],
            "prediction": f"the answer {index}" if index % right_every == 0 else wrong,
        }
        for task, (category, size) in TASKS.items()
        for index in range(size)
    ]


def score_lines(given: list[dict[str, Any]], metric: str) -> list[ScoredAnswer]:
    return score_answers([read_line(line) for line in given], metric)


def compared(a: list[dict[str, Any]], b: list[dict[str, Any]], metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    return compare_answers(score_lines(a, metric), score_lines(b, metric), **more)


def test_a_planted_difference_excludes_zero_and_flips_with_the_order() -> None:
    found, flipped = compared(lines(1), lines(2)), compared(lines(2), lines(1))
    wrong = sum(size // 2 for _, size in TASKS.values())
    assert found["n"] == 28
    assert found["tasks"] == 5
    assert (found["a"], found["b"]) == (100, pytest.approx(100 * (28 - wrong) / 28))
    assert found["difference"] == pytest.approx(100 * wrong / 28)
    low, high = found["interval"]
    assert 0 < low < found["difference"] < high
    assert flipped["difference"] == -found["difference"]
    assert flipped["interval"] == pytest.approx([-high, -low])
    assert (found["wins"], found["ties"], found["losses"]) == (wrong, 28 - wrong, 0)
    assert (flipped["wins"], flipped["ties"], flipped["losses"]) == (0, 28 - wrong, wrong)


def test_equal_answers_differ_by_nothing() -> None:
    found = compared(lines(2), lines(2), examples=4)
    assert (found["difference"], found["interval"]) == (0, [0, 0])
    assert (found["wins"], found["ties"], found["losses"]) == (0, 28, 0)
    assert found["examples"] == []


def test_tasks_are_drawn_whole() -> None:
    """A difference in one task alone: that task may be drawn never, so that the interval reaches 0."""
    worse = [{**line, "prediction": "wrong"} if line["task_id"] == "c" else line for line in lines()]
    found = compared(lines(), worse)
    assert found["drawn"] == "tasks"
    assert found["interval"][0] == 0
    assert found["difference"] == pytest.approx(100 * 11 / 28)


def test_by_category() -> None:
    found = compared(lines(), lines(2))["per_category"]
    assert list(found) == ["even", "odd"]
    assert {name: (one["n"], one["tasks"], one["wins"]) for name, one in found.items()} == {
        "even": (9, 2, 4),
        "odd": (19, 3, 8),
    }
    one_task = [line for line in lines() if line["task_id"] == "b"]
    worse = [line for line in lines(2) if line["task_id"] == "b"]
    alone = compared(one_task, worse)
    assert alone["drawn"] == "instances"
    assert alone["interval"][0] < alone["difference"] < alone["interval"][1]


def test_the_order_of_lines_is_of_no_matter() -> None:
    assert compared(lines(), lines(2)[::-1]) == compared(lines(), lines(2))


def test_examples_are_those_that_differ_most() -> None:
    other = [{**line, "prediction": "the"} if line["id"] == "4" else line for line in lines()]
    other[0] = {**other[0], "prediction": "nothing like it"}
    found = compared(lines(), other, "rougeL", examples=2)["examples"]
    assert [(one["task"], one["id"]) for one in found] == [("a", "0"), ("a", "4")]
    assert found[0] == {
        "task": "a",
        "category": "odd",
        "id": "0",
        "input": "input 0",
        "references": ["the answer 0", "answer 0"],
        "a": {"prediction": "the answer 0", "score": 100},
        "b": {"prediction": "nothing like it", "score": 0},
    }
    assert 0 < found[1]["b"]["score"] < 100
    assert len(compared(lines(), other, "rougeL", examples=9)["examples"]) == 4


@pytest.mark.parametrize(("metric", "score"), [("accuracy", 0), ("exact_match", 100), ("rougeL", 100), ("rouge1", 100)])
def test_metrics(metric: str, score: float) -> None:
    (one,) = score_lines([{**lines()[0], "prediction": "The answer, 0"}], metric)
    assert one.score == pytest.approx(score)


def test_ranked_choices() -> None:
    ranked = [
        {
            "id": str(index),
            "task_id": "a",
            "task_category": "odd",
            "input": "?",
            "choices": ["yes", "no", "maybe"],
            "scores": [-1.0, -2.0, -3.0],
            "right": [0, 2],
            "predicted": predicted,
            "tied": False,
            "prediction": ["yes", "no", "maybe"][predicted],
        }
        for index, predicted in enumerate((0, 1, 2))
    ]
    scored = score_lines(ranked, "accuracy")
    assert [one.score for one in scored] == [100, 0, 100]
    assert scored[0].answer.references == ("yes", "maybe")
    with pytest.raises(InputError, match="expected accuracy for ranked choices, got 'rougeL'"):
        score_lines(ranked, "rougeL")


def test_other_instances_are_refused() -> None:
    with pytest.raises(DataError, match=r"got 28 in A, 26 in B: 2 in A alone \(first: '0' of task 'd'\)$"):
        compared(lines(), [line for line in lines() if line["task_id"] != "d"])
    renamed = [{**line, "id": line["id"] + "x"} if line["task_id"] == "d" else line for line in lines()]
    with pytest.raises(DataError, match=r"2 in A alone .*; 2 in B alone \(first: '0x' of task 'd'\)"):
        compared(lines(), renamed)
    with pytest.raises(DataError, match="instance '0' of task 'a': expected the same input and references"):
        compared(lines(), [{**line, "input": "other"} for line in lines()])
    with pytest.raises(DataError, match="B: expected one answer to instance '0' of task 'a', got two"):
        compared(lines(), [*lines(), lines()[0]])
    with pytest.raises(DataError, match="got none"):
        compared([], [])


def test_what_is_no_metric_or_no_answer_is_refused() -> None:
    known = "accuracy, rougeL, rouge1, exact_match, right, rouge_l, rouge_l_unicode"
    with pytest.raises(InputError, match=f"--metric: expected one of {known}, got 'bleu'"):
        score_lines(lines(), "bleu")
    with pytest.raises(DataError, match="task_category: expected a value, got nothing"):
        score_lines([{"task_id": "a", "id": "0"}], "accuracy")
