"""What is taken for a generator's name, where it computes, and how tasks with demonstrations are adapted to."""

import json
from pathlib import Path

import pytest
import torch

from tagi.api import generator as generators
from tagi.api.examples import as_examples
from tagi.api.generator import AdapterGenerator
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.formats.task_adapter import generator_digest
from tests.adapter_folders import adapter_of
from tests.commands import Run
from tests.models import INPUTS, INSTRUCTIONS, SHOTS, same, text_settings, tiny_generator


def test_an_adapters_folder_stands_for_its_generator(run_tagi: Run, tmp_path: Path) -> None:
    """In Python and for every command that takes a generator."""
    adapter = adapter_of(tmp_path, "t5")
    wanted = AdapterGenerator.from_pretrained(tmp_path / "generator")
    found = AdapterGenerator.from_pretrained(adapter)
    assert generator_digest(found) == generator_digest(wanted)
    out = tmp_path / "made"
    ran = run_tagi("generate", "-g", adapter, "-i", INSTRUCTIONS[0], "--out", out)
    assert ran.code == 0, ran.err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in adapter.iterdir()
    }
    answers = [run_tagi("predict", *how, INPUTS[0]) for how in (("-a", out), ("-g", out, "-i", INSTRUCTIONS[0]))]
    assert answers[0].out == answers[1].out != ""


def test_a_stages_folder_stands_for_its_model(tmp_path: Path) -> None:
    adapter_of(tmp_path, "t5")
    (tmp_path / "stage").mkdir()
    (tmp_path / "generator").rename(tmp_path / "stage" / "model")
    assert AdapterGenerator.from_pretrained(tmp_path / "stage").settings.rank == 7


def test_a_runs_folder_stands_for_what_it_finetuned(tmp_path: Path) -> None:
    adapter_of(tmp_path, "t5")
    (tmp_path / "run" / "finetune").mkdir(parents=True)
    (tmp_path / "generator").rename(tmp_path / "run" / "finetune" / "model")
    assert AdapterGenerator.from_pretrained(tmp_path / "run").settings.rank == 7


def test_it_computes_on_the_best_device_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_of(tmp_path, "t5")
    monkeypatch.setattr(generators, "best_device", lambda: torch.device("meta"))
    devices = [{}, {"device": "cpu"}]
    found = [AdapterGenerator.from_pretrained(tmp_path / "generator", **one).backbone.device for one in devices]
    assert [device.type for device in found] == ["meta", "cpu"]


def test_tasks_with_different_demonstrations_are_adapted_to_in_one_pass() -> None:
    tiny = tiny_generator()
    settings = text_settings(positives=2, max_instruction_tokens=40)
    generator = AdapterGenerator(tiny.backbone, tiny.settings, settings)
    generator.load_state_dict(tiny.state_dict())
    generator.double()
    tasks = [Task(f"task {at}", "c", text, (), SHOTS[at]) for at, text in enumerate(INSTRUCTIONS)]
    made = generator.adapt_tasks(tasks)
    for adapter, task in zip(made, tasks, strict=True):
        tuples = [(example.input, example.output) for example in task.examples]
        for alone in (generator.adapt(task.instruction, task.examples), generator.adapt(task.instruction, tuples)):
            assert (adapter.instruction, adapter.examples) == (alone.instruction, alone.examples)
            for name, tensor in alone.bank.tensors().items():
                same(adapter.bank.tensors()[name], tensor)


@pytest.mark.parametrize("wrong", ["ab", ("a", "b", "c"), ("a", 1), ["a", "b"]])
def test_what_is_no_demonstration_is_named(wrong: object) -> None:
    with pytest.raises(InputError, match=r"example 2: expected Example\(input, output\) or a tuple of both, got"):
        as_examples([Example("a", "b"), wrong])


def test_names_that_would_share_a_folder_are_refused(run_tagi: Run, tmp_path: Path) -> None:
    instruction = {"instruction": INSTRUCTIONS[0]}
    lines = [json.dumps({"task": name, **instruction}) for name in ("a/b", "a b")]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    adapter_of(tmp_path, "t5")
    ran = run_tagi(
        "generate", "-g", tmp_path / "generator", "--from", tmp_path / "tasks.jsonl", "--out", tmp_path / "o"
    )
    assert ran.code == 2
    assert "expected names that differ as folders, got 'a-b' more than once" in ran.err
    assert not (tmp_path / "o").exists()
