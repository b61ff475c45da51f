"""The demonstration on a decoder-only model: its three columns are what the methods give, and its export is whole."""

import json
from pathlib import Path

import pytest
import torch

from tagi.api.demo import COLUMNS, demonstrate, is_right, shown_tasks
from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import load_backbone
from tagi.cli.demo import lines_of
from tagi.data.everyday import everyday_tasks
from tagi.errors import ConfigError, TagiError
from tagi.formats.records import ExportRecord
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
from tests.causal_models import causal_tokenizer, tiny_causal_model

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TEXT = TextSettings(encoding="plain", max_instruction_tokens=31, max_input_tokens=29, max_target_tokens=9)


@pytest.fixture
def generator(tmp_path: Path) -> AdapterGenerator:
    tiny_causal_model(max_position_embeddings=113).save_pretrained(tmp_path / "base")
    causal_tokenizer().save_pretrained(tmp_path / "base")
    settings = GeneratorSettings(kind="query", rank=3, alpha=5.0, hidden=13, width=12, heads=3, fusion="concatenation")
    made = AdapterGenerator(load_backbone(str(tmp_path / "base")), settings, TEXT)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.hypernetwork.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=random))
    made.save_pretrained(tmp_path / "generator")
    return made.eval()


def test_what_is_shown_is_what_the_model_says(generator: AdapterGenerator, tmp_path: Path) -> None:
    shown = demonstrate(tmp_path / "out", generator=str(tmp_path / "generator"), max_new_tokens=4)
    tasks = shown_tasks()
    instructions, inputs = [task.instruction for task in tasks], [task.instances[0].input for task in tasks]
    adapters = generator.adapt(instructions)
    wanted = [one.predict(text, max_new_tokens=4) for one, text in zip(adapters, inputs, strict=True)]
    assert [row["adapted"] for row in shown["answers"]] == wanted
    assert [row["instruction"] for row in shown["answers"]] == instructions
    for name in ("stock", "alone"):
        assert [row[name] for row in shown["answers"]] != wanted
    assert shown["right"] == dict.fromkeys(COLUMNS, 0)  # a random model
    for row, task in zip(shown["answers"], tasks, strict=True):
        found = (row["kind"], row["expected"], row["metric"])
        assert found == (task.name, list(task.instances[0].outputs), task.metric)
        assert row["right"] == dict.fromkeys(COLUMNS, False)
    assert {check["result"] for check in shown["checks"]} == {"passed"}
    record = json.loads((tmp_path / "out" / ExportRecord.FILE).read_text())
    assert record["instruction"] == instructions[0]
    assert record["lost"] == ["the instruction's keys and values"]
    again = demonstrate(tmp_path / "out", generator=str(tmp_path / "generator"), max_new_tokens=4)
    assert again["answers"] == shown["answers"]


def test_answers_are_marked_and_counted(
    generator: AdapterGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["no", "555-0142.", "I received your letter.", '["apples","pears","plums"]', "At four", "5 March 2021"]
    monkeypatch.setattr(TAGI, "predict", lambda *_, **__: said)
    shown = demonstrate(tmp_path / "out", generator=str(tmp_path / "generator"), max_new_tokens=2)
    marks = [False, True, False, True, True, False]
    assert [row["right"]["adapted"] for row in shown["answers"]] == marks
    assert [row["right"]["alone"] for row in shown["answers"]] == marks
    assert shown["right"] == {"stock": 0, "adapted": 3, "alone": 3}
    text = "\n".join(lines_of(shown))
    assert "right: stock 0 of 6, instruction + LoRA 3 of 6, LoRA alone 3 of 6" in text
    assert "  instruction + LoRA  right  555-0142.\n" in text
    assert "  LoRA alone          wrong  5 March 2021\n  right answer               2021-03-05\n" in text


def test_the_shown_tasks_are_six_of_different_kinds_and_none_is_a_test() -> None:
    shown = shown_tasks()
    assert len({task.name for task in shown}) == len(shown) == 6
    for task in shown:
        (instance,) = task.instances
        assert all(is_right(task, output) for output in instance.outputs)
        assert not is_right(task, "")
    tested = everyday_tasks()
    assert not {task.instruction for task in shown} & {
        text for task in tested for text in (task.instruction, *task.paraphrases)
    }
    inputs = [{instance.input for task in tasks for instance in task.instances} for tasks in (shown, tested)]
    assert not inputs[0] & inputs[1]


def test_nothing_but_an_export_is_replaced(generator: AdapterGenerator, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("mine")
    with pytest.raises(TagiError, match="expected a new or empty folder, got one that holds files"):
        demonstrate(tmp_path / "own", generator=str(tmp_path / "generator"), max_new_tokens=2)
    assert (tmp_path / "own" / "letter.txt").read_text() == "mine"


def test_an_encoder_decoder_is_not_shown_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="toy: expected a generator on a decoder-only model to show, got one on T5"):
        demonstrate(tmp_path / "out", generator="toy")
