"""What is trained when an adapter is refined: its LoRA alone, on the pass that gives its answers."""

from pathlib import Path

import pytest
import torch

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.formats.generator import generator_tensors
from tagi.formats.task_adapter import generator_digest
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.refining import Refined
from tests.adapter_folders import adapter_of
from tests.models import INSTRUCTIONS, WORDS, traces

KINDS = ("t5", "llama", "gpt2")
EXAMPLES = [Example(f"{WORDS[at]} {WORDS[at + 3]}", WORDS[at + 1]) for at in range(7)]
SAMPLES = [Sample(Task("t", "c", INSTRUCTIONS[0], ()), INSTRUCTIONS[0], one.input, one.output) for one in EXAMPLES]


def opened(folder: Path, kind: str, **changed: object) -> TaskAdapter:
    return TaskAdapter.load(adapter_of(folder, kind, **changed), AdapterGenerator.from_pretrained(folder / "generator"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_pass_is_that_of_answers(kind: str, tmp_path: Path) -> None:
    """Nothing is dropped, instruction states are kept: its loss is what the adapter itself gives the targets."""
    adapter = opened(tmp_path, kind)
    model = Refined(adapter).train()
    batch = model.collate(SAMPLES[:1])
    (score,) = adapter.score([EXAMPLES[0].input], [EXAMPLES[0].output], reduction="mean")[0]
    assert float(model(**batch)["prediction"]) == pytest.approx(-score, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_answers_as_it_was_trained_to(kind: str, tmp_path: Path) -> None:
    """T5's decoder projects the instruction's states under the new LoRA; a decoder-only model keeps what it read."""
    adapter = opened(tmp_path, kind)
    model = Refined(adapter)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for factor in model.factors:
            factor.add_(0.3 * torch.randn(factor.shape, generator=random))
    trained = float(model(**model.collate(SAMPLES[:1]))["prediction"])
    (score,) = model.refined({}).score([EXAMPLES[0].input], [EXAMPLES[0].output], reduction="mean")[0]
    (before,) = adapter.score([EXAMPLES[0].input], [EXAMPLES[0].output], reduction="mean")[0]
    assert trained == pytest.approx(-score, rel=1e-4)
    assert trained != pytest.approx(-before, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_generator_is_trained(kind: str, tmp_path: Path) -> None:
    """Also where the backbone was tuned; afterwards the generator is what it was, its modes among it."""
    adapter = opened(tmp_path, kind, tune="norms+embeddings")
    generator = adapter.generator.train()
    digest, tensors, before = generator_digest(generator), generator_tensors(generator), list(traces(generator))
    model = Refined(adapter).train()
    assert set(model.trained_tensors()) == {f"factors.{at}" for at in range(len(adapter.bank.tensors()))}
    model(**model.collate(SAMPLES))["loss"].backward()
    assert all(tensor.grad is None for tensor in tensors.values())
    assert all(factor.grad is not None and bool(factor.grad.any()) for factor in model.factors)
    model.release()
    assert list(traces(generator)) == before
    assert generator_digest(generator) == digest


def test_it_writes_the_adapter(tmp_path: Path) -> None:
    adapter = opened(tmp_path, "llama", tune="norms+embeddings")
    model = Refined(adapter)
    with torch.no_grad():
        model.factors[0].mul_(2)
    model.save(tmp_path / "saved", {"steps": 3})
    again = TaskAdapter.load(tmp_path / "saved", AdapterGenerator.from_pretrained(tmp_path / "generator"))
    assert again.refined == {"steps": 3}
    name = next(iter(adapter.bank.tensors()))
    assert torch.equal(again.bank.tensors()[name], 2 * adapter.bank.tensors()[name])


def test_a_step_reads_the_instruction_once_whatever_its_rows(tmp_path: Path) -> None:
    """One reading, with its gradient, in place of one for each row: the same loss and gradients."""
    changed = {"fusion": "none", "instruction_cache": "adapted", "shared_rank": 5, "state_dropout": 0.0}
    adapter = opened(tmp_path, "llama", **changed)
    generator = adapter.generator
    samples = SAMPLES[:5]
    model = Refined(adapter).train()
    batch = model.collate(samples)
    read: list[int] = []
    embedded = generator.backbone.model.get_input_embeddings()
    handle = embedded.register_forward_hook(lambda _module, given, _output: read.append(given[0].numel()))
    loss = model(**batch)["loss"]
    handle.remove()
    loss.backward()
    gradients = [factor.grad for factor in model.factors]
    instruction = adapter.states.read.mask.shape[1]
    assert sum(read) <= instruction + batch["input_ids"].numel() + batch["labels"].numel()
    rows = torch.zeros(len(samples), dtype=torch.long)
    logits = generator.logits(adapter.states.read, model.bank, rows, **batch)
    by_row = prediction_loss(logits, batch["labels"])
    assert float(loss.detach()) == pytest.approx(float(by_row.detach()), rel=1e-5)
    for mine, theirs in zip(gradients, torch.autograd.grad(by_row, list(model.factors)), strict=True):
        assert mine is not None
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    (score,) = adapter.score([samples[0].input], [[samples[0].target]], reduction="mean")[0]
    assert float(model(**model.collate(samples[:1]))["prediction"].detach()) == pytest.approx(-score, rel=1e-4)
