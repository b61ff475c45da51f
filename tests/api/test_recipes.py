"""Evaluation from Python: named models, generators in memory, and lists of tasks."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.api.recipes import evaluate
from tagi.data.toy.family import toy_tasks
from tagi.errors import ConfigError, InputError
from tagi.stages.own_tasks import seen_record

FEW: dict[str, Any] = {"only": ["*-copy"], "limit": 2}


def test_a_generator_in_memory_scores_as_its_folder_does(tmp_path: Path) -> None:
    conditions = ["other", "right"]
    named = evaluate("toy", "toy", conditions=conditions, out=tmp_path / "scores", **FEW)
    loaded = evaluate(AdapterGenerator.from_pretrained("toy"), "toy", conditions=conditions, **FEW)
    assert list(loaded["results"]) == ["right", "other"]
    assert loaded["results"] == named["results"]
    assert loaded["data"] == {key: named["data"][key] for key in ("tasks", "instances")}
    assert (tmp_path / "scores" / "record.json").is_file()


def test_wording_and_examples_of_a_named_model() -> None:
    record = evaluate("toy", "toy", wording="definition", positives=0, distances=True, **FEW)
    assert (record["data"]["wording"], record["data"]["positives"]) == ("definition", 0)
    assert "adapters" in record


@pytest.mark.parametrize(
    "asked",
    [
        {"out": "scores"},
        {"resume": True},
        {"wording": "definition"},
        {"positives": 0},
        {"held_out": True},
        {"distances": True},
    ],
)
def test_what_needs_a_named_model_and_a_recipe(asked: dict[str, Any]) -> None:
    tasks = toy_tasks("unseen", instances_per_task=1)[:1]
    with pytest.raises(InputError, match="expected a named model and a recipe"):
        evaluate("toy", tasks, **asked)


def test_tasks_that_a_generator_was_trained_on_are_refused_by_name_and_in_memory(
    repo_root: Path, tmp_path: Path
) -> None:
    tasks, run = toy_tasks("unseen", instances_per_task=1)[:2], tmp_path / "run"
    shutil.copytree(repo_root / "src" / "tagi" / "assets" / "toy-generator", run / "model")
    record = {"recipe": {}, "training": {"steps": 1}, "data": seen_record(tasks[:1])}
    (run / "record.json").write_text(json.dumps(record))
    loaded = AdapterGenerator.from_pretrained(run)
    for model in (run, loaded):
        with pytest.raises(ConfigError, match="got: 1 of 1 are"):
            evaluate(model, tasks[:1])
    allowed = evaluate(loaded, tasks[:1], overrides=["data.test_on_training=true"])
    assert allowed["data"]["trained_on"] == {"tasks": 1, "instances": 1}
    assert "trained_on" not in evaluate(loaded, tasks[1:])["data"]
    shutil.rmtree(run)
    assert evaluate(loaded, tasks[:1])["data"] == {"tasks": 1, "instances": 1}
