"""A user's own tasks: which are trained on, which are tested, and that a test on training data never goes unseen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tagi.api.recipes import train
from tagi.backbones.load import folder_revision
from tagi.errors import ConfigError
from tagi.evaluation.reports.paired_evaluations import compare
from tagi.evaluation.reports.report import make_report
from tagi.formats.finding import find_checkpoint
from tagi.formats.records import RECORD
from tagi.settings.recipe import Recipe
from tagi.stages.evaluate import evaluate
from tagi.stages.recipes import load_recipe
from tagi.stages.run import run
from tagi.stages.tasks import load_tasks
from tests.commands import Run

NAMES = ("agree", "city", "plural", "rhyme", "tense")
SHORT = (
    *("training.steps=2", "training.metatrain.steps=2", "training.tasks_per_batch=3", "training.queries_per_task=2"),
    *("losses.kl=0", "losses.ins=0", "run.stages=['finetune']", "evaluation.max_new_tokens=2"),
)


def lines(*names: str, first: int = 0, **fields: str) -> str:
    """A task of two instances for every name, as JSON Lines; inputs are numbered from `first`."""

    def instance(name: str, number: int) -> dict[str, Any]:
        return {"input": f"{name} {number} cat", "outputs": ["cat"]}

    tasks = (
        {"task": name, "instruction": f"do {name}", "instances": [instance(name, first), instance(name, first + 1)]}
        for name in names
    )
    return "".join(json.dumps({**task, **fields}) + "\n" for task in tasks)


def recipe_of(path: Path, *overrides: str) -> Recipe:
    return load_recipe("toy", [*SHORT, "data.source=jsonl", f"data.path={path}", *overrides])


def names(recipe: Recipe, split: Any) -> list[str]:
    return [task.name for task in load_tasks(recipe, split).tasks]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines(*NAMES))
    return file


def test_a_file_of_test_tasks(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text(lines("city", "new", first=10))
    recipe = recipe_of(path, f"data.test_path={other}")
    assert (names(recipe, "train"), names(recipe, "test")) == (list(NAMES), ["city", "new"])
    assert run(recipe, tmp_path / "run", progress=False)[-1]["result"].endswith(" 0.0")


def test_marked_tasks(path: Path) -> None:
    path.write_text(lines("agree") + lines("city", split="train") + lines("city", "tense", first=5, split="test"))
    recipe = recipe_of(path)
    assert (names(recipe, "train"), names(recipe, "test")) == (["agree", "city"], ["city", "tense"])
    for given in (f"data.test_path={path}", "data.test_tasks=1"):
        with pytest.raises(ConfigError, match=r'expected none with "split": "test" in .* \(2 tasks\), got'):
            load_tasks(recipe_of(path, given), "test")
    path.write_text(lines(*NAMES, split="test"))
    with pytest.raises(ConfigError, match="expected tasks to train on, got 5 tasks of the other split"):
        load_tasks(recipe, "train")


def test_held_out_tasks_are_the_same_for_every_seed(path: Path) -> None:
    splits = []
    for seed in (0, 1):
        recipe = recipe_of(path, "data.test_tasks=2", f"seed={seed}")
        training, tested = names(recipe, "train"), names(recipe, "test")
        assert (len(tested), sorted(training + tested)) == (2, sorted(NAMES))
        splits.append(tested)
    assert splits[0] == splits[1]


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            ("data.source=toy", "data.path=", "data.test_tasks=2"),
            "expected none with data.source = 'toy', which has",
        ),
        (("data.test_path=a", "data.test_tasks=2"), "data.test_tasks: expected this or data.test_path, got both"),
        (("data.test_path=a", "data.prompts=all"), "data.prompts: expected none with data.source = 'jsonl'"),
        (("data.test_path=a", "shots.path=b"), "shots.path: expected none with data.source = 'jsonl'"),
    ],
)
def test_settings_that_mean_nothing(path: Path, overrides: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        recipe_of(path, *overrides)


def test_a_run_on_one_file_is_refused_before_it_trains(path: Path, tmp_path: Path, run_tagi: Run) -> None:
    own = (part for one in (*SHORT, "data.source=jsonl", f"data.path={path}") for part in ("--set", one))
    ran = run_tagi("run", "toy", "--out", tmp_path / "run", *own)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: expected test instances that are not trained on, got: 10 of 10 are (the first in task 'agree'): name a "
        'file of test tasks in data.test_path, mark tasks of the file with "split": "test", hold out tasks with '
        "data.test_tasks = N, or allow it with data.test_on_training = true\n"
    )
    assert not (tmp_path / "run").exists()


def test_one_shared_row_is_enough(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text(lines("tense", first=1))
    with pytest.raises(ConfigError, match=r"got: 1 of 2 are \(the first in task 'tense'\)"):
        run(recipe_of(path, f"data.test_path={other}"), tmp_path / "run", progress=False)


def test_what_is_not_trained_may_be_tested_on_the_whole_file(path: Path, tmp_path: Path) -> None:
    whole = load_recipe("toy+no-ft", ["data.source=jsonl", f"data.path={path}", "evaluation.max_new_tokens=2"])
    assert [row["step"] for row in run(whole, tmp_path / "run", progress=False)] == ["metatrain", "evaluate-metatrain"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that tests on what it trains on, and its tasks."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tasks.jsonl").write_text(lines(*NAMES))
    run(recipe_of(folder / "tasks.jsonl", "data.test_on_training=true"), folder / "run", progress=False)
    return folder / "run", folder / "tasks.jsonl"


def test_a_checkpoint_is_not_scored_on_what_it_was_trained_on(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, tasks = trained
    copy = tmp_path / "renamed.jsonl"
    copy.write_text("".join(reversed(tasks.read_text().splitlines(keepends=True))) + lines("new"))
    with pytest.raises(ConfigError, match="got: 10 of 12 are"):
        evaluate(str(folder), recipe_of(copy), progress=False)
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text(lines(*NAMES, first=7))
    assert "trained_on" not in evaluate(str(folder), recipe_of(fresh), progress=False)["data"]


def test_a_record_of_an_older_form_is_recognised_by_its_digest(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, tasks = trained
    older = tmp_path / "finetune"
    older.mkdir()
    for name in ("model", "backbone"):
        if (folder / "finetune" / name).exists():
            (older / name).symlink_to(folder / "finetune" / name)
    record = json.loads((folder / "finetune" / RECORD).read_text())
    assert record["data"].pop("seen")
    (older / RECORD).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="got: 10 of 10 are"):
        evaluate(str(older), recipe_of(tasks), progress=False)


def test_it_is_marked_wherever_it_is_shown(trained: tuple[Path, Path], tmp_path: Path, run_tagi: Run) -> None:
    folder, tasks = trained
    allowed = "data.test_on_training=true"
    record = json.loads((folder / "evaluate" / RECORD).read_text())
    assert record["data"]["trained_on"] == {"tasks": 5, "instances": 10}
    rows = run(recipe_of(tasks, allowed), folder, progress=False)
    assert rows[-1]["result"].endswith("(tested on training data)")
    own = ("--set", "data.source=jsonl", "--set", f"data.path={tasks}", "--set", allowed)
    ran = run_tagi("evaluate", folder, "toy", *own)
    assert "TESTED ON TRAINING DATA: 10 of these instances were trained on" in ran.out
    report = make_report(folder)
    names = [name for section in report.sections for table in section.tables for name, _ in table.rows]
    assert "TAGI (tested on training data)" in names
    assert compare(folder / "evaluate", folder / "evaluate")["of"]["a"]["trained_on"] == {"tasks": 5, "instances": 10}
    ran = run_tagi("compare", folder / "evaluate", folder / "evaluate")
    assert ran.out.count("tested on training data") == 2


def test_finetuning_begins_with_the_checkpoint_of_the_recipe(path: Path, tmp_path: Path) -> None:
    slow = ("training.learning_rate=1e-9", "data.test_tasks=2", "run.checkpoint=toy")
    rows = run(recipe_of(path, *slow), tmp_path / "run", progress=False)
    assert [row["step"] for row in rows] == ["finetune", "evaluate"]
    record = json.loads((tmp_path / "run" / "finetune" / RECORD).read_text())
    assert record["start"]["start"] == [folder_revision(find_checkpoint("toy"))]
    shipped, made = (load_file(find_checkpoint(name) / "model.safetensors") for name in ("toy", str(tmp_path / "run")))
    assert all(torch.allclose(made[name], shipped[name], atol=1e-6) for name in shipped)
    other = train(recipe_of(path, *slow), tmp_path / "stage", stage="finetune")
    assert other["start"]["start"] == record["start"]["start"]
    named = train(recipe_of(path, *slow), tmp_path / "named", stage="finetune", start=[tmp_path / "stage"])
    assert named["start"]["start"] != record["start"]["start"]  # what is named takes its place
