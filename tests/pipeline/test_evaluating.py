"""Evaluations are resumed by the task, say what they are of, and never mix with another's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.config import Recipe, load_recipe
from tagi.errors import ConfigError, InputError
from tagi.evaluation.answers import Answer
from tagi.evaluation.task_log import TaskLog
from tagi.pipeline import Asked, evaluate
from tagi.pipeline.evaluating import select_tasks
from tests.evaluation.echo import tasks

ASKED = Asked(conditions=("right", "none"), tasks=("*-partner", "*-copy"), limit=3)


def toy(*overrides: str) -> Recipe:
    return load_recipe("toy", overrides)


def names(folder: Path) -> list[str]:
    lines = (folder / "predictions-right.jsonl").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["task_id"] for line in lines))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "scores"
    evaluate("toy", toy(), asked=ASKED, out=folder)
    return folder


def test_a_record_says_what_it_is_of(whole: Path) -> None:
    record = json.loads((whole / "record.json").read_text())
    assert (record["format"], record["kind"], record["seed"], record["partial"]) == (1, "evaluation", 0, True)
    assert record["revision"].startswith("sha256:")
    assert record["data"]["digest"].startswith("sha256:")
    assert record["data"]["tasks"] == len(names(whole))
    assert record["data"]["instances"] == 3 * len(names(whole))
    right = record["results"]["right"]
    lines = (whole / "predictions-right.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [Answer.from_line(json.loads(line)) for line in lines]
    exact = sum(answer.prediction in answer.references for answer in answers) / len(answers)
    assert right["overall"]["accuracy"] == pytest.approx(100 * exact)
    assert right["given"] == "the task's instruction"


def test_an_interrupted_evaluation_goes_on_with_the_next_task(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores"
    append = TaskLog.append
    left = [4]

    def dying(self: TaskLog, task: str, lines: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, task, lines)

    monkeypatch.setattr(TaskLog, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate("toy", toy(), asked=ASKED, out=out)
    monkeypatch.undo()
    assert names(out) == names(whole)[:4]
    asked: list[str] = []

    def counting(self: TaskLog, task: str, lines: Any) -> None:
        asked.append(task)
        append(self, task, lines)

    monkeypatch.setattr(TaskLog, "append", counting)
    record = evaluate("toy", toy(), asked=ASKED, out=out, resume=True)
    assert asked == [*names(whole)[4:], *names(whole)]  # the rest of `right`, then all of `none`
    assert record["results"] == json.loads((whole / "record.json").read_text())["results"]
    for file in whole.glob("predictions-*.jsonl"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_finished_one_is_left_alone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagi.pipeline.evaluating.load_method", lambda _: pytest.fail("nothing is left to do"))
    record = evaluate("toy", toy(), asked=ASKED, out=whole, resume=True)
    assert record == json.loads((whole / "record.json").read_text())


def test_files_of_anything_else_are_refused(whole: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    with pytest.raises(ConfigError, match="go on with --resume"):
        evaluate("toy", toy(), asked=ASKED, out=whole)
    with pytest.raises(ConfigError, match="got one of others"):
        evaluate("toy", toy("evaluation.num_beams=2"), asked=ASKED, out=whole, resume=True)
    with pytest.raises(ConfigError, match="got one of others"):
        evaluate("toy", toy(), asked=Asked(limit=3), out=whole, resume=True)
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ConfigError, match="expected an evaluation to go on with"):
        evaluate("toy", toy(), asked=ASKED, out=tmp_path, resume=True)


def test_tasks_are_chosen_by_name_and_pattern() -> None:
    assert [task.name for task in select_tasks(tasks(), [], None)] == ["a", "b", "c"]
    chosen = select_tasks(tasks(), ["c", "[ab]"], 2)
    assert [(task.name, len(task.instances)) for task in chosen] == [("a", 1), ("b", 2), ("c", 2)]
    with pytest.raises(InputError, match="of 3 test tasks, got 'd'"):
        select_tasks(tasks(), ["a", "d"], None)
