"""A task adapter in Python: one text or many, alone, in PEFT and merged, from a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.api import task_adapter as adapters
from tagi.api.task_adapter import TaskAdapter
from tagi.data.task import Example
from tagi.errors import InputError
from tests.adapter_folders import adapter_of
from tests.models import CHOICES, INPUTS, INSTRUCTIONS, MODULES, tiny_generator, traces
from tests.prompted_adapters import tiny_chat_base, tiny_chat_generator

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_one_text_gives_one_result_and_many_a_list() -> None:
    adapter = tiny_generator().adapt(INSTRUCTIONS[0])
    assert adapter.predict(list(INPUTS[:2])) == [adapter.predict(INPUTS[0]), adapter.predict(INPUTS[1])]
    scores = adapter.score(INPUTS[0], CHOICES[3])
    assert scores == pytest.approx(adapter.score([INPUTS[0]], CHOICES[3])[0])
    assert scores == pytest.approx(adapter.score([INPUTS[0]], [CHOICES[3]])[0])
    assert adapter.score([], CHOICES[3]) == []


@pytest.mark.parametrize(
    ("inputs", "choices", "named"),
    [
        ("w1", "ab", "expected a list of choices, got the text 'ab'"),
        (["w1", "w2"], "ab", "expected a list of choices, got the text 'ab'"),
        (["w1", "w2"], [["w3"], "ab"], "expected a list of choices for each input, got the text 'ab' in place of one"),
        ("w1", [], "expected choices to score, got none"),
        ("w1", [["w3"], ["w4"]], "expected a list of choices for each of 1 inputs, got 2"),
    ],
)
def test_a_text_is_never_a_list_of_characters(inputs: Any, choices: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        tiny_generator().adapt(INSTRUCTIONS[0]).score(inputs, choices)


def logits(model: Any, ids: torch.Tensor, **asked: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, **asked).logits
    return found


@pytest.mark.parametrize("kind", ["t5", "llama", "gpt2"])
def test_in_peft_and_merged_it_computes_the_same(kind: str, tmp_path: Path) -> None:
    """Also where query and value are columns of one layer; the generator stays as it is, and what it trains too."""
    adapter = TaskAdapter.from_pretrained(adapter_of(tmp_path, kind)).alone()
    generator = adapter.generator
    before, answers = list(traces(generator)), adapter.predict(INPUTS, max_new_tokens=4)
    trained = [parameter.requires_grad for parameter in generator.parameters()]
    ids = torch.tensor([generator.text.input(INPUTS[3])])
    asked = {"labels": ids[:, :5]} if kind == "t5" else {}
    ours = logits(adapter.runner().backbone.model, ids, **asked)
    bare = logits(generator.backbone.model, ids, **asked)
    for model in (adapter.to_peft(), adapter.merge()):
        apart = (logits(model, ids, **asked) - ours).abs().max()
        assert apart < 1e-5 * ours.abs().max()
        assert (ours - bare).abs().max() > 1000 * apart
    assert list(traces(generator)) == before
    assert [parameter.requires_grad for parameter in generator.parameters()] == trained
    assert torch.equal(logits(generator.backbone.model, ids, **asked), bare)
    assert adapter.predict(INPUTS, max_new_tokens=4) == answers


def test_with_its_instruction_in_the_prompt_it_is_one_lora(tmp_path: Path) -> None:
    generator = tiny_chat_generator(tiny_chat_base(tmp_path / "base"))
    adapter = generator.adapt("Name the city.")
    ids = torch.tensor([[*generator.text.instruction("Name the city."), *generator.text.continuation("I am in Rome.")]])
    found = adapter.to_peft().generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )
    assert generator.text.decode(found[:, ids.shape[1] :]) == [adapter.predict("I am in Rome.", max_new_tokens=6)]
    adapter.alone().save_pretrained(tmp_path / "alone")
    again = TaskAdapter.from_pretrained(tmp_path / "alone", generator)
    assert again.is_alone
    assert again.predict("I am in Rome.") == adapter.alone().predict("I am in Rome.")


def test_what_is_more_than_a_lora_is_refused_or_left_out(tmp_path: Path) -> None:
    adapter = tiny_generator().adapt(INSTRUCTIONS[0])
    lost = "fusion with the instruction in the encoder, instruction states before the decoder"
    for refused in (adapter.to_peft, adapter.merge):
        with pytest.raises(InputError, match=f"expected an adapter that is a LoRA alone, got one with {lost}"):
            refused()
    with pytest.raises(InputError, match=lost):
        adapter.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    alone = adapter.alone()
    assert alone.predict(INPUTS) != adapter.predict(INPUTS)
    alone.export(tmp_path / "out")  # nothing of it is lost
    with pytest.raises(InputError, match="expected an adapter with what was read of its instruction"):
        alone.save_pretrained(tmp_path / "alone")
    other = tiny_generator(**MODULES["bottleneck"]).adapt(INSTRUCTIONS[0])
    for refused in (other.to_peft, other.merge, lambda: other.refine([Example("w1", "w2")])):
        with pytest.raises(InputError, match="expected an adapter of LoRA, got one of bottleneck"):
            refused()


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_folder_is_enough_and_device_and_type_can_be_chosen(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_of(tmp_path, kind)
    adapter = TaskAdapter.from_pretrained(folder)
    named = TaskAdapter.from_pretrained(str(folder), str(tmp_path / "generator"))
    given = TaskAdapter.load(folder, adapter.generator)
    assert adapter.predict(INPUTS) == named.predict(INPUTS) == given.predict(INPUTS)
    with pytest.raises(InputError, match="base: expected none with a generator that is already loaded, got 'base'"):
        TaskAdapter.from_pretrained(folder, adapter.generator, base="base")
    named.save_pretrained(tmp_path / "again")
    assert TaskAdapter.from_pretrained(tmp_path / "again").predict(INPUTS) == adapter.predict(INPUTS)
    half = TaskAdapter.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.generator.backbone.parameters()} == {torch.bfloat16}
    exact, rough = adapter.score(list(INPUTS), CHOICES[3]), half.score(list(INPUTS), CHOICES[3])
    assert rough != exact
    for one, other in zip(rough, exact, strict=True):
        assert one == pytest.approx(other, rel=0.1)
    monkeypatch.setattr(adapters, "best_device", lambda: torch.device("meta"))
    assert TaskAdapter.from_pretrained(folder).states.mask.device.type == "meta"
    assert TaskAdapter.from_pretrained(folder, device="cpu").states.mask.device.type == "cpu"
    assert given.generator is adapter.generator
