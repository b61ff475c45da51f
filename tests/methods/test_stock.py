"""The stock model beside a method: the base model as it is, whatever was trained on it."""

from dataclasses import replace
from pathlib import Path

import torch

from tagi.backbones.load import load_backbone
from tagi.data.task import Instance, Task
from tagi.formats.finding import find_checkpoint
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.stock import stock_model
from tagi.methods.tagi import TAGI
from tests.prompted_adapters import tiny_chat_base, tiny_chat_generator

TASK = Task("t", "t", "take the animal and the tool .", (Instance("0", "cat pen king", ("cat pen",)),))


def test_a_tuned_backbone_is_not_the_stock_model() -> None:
    folder = find_checkpoint("toy")
    method = load_method(folder)
    stock = stock_model(method, folder)
    assert isinstance(stock, Concatenation)
    fresh = load_backbone("toy")
    for (name, found), (_, wanted) in zip(stock.backbone.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(found, wanted), name
    tuned = method.generator_model
    assert tuned is not None
    assert any(not torch.equal(*pair) for pair in zip(tuned.backbone.parameters(), fresh.parameters(), strict=True))
    settings = method.text.settings
    assert stock.text.settings.max_input_tokens == settings.max_instruction_tokens + settings.max_input_tokens
    assert stock_model(method) is None  # in memory it is not known what the backbone was


def test_a_backbone_that_stays_as_it_is_is_shared(tmp_path: Path) -> None:
    generator = tiny_chat_generator(tiny_chat_base(tmp_path / "base"))
    method = TAGI(generator).eval()
    stock = stock_model(method)
    assert isinstance(stock, CausalConcatenation)
    assert stock.backbone is generator.backbone
    text = generator.text.settings
    both = text.max_instruction_tokens + text.max_input_tokens
    own = CausalConcatenation(generator.backbone, replace(text, max_input_tokens=both), frozen=True).eval()
    rows, inputs = torch.tensor([0, 0]), ["cat pen king", "a"]
    answers = [one.predict(one.prepare([TASK]), rows, inputs, max_new_tokens=5) for one in (stock, own)]
    assert answers[0] == answers[1] != method.predict(method.prepare([TASK]), rows, inputs, max_new_tokens=5)


def test_its_prompt_fits_the_models_positions(tmp_path: Path) -> None:
    apart = {"instruction_cache": "none", "max_instruction_tokens": 900, "max_input_tokens": 900}
    generator = tiny_chat_generator(tiny_chat_base(tmp_path / "base"), **apart)
    stock = stock_model(TAGI(generator).eval())
    assert stock is not None
    assert stock.text.settings.max_input_tokens == 1031 - stock.text.settings.max_target_tokens
