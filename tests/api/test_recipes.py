"""Evaluation from Python: named models, generators in memory, and lists of tasks."""

from pathlib import Path
from typing import Any

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.api.recipes import evaluate
from tagi.data.toy.family import toy_tasks
from tagi.errors import InputError

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
