"""Starting a stage from another's checkpoint, and training on the LoRA alone now and then."""

from pathlib import Path

import pytest
import torch

from tagi.api.generator import AdapterGenerator
from tagi.data.batches import Sample
from tagi.errors import CheckpointError, ConfigError
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import start_from
from tagi.methods.tagi import TAGI
from tests.models import settings, tasks, text_settings, tiny_backbone


def samples() -> list[Sample]:
    return [Sample(task, task.instruction, task.instances[at].input, "cat") for at, task in enumerate(tasks())]


def generator(seed: int = 0, **changed: object) -> TAGI:
    backbone = tiny_backbone(seed=seed)
    return TAGI(AdapterGenerator(backbone, settings(tune="all", seed=seed, **changed), text_settings()))


def test_a_generator_starts_from_a_concatenating_checkpoint(tmp_path: Path) -> None:
    source = Concatenation(tiny_backbone(seed=1), text_settings())
    source.save(tmp_path / "source")
    target = generator(seed=2)
    hypernetwork = {name: p.clone() for name, p in target.generator.hypernetwork.named_parameters()}
    taken = start_from(target, tmp_path / "source")
    assert taken == sum(p.numel() for p in source.parameters())
    for name, parameter in target.generator.backbone.named_parameters():
        assert torch.equal(parameter, dict(source.backbone.named_parameters())[name])
    assert all(torch.equal(p, hypernetwork[name]) for name, p in target.generator.hypernetwork.named_parameters())


def test_a_generator_starts_from_a_generator_with_its_own_start_of_a(tmp_path: Path) -> None:
    source, target = generator(seed=1, fusion="none"), generator(seed=2)
    source.save(tmp_path / "source")
    start_from(target, tmp_path / "source")
    source.eval(), target.eval()
    batch = source.collate(samples())
    ids, mask = batch["instruction_ids"], batch["instruction_mask"]
    ours, theirs = target.generator.prepare(ids, mask).bank, source.generator.prepare(ids, mask).bank
    for module in theirs.factors:
        assert torch.equal(ours.factors[module][0], theirs.factors[module][0])


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    generator(seed=1, fusion="none").save(tmp_path / "source")
    wider = TAGI(AdapterGenerator(tiny_backbone(), settings(hidden=13), text_settings()))
    with pytest.raises(CheckpointError, match="of shape"):
        start_from(wider, tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        start_from(wider, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("standardize", True, "generator.standardize: expected False as in"),
        ("alpha", 4.5, "generator.alpha: expected"),
        ("heads", 1, "generator.heads: expected"),
    ],
)
def test_parameters_keep_their_meaning(tmp_path: Path, key: str, value: object, said: str) -> None:
    generator(seed=1, fusion="none").save(tmp_path / "source")
    with pytest.raises(ConfigError, match=said):
        start_from(generator(seed=2, fusion="none", **{key: value}), tmp_path / "source")


def test_dropped_states_leave_the_lora_alone() -> None:
    both, alone = generator(state_dropout=0.999999), generator(fusion="none")
    for method in (both, alone):
        torch.manual_seed(0)
        for parameter in method.generator.hypernetwork.parameters():
            parameter.data.normal_(std=0.3)
    with torch.no_grad():
        for layer in both.generator.fusion.layers:  # type: ignore[union-attr]
            layer.gate.fill_(0.7)
    batch = both.collate(samples())
    both.train(), alone.train()
    both.generator.backbone.model.eval(), alone.generator.backbone.model.eval()
    with torch.no_grad():
        dropped, lora = both(**batch)["loss"], alone(**batch)["loss"]
        both.eval()
        kept = both(**batch)["loss"]
    torch.testing.assert_close(dropped, lora)
    assert abs(float(kept - lora)) > 1e-3
