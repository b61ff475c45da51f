"""What a tokenizer does not know, and what is said of it."""

import logging
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tagi.api.generator import AdapterGenerator
from tagi.api.lora_training import Refinement
from tagi.data.text.unknown import unknown_share, warn_of_unknown
from tests.causal_models import causal_tokenizer
from tests.models import tokenizer


def test_the_share_of_unknown_tokens(data_dir: Path) -> None:
    t5 = AutoTokenizer.from_pretrained(data_dir / "t5_tokenizer")
    assert unknown_share(t5, "\u628a\u53e5\u5b50\u7ffb\u8bd1\u6210\u82f1\u6587") == 1
    assert unknown_share(t5, "Translate the sentence.") == 0
    assert 0 < unknown_share(t5, "Translate \u628a\u53e5\u5b50 please") < 0.5
    assert unknown_share(tokenizer(), "w1 nothing of this") == pytest.approx(3 / 4)
    assert unknown_share(causal_tokenizer(), "") == 0


def test_a_warning_names_the_instruction_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unknown(tokenizer(), ["none of it", "none of it", "w1 w2 w3"])
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("100% of the tokens of the instruction 'none of it' are unknown to the model's tokenizer")


def test_generating_from_an_unknown_instruction_warns(caplog: pytest.LogCaptureFixture) -> None:
    generator = AdapterGenerator.from_pretrained("toy")
    with caplog.at_level(logging.WARNING):
        generator.adapt("take the animal and make it plural .")
        assert not caplog.records
        generator.adapt("\u628a\u53e5\u5b50\u7ffb\u8bd1")
    assert "100% of the tokens" in caplog.text


def test_refining_on_unknown_inputs_or_outputs_warns(caplog: pytest.LogCaptureFixture) -> None:
    """What is learned from them is to write the unknown token."""
    adapter = AdapterGenerator.from_pretrained("toy").adapt("take the animal and make it plural .")
    unknown = "\u628a\u53e5\u5b50\u7ffb\u8bd1"
    with caplog.at_level(logging.WARNING):
        adapter.refine([("pen dog hill", "dogs")], Refinement(0))
        assert not caplog.records
        adapter.refine([("pen dog hill", unknown), (unknown, "dogs")], Refinement(0))
    assert "100% of the tokens of the output" in caplog.text
    assert "100% of the tokens of the input" in caplog.text
