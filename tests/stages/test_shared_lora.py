"""From a meta-trained LoRA to the generator whose shared LoRA it is, and on from that generator."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tagi.data.batches import Sample
from tagi.errors import CheckpointError, ConfigError
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.shared_lora import SharedLora
from tagi.methods.causal import CausalConcatenation
from tagi.methods.load import load_method
from tagi.methods.lora import lora_bank
from tagi.methods.tagi import TAGI, batch_of
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks
from tagi.stages.train import train_stage
from tests.causal_models import close
from tests.stages.test_causal_stages import CAUSAL

SHARED, UNCHANGED = 5, "training.finetune.learning_rate=1e-30"
"""Rank of the shared LoRA; a rate at which no number moves."""
SETTINGS = [
    *CAUSAL,
    *("run.stages=['metatrain','finetune']", "run.start=metatrained", "metatrain.tune=lora", "data.encoding=plain"),
    *("losses.kl=0", "losses.ins=0", "losses.contrast=0", "losses.alone=1", "losses.alone_kl=1"),
    *("generator.fusion=none", "generator.tune=none", "generator.state_dropout=0", "generator.rank=3"),
    *("generator.instruction_cache=adapted", f"generator.shared_rank={SHARED}", "generator.residual=both"),
    *("training.tasks_per_batch=3", "training.metatrain.steps=4", "training.finetune.steps=2"),
    *("training.metatrain.learning_rate=0.05", "training.report_to=[]", "data.instances_per_task=2"),
]


def recipe(*changed: str) -> Recipe:
    return load_recipe("toy", [*SETTINGS, *changed])


def finetuned(out: Path, start: Path | None, *changed: str) -> TAGI:
    sources = Sources() if start is None else Sources(start=(str(start),))
    train_stage(recipe(*changed), "finetune", out, sources=sources, progress=False)
    method = load_method(out / "model")
    assert isinstance(method, TAGI)
    return method


def shared_of(generator: GeneratorModel) -> SharedLora:
    assert generator.shared is not None
    return generator.shared


@pytest.fixture(scope="module")
def metatrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never write into it."""
    out = tmp_path_factory.mktemp("shared") / "metatrain"
    record = train_stage(recipe(), "metatrain", out, progress=False)
    assert record["training"]["steps"] == 4
    return out


@pytest.fixture(scope="module")
def started(metatrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that starts on it. Never write into it."""
    out = tmp_path_factory.mktemp("started") / "finetune"
    finetuned(out, metatrained, UNCHANGED)
    return out


def loaded(folder: Path) -> CausalConcatenation:
    method = load_method(folder / "model")
    assert isinstance(method, CausalConcatenation)
    return method


def test_the_metatrained_lora_is_copied_exactly(metatrained: Path, started: Path) -> None:
    source, generator = loaded(metatrained), load_method(started / "model").generator
    assert isinstance(generator, GeneratorModel)
    assert source.lora is not None
    bank = lora_bank(source.backbone, source.lora)
    factors = shared_of(generator).factors()
    assert (bank.rank, list(factors)) == (SHARED, list(bank.factors))
    for path, (a, b) in bank.factors.items():
        assert torch.equal(factors[path][0], a)
        assert torch.equal(factors[path][1], bank.scale * b)
        assert bool(b.any())


def forced(method: CausalConcatenation, samples: list[Sample]) -> Tensor:
    given = [method.text.concatenated(one.instruction, (), one.input) for one in samples]
    batch = batch_of(method.text, given, samples)
    return method.backbone.logits(batch["input_ids"], batch["input_mask"], batch["labels"])


@torch.no_grad()
def test_with_nothing_generated_the_generator_is_the_metatrained_method(metatrained: Path, started: Path) -> None:
    """The same tokens and logits within rounding, whatever is generated before the first step: a residual of zero."""
    source, method = loaded(metatrained).eval(), load_method(started / "model").eval()
    assert isinstance(method, TAGI)
    tasks = load_tasks(recipe(), "train").tasks[:3]
    samples = [Sample(task, task.instruction, task.instances[0].input, task.instances[0].outputs[0]) for task in tasks]
    batch, generator = method.collate(samples), method.generator
    read = generator.read_instructions(batch["instruction_ids"], batch["instruction_mask"])
    inputs = [batch[name] for name in ("rows", "input_ids", "input_mask", "labels")]
    found = generator.logits(read, generator.generate_bank(read.states, read.mask), *inputs)
    wanted, counted = forced(source, samples), batch["labels"] != -100
    close(found[counted], wanted[counted])
    bare = generator.backbone.logits(*inputs[1:])
    assert not torch.allclose(bare[counted], wanted[counted], atol=1e-3)


def test_a_generator_is_continued_from(started: Path, tmp_path: Path) -> None:
    """Its hypernetwork and its shared LoRA, which is frozen and so no trained tensor."""
    source, method = load_method(started / "model"), finetuned(tmp_path / "next", started, UNCHANGED)
    assert isinstance(source, TAGI)
    found, wanted = method.generator.state_dict(), source.generator.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(tensor, wanted[name], rtol=0, atol=1e-20) for name, tensor in found.items())
    assert any(bool(b.any()) for b in shared_of(method.generator).b)
    trained = finetuned(tmp_path / "trained", started, "training.finetune.learning_rate=0.01")
    moved = {name for name, tensor in trained.generator.state_dict().items() if not torch.equal(tensor, wanted[name])}
    assert moved
    assert all(name.startswith("hypernetwork.") for name in moved)


def test_a_frozen_shared_lora_that_nothing_was_copied_into_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator\.shared_rank: expected a meta-trained LoRA"):
        finetuned(tmp_path / "none", None)
    trained = finetuned(
        tmp_path / "trained", None, "generator.shared_tune=true", "training.finetune.learning_rate=0.01"
    )
    assert any(bool(b.any()) for b in shared_of(trained.generator).b)


def test_a_lora_of_another_rank_is_refused(metatrained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected one LoRA of rank 4 for 4 target modules, got 1 of rank 5"):
        finetuned(tmp_path / "other", metatrained, "generator.shared_rank=4")
