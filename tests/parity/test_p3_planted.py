"""On P3's real sets a planted scorer is always right, its negation never, and the order of choices is nothing."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers.p3_eval import read_p3_eval
from tagi.data.task import Task
from tagi.evaluation.scoring.p3 import p3_averages
from tagi.evaluation.scoring.rank_classification import RankScoring
from tests.evaluation.echo import Echo

ROWS = 7


class Planted(Echo):
    """Holds a choice as likely as `score` says of the right one's text and the choice."""

    def __init__(self, task: Task, score: Callable[[str, str], float]) -> None:
        super().__init__()
        self.right = {instance.input: instance.outputs[0] for instance in task.instances}
        self.score = score

    def score_choices(
        self, states: Any, rows: Any, inputs: Sequence[str], choices: Sequence[Sequence[str]], **_: Any
    ) -> list[list[float]]:
        return [
            [self.score(self.right[text], choice) for choice in own] for text, own in zip(inputs, choices, strict=True)
        ]


def likes(right: str, choice: str) -> float:
    return -len(choice) / 1000 - (choice != right)


def dislikes(right: str, choice: str) -> float:
    return -likes(right, choice)


@pytest.fixture(scope="module")
def tasks(data_dir: Path) -> tuple[Task, ...]:
    """Every original-task template of the sets at hand, the first rows of each; inputs told apart by their rows."""
    read = read_p3_eval(data_dir / "p3" / "eval", templates=data_dir / "p3" / "templates", limit=ROWS)
    assert len(read.tasks) == 106
    return tuple(
        replace(
            task,
            instances=tuple(replace(instance, input=f"{instance.id} {instance.input}") for instance in task.instances),
        )
        for task in read.tasks
    )


def ranked(tasks: Sequence[Task], score: Callable[[str, str], float]) -> dict[str, Any]:
    answers = [answer for task in tasks for answer in RankScoring(4).ask(Planted(task, score), [""], task)]
    return {
        "summary": RankScoring(4).summarize(answers, {}),
        "answers": answers,
        "predictions": [answer.prediction for answer in answers],
    }


def test_right_wrong_and_in_any_order(tasks: tuple[Task, ...]) -> None:
    found = ranked(tasks, likes)
    assert {one["accuracy"] for one in found["summary"]["per_task"].values()} == {100.0}
    assert found["summary"]["overall"]["accuracy"] == 100
    assert ranked(tasks, dislikes)["summary"]["overall"]["accuracy"] == 0
    rng = random.Random(3)
    permuted = [
        replace(
            task,
            instances=tuple(
                replace(instance, choices=tuple(rng.sample(instance.choices or (), len(instance.choices or ()))))
                for instance in task.instances
            ),
        )
        for task in tasks
    ]
    assert [one.instances for one in permuted] != [one.instances for one in tasks]
    assert ranked(permuted, likes)["predictions"] == found["predictions"]
    averages = p3_averages(found["summary"], found["answers"])
    assert set(averages["mtest11"]["missing"]) == {"winogrande_winogrande_xl", "story_cloze_2016"}
    assert averages["mtest11"]["value"] is None


def test_all_alike_are_all_ties(tasks: tuple[Task, ...]) -> None:
    summary = ranked(tasks, lambda right, choice: -1.0)["summary"]
    assert summary["ties"] == summary["n"] == sum(len(task.instances) for task in tasks)
