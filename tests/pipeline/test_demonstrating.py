"""The demonstration on a decoder-only model: its three columns are what the methods give, and its export is whole."""

import json
from pathlib import Path

import pytest
import torch

from tagi.backbones import load_backbone
from tagi.data.text import TextSettings
from tagi.errors import ConfigError, TagiError
from tagi.hypernetwork import Generator, GeneratorSettings
from tagi.pipeline.demonstrating import SHOWN, demonstrate
from tagi.pipeline.export_card import RECORD
from tests.causal_models import causal_tokenizer, tiny_causal_model

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TEXT = TextSettings(encoding="plain", max_instruction_tokens=31, max_input_tokens=29, max_target_tokens=9)


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    tiny_causal_model(max_position_embeddings=113).save_pretrained(tmp_path / "base")
    causal_tokenizer().save_pretrained(tmp_path / "base")
    settings = GeneratorSettings(rank=3, alpha=5.0, hidden=13, width=12, heads=3, fusion="concatenation")
    made = Generator(load_backbone(str(tmp_path / "base")), settings, TEXT)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.hypernetwork.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=random))
    made.save_pretrained(tmp_path / "generator")
    return made.eval()


def test_what_is_shown_is_what_the_model_says(generator: Generator, tmp_path: Path) -> None:
    shown = demonstrate(tmp_path / "out", generator=str(tmp_path / "generator"), max_new_tokens=4)
    instructions, inputs = zip(*SHOWN, strict=True)
    adapters = generator.adapt(instructions)
    assert isinstance(adapters, list)
    wanted = [one.predict(text, max_new_tokens=4) for one, text in zip(adapters, inputs, strict=True)]
    assert [row["adapted"] for row in shown["answers"]] == wanted
    assert [row["instruction"] for row in shown["answers"]] == list(instructions)
    for name in ("stock", "alone"):
        assert [row[name] for row in shown["answers"]] != wanted
    assert {check["result"] for check in shown["checks"]} == {"passed"}
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["instruction"] == SHOWN[0][0]
    assert record["lost"] == ["the instruction's keys and values"]
    again = demonstrate(tmp_path / "out", generator=str(tmp_path / "generator"), max_new_tokens=4)
    assert again["answers"] == shown["answers"]


def test_nothing_but_an_export_is_replaced(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("mine")
    with pytest.raises(TagiError, match="expected a new or empty folder, got one that holds files"):
        demonstrate(tmp_path / "own", generator=str(tmp_path / "generator"), max_new_tokens=2)
    assert (tmp_path / "own" / "letter.txt").read_text() == "mine"


def test_an_encoder_decoder_is_not_shown_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="toy: expected a generator on a decoder-only model to show, got one on T5"):
        demonstrate(tmp_path / "out", generator="toy")
