"""Span corruption as a method: what it makes of documents, and the backbone it leaves."""

from pathlib import Path

import pytest
import torch

from tagi.backbones.load import load_backbone
from tagi.errors import ConfigError
from tagi.methods.denoiser import Denoiser
from tests.models import tiny_backbone, tokenizer, words

DOCUMENTS = [words(at, 9 + 4 * at) for at in range(4)]


def test_a_batch_depends_on_seed_and_text_alone() -> None:
    one, other = Denoiser(tiny_backbone(), seed=1), Denoiser(tiny_backbone(), seed=2)
    batch = one.collate(DOCUMENTS)
    backwards = one.collate(DOCUMENTS[::-1])
    for name, tensor in batch.items():
        assert torch.equal(backwards[name].flip(0), tensor)
    assert batch.keys() == {"input_ids", "input_mask", "labels"}
    assert not torch.equal(other.collate(DOCUMENTS)["input_ids"], batch["input_ids"])
    for row, document in enumerate(DOCUMENTS):
        source = batch["input_ids"][row][batch["input_mask"][row]].tolist()
        target = [token for token in batch["labels"][row].tolist() if token != -100]
        assert source[-1] == target[-1] == 1
        kept = [token for token in [*source, *target] if token not in one.sentinels and token != 1]
        assert sorted(kept) == sorted(tokenizer()(document)["input_ids"][:-1])


def test_sentinels_are_in_the_order_of_their_numbers() -> None:
    names = tokenizer().convert_ids_to_tokens(Denoiser(tiny_backbone(), seed=0).sentinels)
    assert names == [f"<extra_id_{at}>" for at in range(20)]


def test_everything_is_trained_and_learns() -> None:
    method = Denoiser(tiny_backbone(), seed=0, density=0.3, mean_length=2.0)
    batch = method.collate(DOCUMENTS)
    assert method.trained_tensors().keys() == dict(method.named_parameters()).keys()
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = method(**batch)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_what_is_saved_is_a_backbone(tmp_path: Path) -> None:
    method = Denoiser(tiny_backbone("v1.1"), seed=0)
    method.save(tmp_path / "made")
    (tmp_path / "made" / "note.txt").write_text("old")
    method.save(tmp_path / "made")
    found = load_backbone(str(tmp_path / "made"))
    for name, tensor in method.backbone.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)
    assert {path.suffix for path in (tmp_path / "made").iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_tokenizer_without_sentinels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    monkeypatch.setattr(type(backbone.tokenizer), "get_vocab", lambda _: {"a": 0})
    with pytest.raises(ConfigError, match="expected a tokenizer with sentinels"):
        Denoiser(backbone, seed=0)
