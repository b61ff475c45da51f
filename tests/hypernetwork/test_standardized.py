"""Instruction states less their mean and by their deviation: what is measured, what the hypernetwork then sees."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tagi.api.generator import AdapterGenerator
from tagi.hypernetwork.instruction_norm import InstructionNorm
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.train import train_stage
from tests.models import INSTRUCTIONS, same, settings, text_settings, tiny_backbone

D_MODEL, TASKS, TOKENS = 23, 5, 11
KINDS = ("query", "pooled", "component")


def draw_examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    """States with a mean and a spread of their own in every channel, and padding that would spoil both."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.rand(D_MODEL, generator=random, dtype=torch.float64) * 9 + 0.5
    mean = torch.randn(D_MODEL, generator=random, dtype=torch.float64) * 20
    states = torch.randn(TASKS, TOKENS, D_MODEL, generator=random, dtype=torch.float64) * spread + mean
    mask = torch.arange(TOKENS) < torch.tensor([[3], [11], [7], [1], [9]])
    return states.masked_fill(~mask[..., None], 1e6), mask


def batches(states: Tensor, mask: Tensor) -> Any:
    return ((states[at : at + 2], mask[at : at + 2]) for at in range(0, TASKS, 2))


def test_mean_and_deviation_are_those_of_the_tokens() -> None:
    norm = InstructionNorm(D_MODEL, standardize=True).double()
    states, mask = draw_examples()
    norm.measure(batches(states, mask))
    torch.testing.assert_close(norm.mean, states[mask].mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(norm.deviation, states[mask].std(0, correction=0), rtol=1e-9, atol=0)
    plain = nn.RMSNorm(D_MODEL, eps=1e-6).double()
    same(norm(states[mask]), plain((states[mask] - norm.mean) / norm.deviation))


def test_a_channel_that_never_changes_says_nothing() -> None:
    norm = InstructionNorm(D_MODEL, standardize=True).double()
    states, mask = draw_examples()
    states[..., 3] = 4.25
    norm.measure(batches(states, mask))
    assert norm(states[mask]).isfinite().all()
    assert norm(states[mask])[:, 3].abs().max() < 1e-6


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="expected instructions to measure, got none"):
        InstructionNorm(D_MODEL, standardize=True).measure([])


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_a_generator_is_what_it_was(kind: str) -> None:
    plain = AdapterGenerator(tiny_backbone(), settings(kind=kind), text_settings())
    assert not any("deviation" in name for name in plain.state_dict())
    assert "standardize" not in plain.settings.as_dict()
    ids, mask = plain.text.batch_instructions([plain.text.instruction(text) for text in INSTRUCTIONS])
    assert not plain.wants_measuring
    unmeasured = AdapterGenerator(tiny_backbone(), settings(kind=kind, standardize=True), text_settings())
    one, two = (made.eval().prepare(ids, mask).bank for made in (plain, unmeasured))
    for module in plain.backbone.target_modules:
        assert torch.equal(one.delta(module.path), two.delta(module.path))


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_instructions_share_changes_nothing(kind: str) -> None:
    """States moved and stretched alike, measured anew: the same bank."""
    made = AdapterGenerator(tiny_backbone(), settings(kind=kind, standardize=True), text_settings()).double().eval()
    random = torch.Generator().manual_seed(5)
    for parameter in made.hypernetwork.parameters():
        parameter.data += torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.1
    width = made.backbone.d_model
    states = torch.randn(TASKS, TOKENS, width, generator=random, dtype=torch.float64)
    mask = torch.ones(TASKS, TOKENS, dtype=torch.bool)
    moved = states * (torch.rand(width, generator=random, dtype=torch.float64) + 0.5) + 7.5
    norm = made.hypernetwork.norm
    banks = []
    for given in (states, moved):
        norm.measure([(given, mask)])
        banks.append(made.generate_bank(given, mask))
    for module in made.backbone.target_modules:
        torch.testing.assert_close(banks[0].delta(module.path), banks[1].delta(module.path), rtol=1e-7, atol=1e-9)


def test_a_checkpoint_keeps_what_was_measured(tmp_path: Path) -> None:
    changed = [
        *("generator.standardize=true", "training.steps=2", "training.tasks_per_batch=3", "data.instances_per_task=4"),
        *(
            "training.queries_per_task=2",
            "training.report_to=[]",
            "losses.kl=0",
            "losses.ins=0",
            "run.stages=['finetune']",
        ),
    ]
    train_stage(load_recipe("toy", changed), "finetune", tmp_path, progress=False)
    made = AdapterGenerator.from_pretrained(tmp_path / "model")
    assert made.settings == replace(made.settings, standardize=True)
    norm = made.hypernetwork.norm
    assert isinstance(norm, InstructionNorm)
    ids, mask = made.text.batch_instructions([made.text.instruction("take the animal and the tool .")])
    seen = (made.encode_instructions(ids, mask)[mask] - norm.mean) / norm.deviation
    assert 0 < norm.deviation.min() < norm.deviation.max()
    assert seen.abs().mean() < 3


def test_what_is_measured_is_what_is_trained_on(tmp_path: Path) -> None:
    """By the backbone that a stage starts from; what starts from a measured generator is not measured anew."""
    changed = [
        *("training.steps=1", "training.tasks_per_batch=3", "data.instances_per_task=4", "training.report_to=[]"),
        *("losses.kl=0", "losses.ins=0", "training.metatrain.steps=3", "training.metatrain.learning_rate=0.1"),
    ]
    train_stage(load_recipe("toy", changed), "metatrain", tmp_path / "metatrain", progress=False)
    recipe = load_recipe("toy", [*changed, "generator.standardize=true"])
    made = {}
    starts = (("vanilla", ()), ("tuned", (str(tmp_path / "metatrain"),)), ("again", (str(tmp_path / "tuned"),)))
    for name, start in starts:
        train_stage(recipe, "finetune", tmp_path / name, sources=Sources(start), progress=False)
        made[name] = AdapterGenerator.from_pretrained(tmp_path / name / "model").hypernetwork.norm.mean
    assert not torch.allclose(made["vanilla"], made["tuned"], rtol=1e-3)
    assert torch.equal(made["tuned"], made["again"])
