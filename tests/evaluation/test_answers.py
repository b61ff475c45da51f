"""Answers keep their order whatever the batches; conditions give what they say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tagi.data.task import Instance, Task
from tagi.errors import DataError
from tagi.evaluation.answers import answer_tasks, write_answers
from tagi.evaluation.conditions import instruction_conditions, other_task
from tagi.evaluation.report import category_rows, summarize
from tagi.methods import Method


class Echo(Method):
    """A method whose answer is its instruction and the input."""

    name = "echo"

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        raise AssertionError("evaluation does not train")

    def score_choices(self, *_: Any, **__: Any) -> list[list[float]]:
        raise AssertionError("nothing here has choices")

    def save(self, folder: Path, extra: Any = None) -> None:
        raise AssertionError("evaluation does not save")

    @classmethod
    def load(cls, folder: Path) -> "Echo":
        return cls()

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> list[str]:
        return [task.instruction for task in tasks]

    def without_instruction(self, states: list[str]) -> list[str]:
        return ["-"] * len(states)

    def predict(self, states: list[str], rows: Tensor, inputs: Sequence[str], **_: Any) -> list[str]:
        self.batches.append(len(inputs))
        return [f"{states[row]} {text}" for row, text in zip(rows.tolist(), inputs, strict=True)]


def tasks() -> list[Task]:
    return [
        Task(
            name,
            category,
            f"do {name}",
            tuple(
                Instance(f"{name}{i}", "x" * (9 - 2 * i), (f"do {name} " + "x" * (9 - 2 * i),)) for i in range(count)
            ),
            paraphrases=(f"please {name}",),
        )
        for name, category, count in (("a", "odd", 1), ("b", "even", 4), ("c", "odd", 2))
    ]


def ask(instructions: Any, batch_size: int) -> tuple[list[Any], Echo]:
    method = Echo()
    answers = answer_tasks(method, instructions, tasks(), batch_size=batch_size, max_new_tokens=5)
    return answers, method


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_order_does_not_depend_on_batches(batch_size: int) -> None:
    answers, method = ask(Echo().prepare(tasks()), batch_size)
    assert [answer.id for answer in answers] == ["a0", "b0", "b1", "b2", "b3", "c0", "c1"]
    assert all(answer.prediction == answer.references[0] for answer in answers)
    assert sum(method.batches) == 7
    assert max(method.batches) <= batch_size


def test_scores_and_rows() -> None:
    answers, _ = ask(["do a", "do b", "wrong"], 2)
    summary = summarize(answers, "exact")
    assert summary["n"] == 7
    assert summary["overall"]["accuracy"] == pytest.approx(100 * 5 / 7)
    assert summary["per_category"]["even"]["accuracy"] == 100
    low, high = summary["interval"]
    assert low <= summary["overall"]["accuracy"] <= high
    assert [row["category"] for row in category_rows(summary)] == ["even", "odd", "all"]


def test_conditions() -> None:
    made = {name: make() for name, make in instruction_conditions(Echo(), tasks()).items()}
    assert made == {
        "right": ["do a", "do b", "do c"],
        "paraphrase": ["please a", "please b", "please c"],
        "other": ["do b", "do c", "do a"],
        "none": ["-", "-", "-"],
    }


def test_another_task_is_never_the_same() -> None:
    for count in (2, 5, 24):
        others = other_task(tasks()[:1] * count)
        assert sorted(others) == list(range(count))
        assert all(index != other for index, other in enumerate(others))
    with pytest.raises(DataError, match="at least 2"):
        other_task(tasks()[:1])


def test_answers_are_written_as_json_lines(tmp_path: Any) -> None:
    import json

    answers, _ = ask(["ü", "b", "c"], 3)
    write_answers(answers, tmp_path / "predictions.jsonl")
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 7
    assert json.loads(lines[0])["prediction"].startswith("ü ")
