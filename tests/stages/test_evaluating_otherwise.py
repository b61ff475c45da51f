"""Evaluations in another wording, and with another number of examples, than the checkpoint and the recipe have."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tagi.data.task import Task
from tagi.errors import InputError
from tagi.settings.recipe import Recipe
from tagi.stages.evaluate import EvaluationRequest, evaluate, in_wording
from tagi.stages.recipes import load_recipe
from tests.commands import Run
from tests.evaluation.echo import Echo

ASSET = "src/tagi/assets/toy-generator"
FEW = ("--tasks", "*-copy", "--limit", "1")


class Showing(Echo):
    """Says how many examples a task shows."""

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> list[str]:
        return [f"{task.instruction} {len(task.examples)}" for task in tasks]


@pytest.fixture
def checkpoint(tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One whose text settings say 3 positives; what it answers is its instruction and how many examples it sees."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(repo_root / ASSET, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text"]["positives"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: Showing())
    return str(folder)


def recipe_at(tmp_path: Path, *overrides: str) -> Recipe:
    lines = [
        {
            "task": f"t{at}",
            "category": "c",
            "instruction": f"do {at}",
            "paraphrases": [f"please do {at}"] * (at + 1),
            "examples": [{"input": f"e{n}", "output": "z"} for n in range(5)],
            "instances": [{"input": f"x{n}", "outputs": ["y"]} for n in range(3)],
        }
        for at in range(2)
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_recipe("sni-small", ["data.source=jsonl", f"data.path={path}", *overrides])


def answers(checkpoint: str, recipe: Recipe, out: Path, **asked: Any) -> tuple[dict[str, Any], list[str]]:
    record = evaluate(checkpoint, recipe, request=EvaluationRequest(limit=1, **asked), out=out)
    lines = (out / "predictions-right.jsonl").read_text(encoding="utf-8").splitlines()
    return record, [json.loads(line)["prediction"] for line in lines]


def test_wording_and_examples_are_replaced_and_recorded(checkpoint: str, tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path)
    usual, said = answers(checkpoint, recipe, tmp_path / "usual")
    assert said == ["do 0 5 x0", "do 1 5 x0"]
    assert not usual["data"].keys() & {"wording", "positives"}
    other, said = answers(checkpoint, recipe, tmp_path / "other", wording="1", positives=2)
    assert said == ["please do 0 2 x0", "please do 1 2 x0"]
    assert (other["data"]["wording"], other["data"]["positives"]) == ("1", 2)
    assert other["data"]["digest"] == usual["data"]["digest"]  # the same tasks, to be compared
    found = {
        answers(checkpoint, recipe, tmp_path / f"x{at}", **asked)[0]["evaluation"]
        for at, asked in enumerate(({"wording": "definition"}, {"positives": 0}, {"positives": 3}))
    }
    assert len(found | {usual["evaluation"], other["evaluation"]}) == 5


def test_drawn_demonstrations_are_left_out_by_default(checkpoint: str, tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path, "data.positives=3", "data.demonstrations=0.5")
    record, said = answers(checkpoint, recipe, tmp_path / "usual")
    assert said == ["do 0 0 x0", "do 1 0 x0"]
    assert record["data"]["positives"] == 0
    record, said = answers(checkpoint, recipe, tmp_path / "shown", positives=2)
    assert said == ["do 0 2 x0", "do 1 2 x0"]
    assert record["data"]["positives"] == 2


def test_what_is_not_there_is_refused(checkpoint: str, tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path)
    with pytest.raises(InputError, match=r"--wording: task 't0' has no wording '2'; it has definition, 1$"):
        evaluate(checkpoint, recipe, request=EvaluationRequest(wording="2"))
    assert len(evaluate(checkpoint, recipe, request=EvaluationRequest(wording="2", tasks=("t1",)))["results"]) == 1
    with pytest.raises(InputError, match="--positives: this checkpoint shows at most 3 examples of a task, got 4"):
        evaluate(checkpoint, recipe, request=EvaluationRequest(positives=4))


def test_an_evaluation_as_usual_keeps_its_identity() -> None:
    asked = EvaluationRequest(tasks=("toy-food-tool-copy",), limit=1)
    # As it was before wordings and positives could be asked for.
    assert evaluate("toy", load_recipe("toy"), request=asked)["evaluation"] == "3df7061e8b0b6c82"


def test_wordings_of_the_real_test_tasks(data_dir: Path) -> None:
    from tagi.stages.tasks import load_tasks

    place = f"data.path={data_dir / 'natural-instructions'}"
    tasks = load_tasks(load_recipe("smollm2", [place, "data.test_instances_per_task=1"]), "test").tasks
    terse = in_wording(tasks, "terse")
    assert len(terse) == 55
    assert sum(len(task.instruction) for task in terse) < 0.3 * sum(len(task.instruction) for task in tasks)
    message = r"task 'task\w+' has no wording 'polite'; it has definition, terse, short, plain, request, detailed$"
    with pytest.raises(InputError, match=message):
        in_wording(tasks, "polite")


def test_from_the_command_line(run_tagi: Run) -> None:
    ran = run_tagi("evaluate", "toy", "toy", *FEW, "--wording", "3", "--positives", "0")
    assert ran.code == 0, ran.err
    assert ", wording '3', at most 0 examples each\n" in ran.out
    ran = run_tagi("evaluate", "toy", "toy", *FEW, "--wording", "polite")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: --wording: task 'toy-")
    ran = run_tagi("evaluate", "toy", "toy", *FEW, "--positives", "1")
    assert ran.code == 2
    assert ran.err == "error: --positives: this checkpoint shows at most 0 examples of a task, got 1\n"


def test_held_out_tasks_are_scored_instead_of_test_tasks(checkpoint: str, tmp_path: Path) -> None:
    lines = [
        {
            "task": f"t{at}",
            "category": f"c{at}",
            "instruction": f"do {at}",
            "instances": [{"input": f"x{n}", "outputs": ["y"]} for n in range(3)],
        }
        for at in range(3)
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = ["data.source=jsonl", f"data.path={path}"]
    recipe = load_recipe("sni-small", [*overrides, "data.validation_categories=['c1']"])
    record, said = answers(checkpoint, recipe, tmp_path / "out", held_out=True)
    assert said == ["do 1 0 x0"]
    assert record["held_out"] is True
    assert record["partial"] is True
    tested, _ = answers(checkpoint, recipe, tmp_path / "tested")
    assert tested["evaluation"] != record["evaluation"]
    assert "held_out" not in tested
    with pytest.raises(InputError, match=r"--held-out: expected a recipe with data\.validation_categories"):
        evaluate(checkpoint, load_recipe("sni-small", overrides), request=EvaluationRequest(held_out=True))
