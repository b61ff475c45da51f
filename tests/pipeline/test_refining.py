"""Few-shot refinement: it learns, leaves all but the LoRA alone, is the same when done twice, and says what it did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.adapters import LoraBank
from tagi.backbones import load_backbone
from tagi.data.task import Example
from tagi.data.toy import toy_tasks
from tagi.errors import InputError, TrainingError
from tagi.hypernetwork import Generator, GeneratorSettings, TaskAdapter, generator_digest, generator_tensors
from tagi.methods.refining import Refined
from tagi.pipeline.generating import write_adapters
from tagi.pipeline.refining import Refinement, refine
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.commands import Run
from tests.models import INSTRUCTIONS, WORDS, text_settings

EXAMPLES = [Example(f"{WORDS[at]} {WORDS[at + 3]}", WORDS[at + 1]) for at in range(7)]
KINDS = ("llama", "gpt2")


def adapter_of(folder: Path, kind: str = "llama", **changed: Any) -> Path:
    tiny_causal_model(kind).save_pretrained(folder / "base")
    causal_tokenizer().save_pretrained(folder / "base")
    sizes: dict[str, Any] = {"rank": 7, "alpha": 15.0, "hidden": 13, "width": 12, "heads": 3, "fusion": "both"}
    settings = GeneratorSettings(**{**sizes, "state_dropout": 0.5, **changed})
    generator = Generator(load_backbone(str(folder / "base")), settings, text_settings())
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for part in generator.own_parts:
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    generator.save_pretrained(folder / "generator")
    write_adapters(str(folder / "generator"), [("", INSTRUCTIONS[0], [])], folder / "adapter")
    return folder / "adapter"


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_its_examples_and_nothing_else_changes(kind: str, tmp_path: Path) -> None:
    """Also where query and value are columns of one layer; the generator and its backbone stay as they are."""
    adapter = adapter_of(tmp_path, kind)
    generator = Generator.from_pretrained(tmp_path / "generator")
    record = refine(adapter, EXAMPLES[:4], tmp_path / "out", Refinement(80, 3e-2, 4), progress=False)
    assert 0 < record["loss"]["last"] < 0.5 * record["loss"]["first"]
    before, after = TaskAdapter.load(adapter, generator), TaskAdapter.load(tmp_path / "out" / "adapter", generator)
    for one in EXAMPLES[:4]:
        scores = [adapted.score([one.input], [one.output])[0][0] for adapted in (before, after)]
        assert scores[0] + 1 < scores[1]
    assert torch.equal(after.states.states, before.states.states)
    assert after.instruction == before.instruction == INSTRUCTIONS[0]
    assert isinstance(after.bank, LoraBank)
    assert after.bank.tensors().keys() == before.bank.tensors().keys()
    for name, tensor in after.bank.tensors().items():
        assert not torch.equal(tensor, before.bank.tensors()[name])
    assert (after.refined["steps"], after.refined["examples"], before.refined) == (80, 4, {})


def test_the_training_pass_is_that_of_answers(tmp_path: Path) -> None:
    """Nothing is dropped, instruction states are kept: its loss is what the adapter itself gives the targets."""
    adapter = TaskAdapter.load(adapter_of(tmp_path), Generator.from_pretrained(tmp_path / "generator"))
    model = Refined(adapter).train()
    batch = model.collate([_sample(one) for one in EXAMPLES[:1]])
    (score,) = adapter.score([EXAMPLES[0].input], [EXAMPLES[0].output], reduction="mean")[0]
    assert float(model(**batch)["prediction"]) == pytest.approx(-score, rel=1e-4)


def _sample(one: Example) -> Any:
    from tagi.data.batches import Sample
    from tagi.data.task import Task

    return Sample(Task("t", "c", INSTRUCTIONS[0], ()), INSTRUCTIONS[0], one.input, one.output)


def test_a_rate_of_nothing_changes_nothing_and_twice_is_the_same(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    refine(adapter, EXAMPLES, tmp_path / "still", Refinement(2, 0.0, 3), progress=False)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "still" / "adapter" / weights).read_bytes() == (adapter / weights).read_bytes()
    for name in ("one", "two"):
        refine(adapter, EXAMPLES, tmp_path / name, Refinement(4, 1e-2, 3, seed=5), progress=False)
    one, two = ((tmp_path / name / "adapter" / weights).read_bytes() for name in ("one", "two"))
    assert one == two != (adapter / weights).read_bytes()


def test_nothing_of_the_generator_is_trained(tmp_path: Path) -> None:
    adapter = TaskAdapter.load(adapter_of(tmp_path), Generator.from_pretrained(tmp_path / "generator"))
    digest, tensors = generator_digest(adapter.generator), generator_tensors(adapter.generator)
    model = Refined(adapter)
    assert set(model.trained_tensors()) == {f"factors.{at}" for at in range(len(adapter.bank.tensors()))}
    model(**model.collate([_sample(one) for one in EXAMPLES]))["loss"].backward()
    assert all(tensor.grad is None for tensor in tensors.values())
    model.refined({})
    assert generator_digest(adapter.generator) == digest
    assert all(factor.grad is not None and bool(factor.grad.any()) for factor in model.factors)


def test_on_the_command_line_it_helps_on_examples_that_it_has_not_seen(run_tagi: Run, tmp_path: Path) -> None:
    """A task of the built-in family under an instruction that says too little, then its examples."""
    task = toy_tasks("unseen", instances_per_task=40)[3]
    lines = [json.dumps({"input": one.input, "output": one.outputs[0]}) for one in task.instances]
    (tmp_path / "labelled.jsonl").write_text("\n".join(lines) + "\n\n")
    vague = task.instruction.split()[:3]
    assert run_tagi("generate", "-g", "toy", "-i", " ".join(vague), "--out", tmp_path / "adapter").code == 0
    given = ("refine", tmp_path / "adapter", "--examples", tmp_path / "labelled.jsonl", "--out", tmp_path / "out")
    options = ("--steps", "60", "--learning-rate", "1e-2", "--held-out", "12", "--json")
    ran = run_tagi(*given, *options)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    held = record["held_out"]
    assert (record["examples"], held["examples"]) == (28, 12)
    assert held["after"]["exact_match"] >= held["before"]["exact_match"] + 25
    again = run_tagi(*given, *options)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "expected a new folder" in again.err
    resumed = run_tagi(*given, *options, "--resume")
    assert json.loads(resumed.out) == record
    answered = run_tagi("predict", "-a", tmp_path / "out" / "adapter", task.instances[0].input)
    assert answered.code == 0, answered.err
    exported = run_tagi("export", tmp_path / "out" / "adapter", "--lossy", "--out", tmp_path / "peft")
    assert exported.code == 0, exported.err
    assert "| refined | 60 steps of LoRA training on 28 examples |" in (tmp_path / "peft" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected an example a line, got none"),
        ('{"input": "a"}\n', "line 1"),
        ('{"input": "a", "output": "b"}\n{"input": "a", "output": 3}\n', "line 2"),
        ('{"input": "a", "output": "b"}\n{', "line 2"),
    ],
)
def test_examples_that_are_none_are_named(text: str, named: str, run_tagi: Run, tmp_path: Path) -> None:
    (tmp_path / "labelled.jsonl").write_text(text)
    ran = run_tagi("refine", tmp_path, "--examples", tmp_path / "labelled.jsonl", "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert named in ran.err


def test_what_cannot_be_refined_is_refused(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    with pytest.raises(InputError, match="expected examples to train on, got 7 of which 7 are held out"):
        refine(adapter, EXAMPLES, tmp_path / "none", Refinement(held_out=7), progress=False)
    refine(adapter, EXAMPLES, tmp_path / "out", Refinement(2, 1e-2, 3), progress=False)
    with pytest.raises(TrainingError, match="expected a refinement of this adapter, examples and settings"):
        refine(adapter, EXAMPLES, tmp_path / "out", Refinement(3, 1e-2, 3), resume=True, progress=False)
