"""Which instances a recipe trains on and is tested on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tagi.data.task import Instance, Task
from tagi.settings.sources import BY_NAME
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import Split, load_tasks


def checkout_of(root: Path) -> Path:
    """A checkout of natural-instructions with one task per split, 9 instances each."""
    for folder in ("tasks", "splits/default"):
        (root / folder).mkdir(parents=True)
    for split, name in (("train", "task1_a"), ("test", "task2_b")):
        (root / "splits" / "default" / f"{split}_tasks.txt").write_text(name)
        fields = {
            "Categories": ["Counting"],
            "Definition": ["Count the words."],
            "Input_language": ["English"],
            "Output_language": ["English"],
            "Positive Examples": [],
            "Instances": [{"id": f"i{at}", "input": "x " * (at + 1), "output": [str(at)]} for at in range(9)],
        }
        (root / "tasks" / f"{name}.json").write_text(json.dumps(fields))
    return root


def test_training_instances_are_shuffled_by_the_seed_and_test_instances_never(tmp_path: Path) -> None:
    root = checkout_of(tmp_path / "sni")

    def ids(split: Split, seed: int) -> list[str]:
        limits = ["data.instances_per_task=5", "data.test_instances_per_task=4"]
        recipe = load_recipe("sni-small", [f"data.path={root}", f"seed={seed}", "data.validation_tasks=0", *limits])
        (task,) = load_tasks(recipe, split, shots=False).tasks
        return [instance.id for instance in task.instances]

    trained = [ids("train", seed) for seed in (3, 4, 3)]
    assert trained[0] == trained[2] != trained[1]
    assert all(len(set(chosen)) == 5 for chosen in trained)
    assert all(chosen != sorted(chosen) for chosen in trained)
    assert ids("test", 3) == ids("test", 4) == ["i0", "i1", "i2", "i3"]


def nursery_tasks(path: str | None, split: str, seed: int) -> list[Task]:
    """A data set of two tasks, as a reader gives them."""
    instances = (Instance("1", f"{path} {seed}", ("out",)), Instance("2", "in", ("out",)))
    return [Task(f"{split} {name}", "nursery", f"Say {name}.", instances) for name in ("ba", "bu")]


def test_a_data_set_is_a_reader_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(BY_NAME["everyday"], reader=f"{__name__}:nursery_tasks", metric="rouge")
    monkeypatch.setitem(BY_NAME, "everyday", entry)
    recipe = load_recipe("everyday", ["seed=7", "data.test_instances_per_task=1"])
    loaded = load_tasks(recipe, "test")
    assert [task.name for task in loaded.tasks] == ["test ba", "test bu"]
    assert [task.instances[0].input for task in loaded.tasks] == ["None 7", "None 7"]
    assert loaded.summary["instances"] == 2
