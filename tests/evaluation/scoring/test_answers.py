"""Answers keep their order whatever the batches, and are kept in the form that others read."""

import json
from pathlib import Path

import pytest

from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Answer, RankedAnswer, read_line
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tests.evaluation.echo import Echo, tasks


def ask(instructions: list[str], batch_size: int) -> tuple[list[Answer], Echo]:
    method = Echo()
    answers = [
        answer
        for task, instruction in zip(tasks(), instructions, strict=True)
        for answer in FreeFormScoring("exact", batch_size, 5).ask(method, [instruction], task)
    ]
    return answers, method


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_order_does_not_depend_on_batches(batch_size: int) -> None:
    answers, method = ask(["do a", "do b", "do c"], batch_size)
    assert [answer.id for answer in answers] == ["a0", "b0", "b1", "b2", "b3", "c0", "c1"]
    assert all(answer.prediction == answer.references[0] for answer in answers)
    assert sum(method.batches) == 7
    assert max(method.batches) == min(batch_size, 4)


def test_batches_hold_inputs_of_like_length() -> None:
    method = Echo()
    FreeFormScoring("exact", 3, 5).ask(method, ["do b"], tasks()[1])
    assert method.lengths == [[3, 5, 7], [9]]


def test_scores() -> None:
    answers, _ = ask(["do a", "do b", "wrong"], 2)
    scoring = FreeFormScoring("exact", 2, 5)
    summary = scoring.summarize(answers, scoring.scores(answers))
    assert summary["n"] == 7
    assert summary["overall"]["accuracy"] == pytest.approx(100 * 5 / 7)
    assert summary["per_category"]["even"]["accuracy"] == 100
    low, high = summary["interval"]
    assert low <= summary["overall"]["accuracy"] <= high


def test_a_line_holds_an_answer_under_the_names_that_natural_instructions_reads(tmp_path: Path) -> None:
    answers, _ = ask(["ü", "b", "c"], 3)
    line = json.loads(json.dumps(answers[0].as_line()))
    assert line["prediction"].startswith("ü ")
    # `evaluation.py` of natural-instructions: predictions have the first two, references have the others and `id`.
    assert {"id", "prediction", "references", "task_id", "task_category", "track"} <= set(line)
    assert (line["id"], line["references"], line["track"]) == ("a0", ["do a " + "x" * 9], "default")
    assert read_line(line) == answers[0]


RANKED = {
    **dict.fromkeys(("task_id", "task_category", "id", "input", "prediction"), "x"),
    "choices": ["x", "y", "z"],
    "scores": [-1.0, -2.0, -7],
    "right": [1],
    "predicted": 0,
    "tied": False,
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"choices": ["x"]}, "choices"),
        ({"scores": [-1.0, -2.0]}, "scores"),
        ({"scores": [-1.0, -2.0, float("nan")]}, "scores"),
        ({"right": []}, "right"),
        ({"right": [3]}, "right"),
        ({"predicted": "x"}, "predicted"),
        ({"predicted": True}, "predicted"),
        ({"tied": None}, "tied"),
        ({"references": ["x"]}, "references"),
        ({"id": 3}, "id"),
        ({"input": ...}, "input"),
    ],
)
def test_ranked_lines_are_checked(change: dict[str, object], named: str) -> None:
    assert isinstance(read_line(RANKED), RankedAnswer)
    line = {key: value for key, value in {**RANKED, **change}.items() if value is not ...}
    with pytest.raises(DataError, match=rf"^{named}\b"):
        read_line(line)
