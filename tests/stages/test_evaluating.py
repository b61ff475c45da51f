"""Evaluations are resumed by the task, say what they are of, and never mix with another's files."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tagi.api.recipes import evaluate as score_tasks
from tagi.data.task import Task
from tagi.errors import CheckpointError, ConfigError, DataError, InputError
from tagi.evaluation.conditions import SENSITIVITY
from tagi.evaluation.predictions_log import TaskLog
from tagi.evaluation.scoring.answers import read_line
from tagi.evaluation.scoring.metrics import rouge_l
from tagi.formats.records import trained_by
from tagi.settings.recipe import Recipe
from tagi.stages.evaluate import EvaluationRequest, evaluate, select_tasks
from tagi.stages.evaluation_folder import alone
from tagi.stages.recipes import load_recipe
from tests.evaluation.echo import Echo, tasks

ASKED = EvaluationRequest(conditions=("right", "none"), tasks=("*-partner", "*-copy"), limit=3)


def toy(*overrides: str) -> Recipe:
    return load_recipe("toy", overrides)


def names(folder: Path) -> list[str]:
    lines = (folder / "predictions-right.jsonl").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["task_id"] for line in lines))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "scores"
    evaluate("toy", toy(), request=ASKED, out=folder)
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
    answers = [read_line(json.loads(line)) for line in lines]
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
        evaluate("toy", toy(), request=ASKED, out=out)
    monkeypatch.undo()
    assert names(out) == names(whole)[:4]
    asked: list[str] = []

    def counting(self: TaskLog, task: str, lines: Any) -> None:
        asked.append(task)
        append(self, task, lines)

    monkeypatch.setattr(TaskLog, "append", counting)
    record = evaluate("toy", toy(), request=ASKED, out=out, resume=True)
    assert asked == [*names(whole)[4:], *names(whole)]  # the rest of `right`, then all of `none`
    assert record["results"] == json.loads((whole / "record.json").read_text())["results"]
    for file in whole.glob("predictions-*.jsonl"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_finished_one_is_left_alone(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: pytest.fail("nothing is left to do"))
    record = evaluate("toy", toy(), request=ASKED, out=whole, resume=True)
    assert record == json.loads((whole / "record.json").read_text())


def test_files_of_anything_else_are_refused(whole: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    with pytest.raises(ConfigError, match="go on with --resume"):
        evaluate("toy", toy(), request=ASKED, out=whole)
    with pytest.raises(ConfigError, match="got another"):
        evaluate("toy", toy("evaluation.num_beams=2"), request=ASKED, out=whole, resume=True)
    with pytest.raises(ConfigError, match="got another"):
        evaluate("toy", toy(), request=EvaluationRequest(limit=3), out=whole, resume=True)
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ConfigError, match="expected the identity of an evaluation"):
        evaluate("toy", toy(), request=ASKED, out=tmp_path, resume=True)
    (tmp_path / "evaluation.json").rename(tmp_path / "mine.json")
    for resume in (True, False):  # nothing to go on with: no advice to try
        with pytest.raises(ConfigError, match=r"got one that holds files$"):
            evaluate("toy", toy(), request=ASKED, out=tmp_path, resume=resume)


SMALL = EvaluationRequest(limit=1, tasks=("*-copy",))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "scores"
    evaluate("toy", toy(), request=SMALL, out=folder)
    return folder


def edited(small: Path, tmp_path: Path, **changes: Any) -> Path:
    """An evaluation without its record whose first line was changed."""
    out = tmp_path / "edited"
    shutil.copytree(small, out)
    (out / "record.json").unlink()
    path = out / "predictions-right.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    line = {key: value for key, value in {**json.loads(first), **changes}.items() if value is not ...}
    path.write_text("".join([json.dumps(line) + "\n", *others]))
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": ...}, "prediction: expected a value, got nothing"),
        ({"prediction": 3}, "prediction: expected text, got 3"),
        ({"references": [3]}, "references.0: expected text, got 3"),
        ({"references": []}, "references: expected a list of at least 1"),
        ({"references": ["cats"]}, "references: expected .* got .'cats'"),
        ({"id": "x"}, "id: expected 'toy-.*, got 'x'"),
        ({"task_category": None}, "task_category: expected text"),
        ({"more": 1}, "more: "),
    ],
)
def test_lines_that_do_not_answer_these_instances_are_named(
    small: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = edited(small, tmp_path, **changes)
    with pytest.raises(DataError, match=rf"predictions-right\.jsonl: task 'toy-.*: {message}"):
        evaluate("toy", toy(), request=SMALL, out=out, resume=True)


def test_a_damaged_record_is_named(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(small, out)
    record = json.loads((small / "record.json").read_text())
    for damage in ({"results": {}}, {"data": None}, {"results": {"right": {"n": 1}}}):
        (out / "record.json").write_text(json.dumps({**record, **damage}))
        with pytest.raises(CheckpointError, match="expected a finished evaluation's record"):
            evaluate("toy", toy(), request=SMALL, out=out, resume=True)
    (out / "record.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="expected a run's record"):
        evaluate("toy", toy(), request=SMALL, out=out, resume=True)


def test_one_evaluation_at_a_time(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "busy"
    shutil.copytree(small, out)
    (out / "record.json").unlink()
    before = (out / "predictions-right.jsonl").read_bytes()
    with alone(out), pytest.raises(ConfigError, match="expected no other evaluation into it"):
        evaluate("toy", toy(), request=SMALL, out=out, resume=True)
    assert (out / "predictions-right.jsonl").read_bytes() == before
    assert evaluate("toy", toy(), request=SMALL, out=out, resume=True)["results"]
    with pytest.raises(KeyError), alone(tmp_path / "never"):
        raise KeyError
    assert not (tmp_path / "never").exists()


def test_what_could_not_be_asked_is_named(small: Path) -> None:
    asked = EvaluationRequest(("right", "other", "LoRA alone"), ("toy-food-tool-copy",), 1)
    assert evaluate("toy", toy(), request=asked)["not_scored"] == ["other"]
    assert json.loads((small / "record.json").read_text())["not_scored"] == []


def test_a_record_says_how_its_checkpoint_was_trained(tmp_path: Path) -> None:
    assert trained_by(tmp_path / "model") is None
    recipe = toy("seed=3").model_dump(mode="json")
    (tmp_path / "record.json").write_text(json.dumps({"stage": "finetune", "recipe": recipe}))
    assert trained_by(tmp_path / "model") == {"stage": "finetune", "seed": 3, "recipe": recipe}


def test_tasks_are_chosen_by_name_and_pattern() -> None:
    assert [task.name for task in select_tasks(tasks(), [], None)] == ["a", "b", "c"]
    chosen = select_tasks(tasks(), ["c", "[ab]"], 2)
    assert [(task.name, len(task.instances)) for task in chosen] == [("a", 1), ("b", 2), ("c", 2)]
    with pytest.raises(InputError, match="of 3 test tasks, got 'd'"):
        select_tasks(tasks(), ["a", "d"], None)


class Deaf(Echo):
    """It never listens to its instruction."""

    def prepare(self, tasks: Any, *, truncate: bool = False) -> list[str]:
        return ["x"] * len(tasks)

    def without_instruction(self, states: list[str]) -> list[str]:
        return states


def lined(task: Task) -> str:
    instances = [{"input": one.input, "outputs": list(one.outputs)} for one in task.instances]
    content = {"task": task.name, "category": task.category, "instruction": task.instruction, "instances": instances}
    return json.dumps(content) + "\n"


@pytest.fixture
def own(tmp_path: Path) -> Recipe:
    """A recipe of three tasks: a and c of one category, b alone in another."""
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(lined(task) for task in tasks()))
    return load_recipe("sni-small", ["data.source=jsonl", f"data.path={path}", "evaluation.metric=rouge"])


def scored(method: Echo, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, out: Path | None = None) -> dict[str, Any]:
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: method)
    return evaluate("toy", recipe, request=EvaluationRequest(SENSITIVITY, distances=True), out=out)


def test_conditions_are_paired_with_the_right_instruction(
    own: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = scored(Echo(), own, monkeypatch, tmp_path / "scores")
    results = record["results"]
    assert list(results) == ["right", "same category", "other category", "shuffled", "random", "none"]
    assert "minus_right" not in results["right"]
    assert results["right"]["overall"]["rougeL"] == 100
    same = results["same category"]
    assert (same["left_out"], same["n"]) == (["b"], 3)
    lines = (tmp_path / "scores" / "predictions-same-category.jsonl").read_text().splitlines()
    answers = [read_line(json.loads(line)) for line in lines]
    assert [answer.task for answer in answers] == ["a", "c", "c"]
    differences = [100 * rouge_l(answer.prediction, answer.references) - 100 for answer in answers]
    assert same["minus_right"]["mean"] == pytest.approx(sum(differences) / 3)
    assert same["minus_right"]["mean"] < -30
    low, high = same["minus_right"]["interval"]
    assert low <= same["minus_right"]["mean"] <= high < 0
    assert (same["minus_right"]["tasks"], same["minus_right"]["n"]) == (2, 3)
    assert "left_out" not in results["shuffled"]
    assert "adapters" not in record  # a method without any
    assert not (tmp_path / "scores" / "adapters.png").exists()
    (tmp_path / "scores" / "record.json").unlink()
    again = Echo()
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: again)
    asked = EvaluationRequest(SENSITIVITY, distances=True)
    assert evaluate("toy", own, request=asked, out=tmp_path / "scores", resume=True)["results"] == results
    assert again.batches == []  # all of it was in the files, the condition that leaves a task out too


def test_a_method_that_ignores_its_instruction_is_shown_to(own: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    results = scored(Deaf(), own, monkeypatch)["results"]
    assert results["right"]["overall"]["rougeL"] < 100
    for name, result in results.items():
        if name != "right":
            assert (result["minus_right"]["mean"], result["minus_right"]["interval"]) == (0, [0, 0]), name


def test_the_right_instruction_need_not_be_asked_first_or_at_all(own: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: Echo())
    results = evaluate("toy", own, request=EvaluationRequest(("none", "right")))["results"]
    assert results["none"]["minus_right"]["mean"] < 0
    assert "minus_right" not in evaluate("toy", own, request=EvaluationRequest(("none",)))["results"]["none"]


def test_no_picture_can_be_drawn_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'tagi-adapters\[plots\]'"):
        evaluate("toy", toy(), request=EvaluationRequest(limit=1, distances=True), out=tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_the_shipped_generator_hears_its_instruction(tmp_path: Path) -> None:
    asked = EvaluationRequest((*SENSITIVITY, "LoRA alone"), ("*-partner", "*-copy"), 2, distances=True)
    record = evaluate("toy", toy(), request=asked, out=tmp_path / "scores")
    results = record["results"]
    assert list(results) == [*SENSITIVITY, "LoRA alone"]
    for name in ("same category", "other category", "random", "empty", "mean adapter", "none"):
        assert results[name]["minus_right"]["interval"][1] < -50, name
    adapters = record["adapters"]
    assert set(adapters["categories"]) == {"copy", "partner"}
    assert len(adapters["tasks"]) == len(adapters["distances"]) == len(adapters["distances"][0]) == 8
    squares = [distance**2 for row in adapters["distances"] for distance in row]
    assert sum(squares) / len(squares) / 2 == pytest.approx(record["delta_variance"], abs=1e-5)
    assert 0 < adapters["categories_apart"]["p"] <= 1
    assert (tmp_path / "scores" / "adapters.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "scores" / "record.json").read_text())["adapters"] == adapters


def test_the_recipes_seed_draws_what_is_given(own: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagi.stages.evaluate.load_method", lambda _: Echo())

    def drawn(seed: int) -> tuple[str, float]:
        record = evaluate("toy", own.model_copy(update={"seed": seed}), request=EvaluationRequest(("random",)))
        return record["evaluation"], record["results"]["random"]["overall"]["rougeL"]

    assert drawn(0) == drawn(0)
    identities, scores = zip(*(drawn(seed) for seed in range(5)), strict=True)
    assert len(set(identities)) == 5
    assert len(set(scores)) > 1


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"input": " "}, "task 'b': instance 'b1': expected an input, got an empty text"),
        ({"id": "b0"}, "task 'b': instance 'b0': expected ids that differ within a task"),
    ],
)
def test_a_blank_input_or_an_id_given_twice_is_named_before_anything_is_asked(
    changed: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, given = Echo(), tasks()
    odd = replace(given[1].instances[1], **changed)
    given[1] = replace(given[1], instances=(given[1].instances[0], odd))
    monkeypatch.setattr("tagi.api.recipes.load_method", lambda _: method)
    with pytest.raises(DataError, match=fault):
        score_tasks("toy", given)
    assert method.batches == []
