"""Which task and which weights are timed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.errors import ConfigError
from tagi.evaluation.timing.task_timing import TaskTiming
from tagi.settings.recipe import Recipe
from tagi.stages.describe import PUBLISHED
from tagi.stages.recipes import load_recipe
from tagi.stages.time import TimingRequest, time_methods

FIELDS = {"d_model": 24, "d_kv": 5, "num_heads": 3, "d_ff": 37, "num_layers": 3, "num_decoder_layers": 2}
LENGTHS = {"long": 19, "short": 2, "middle": 7, "fourth": 11}
"""Words of an instruction by its task's name. Of four tasks the lower of the two in the middle is taken."""


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TaskTiming, dict[str, Any]]]:
    """What would be timed."""
    asked: list[tuple[TaskTiming, dict[str, Any]]] = []

    def run(self: TaskTiming, _watch: Any, **given: Any) -> dict[str, Any]:
        asked.append((self, given))
        return {"task": self.task.name}

    monkeypatch.setattr(TaskTiming, "run", run)
    return asked


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Inputs of the first instances are far longer than the others': it is means over all that count."""
    file = tmp_path / "tasks.jsonl"
    lines = []
    for place, (name, length) in enumerate(LENGTHS.items()):
        first = {"input": " ".join(["hen"] * (13 if name == "short" else 5)), "outputs": ["cats", "a b c"]}
        others = [{"input": "cat", "outputs": ["hen cat fox dog"]} for _ in range(32 + place)]
        instruction = " ".join(["cat"] * length)
        lines.append({"task": name, "category": "c", "instruction": instruction, "instances": [first, *others]})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


Named = Callable[..., Recipe]


@pytest.fixture
def recipe(tasks: Path) -> Named:
    def load(*changes: str) -> Recipe:
        return load_recipe("toy", ["data.source=jsonl", f"data.path={tasks}", *changes])

    return load


def test_the_task_of_median_length_whatever_the_number_of_inputs(timings: list[Any], recipe: Named) -> None:
    for inputs in (1, 33):
        time_methods(recipe(), TimingRequest(inputs=inputs), progress=False)
        timing, given = timings[-1]
        assert timing.task.name == "middle"
        assert len(timing.task.instances) == inputs
        assert given["batch_size"] == (1 if inputs == 1 else 32)
        assert given["pairs"] == 20
    assert [given["batch_size"] for _, given in timings] == [1, 1, 32]
    # One answer of 2 or 4 tokens, then 32 of 5, the end included.
    assert [timing.output for timing, _ in timings] == [3, 5, 5]


def test_named_tasks_in_the_order_of_their_names_on_the_command_line(timings: list[Any], recipe: Named) -> None:
    request = TimingRequest(tasks=("short", "long", "short"), batch_sizes=(7,), output=4)
    record = time_methods(recipe(), request, progress=False)
    assert [timing.task.name for timing, _ in timings] == ["short", "long"]
    assert [timing.output for timing, _ in timings] == [4, 4]
    assert [timing["lengths"]["instruction"] for timing in record["timings"]] == [2 + 1, 19 + 1]


def test_random_weights_of_a_published_shape(
    timings: list[Any], recipe: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "t5-xl-lm-adapt", {**FIELDS, "vocab_size": 251})
    monkeypatch.setitem(PUBLISHED, "t5-base-lm-adapt", {**FIELDS, "vocab_size": 263})
    given = TimingRequest(backbone="t5-xl-lm-adapt", lengths=(12, 9), output=5)
    record = time_methods(recipe("backbone.dtype=bfloat16"), given, progress=False)
    hub = TimingRequest(lengths=(12, 9), output=5)
    time_methods(load_recipe("sni-base", []), hub, progress=False)
    assert record["weights"]["tagi"] == "random weights of t5-xl-lm-adapt"
    assert record["methods"]["dtype"] == "torch.bfloat16"
    assert [timing.tagi.generator.backbone.model.config.vocab_size for timing, _ in timings[::2]] == [251, 263]
    for timing, _ in timings:
        assert timing.metatrained.backbone is timing.tagi.generator.backbone
        assert not any(module.training for one in (timing.metatrained, timing.tagi) for module in one.modules())
        text, task = timing.tagi.text, timing.task
        assert len(text.instruction(task.instruction)) == 12
        assert {len(text.input(instance.input)) for instance in task.instances} == {9}
        assert len({instance.input for instance in task.instances}) == len(task.instances) == 100
    weights = timings[0][0].tagi.generator.backbone.model.encoder.block[0].layer[0].SelfAttention.q.weight
    assert weights.dtype == torch.bfloat16


def test_a_backbone_that_is_nowhere(recipe: Named) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.name: expected a folder or one of google/t5-base-lm-adapt"):
        time_methods(recipe("backbone.name=no-such/model"), TimingRequest(), progress=False)
