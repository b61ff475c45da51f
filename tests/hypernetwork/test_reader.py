"""A reader of its own: a copy of the backbone's encoder that is trained while the backbone stays as it is."""

from pathlib import Path

import torch

from tagi.backbones.load import load_backbone
from tagi.formats.generator import load_generator, save_generator
from tests.models import INSTRUCTIONS, tiny_generator


def states(generator: torch.nn.Module) -> torch.Tensor:
    ids, mask = generator.text.batch([generator.text.instruction(text) for text in INSTRUCTIONS])  # type: ignore[union-attr, operator]
    return generator.encode_instructions(ids, mask)[mask]  # type: ignore[operator, no-any-return]


def test_it_starts_as_the_encoder_and_shares_nothing_with_it() -> None:
    own, shared = tiny_generator(reader="own").eval(), tiny_generator().eval()
    assert own.reader is not None
    assert shared.reader is None
    assert torch.allclose(states(own), states(shared), atol=1e-6)
    storages = {parameter.data_ptr() for parameter in own.backbone.parameters()}
    assert not storages & {parameter.data_ptr() for parameter in own.reader.parameters()}


def test_it_alone_is_trained_by_what_it_reads() -> None:
    generator = tiny_generator(reader="own", tune="none").train()
    assert generator.reader is not None
    states(generator).square().sum().backward()
    grown = [name for name, one in generator.reader.named_parameters() if one.grad is None or not one.grad.any()]
    assert grown == []
    assert all(parameter.grad is None for parameter in generator.backbone.parameters())


def test_it_travels_in_the_checkpoint(backbone_folder: Path, tmp_path: Path) -> None:
    generator = tiny_generator(load_backbone(str(backbone_folder)), reader="own").eval()  # type: ignore[arg-type]
    assert generator.reader is not None
    with torch.no_grad():
        for parameter in generator.reader.parameters():
            parameter.mul_(1.5)
    save_generator(generator, tmp_path / "own")
    assert torch.equal(states(load_generator(tmp_path / "own")), states(generator))
