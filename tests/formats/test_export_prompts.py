"""What an export says an engine is to be given: exactly what the adapter reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tagi.api.task_adapter import TaskAdapter
from tagi.data.task import Example
from tagi.data.text.encoder import CausalTextEncoder
from tagi.formats.export import export, exportable_of, open_exportable
from tagi.formats.export_prompts import prompts_of
from tagi.formats.records import ExportRecord
from tests.causal_models import causal_tokenizer
from tests.commands import Run
from tests.data.test_chat_families import FAMILIES, LLAMA_3_2, LONG, NO_SYSTEM, SHOWN, encoder, made
from tests.models import text_settings
from tests.prompted_adapters import (
    NEW_TOKENS,
    RANK,
    TASKS,
    tiny_chat_base,
    tiny_chat_generator,
    without_prefix,
)

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

INSTRUCTION, INPUTS = next(iter(TASKS.items()))


def tokens(encoded: CausalTextEncoder, prompt: dict[str, Any], text: str) -> list[int]:
    found: list[int] = encoded.tokenizer(prompt["text"].replace("{input}", text), add_special_tokens=False)["input_ids"]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("examples", [(), SHOWN], ids=["no examples", "examples"])
def test_messages_text_and_what_is_read_are_the_same(family: str, examples: tuple[Example, ...]) -> None:
    encoded, arguments = encoder(family), FAMILIES[family][1]
    prompts = prompts_of(encoded, "say it", examples)
    read = [*encoded.instruction("say it", examples), *encoded.continuation("cat dog")]
    assert tokens(encoded, prompts["instruction"], "cat dog") == read
    assert tokens(encoded, prompts["alone"], "cat dog") == encoded.alone("cat dog")
    assert prompts.get("template_arguments") == (arguments or None)
    for name, roles in (("instruction", ["user"] if family in NO_SYSTEM else ["system", "user"]), ("alone", ["user"])):
        messages = prompts[name]["messages"]
        assert [message["role"] for message in messages] == roles
        template = made(family).apply_chat_template
        rendered = template(messages, tokenize=False, add_generation_prompt=True, **arguments)
        assert rendered == prompts[name]["text"]
    assert "dated" not in prompts


def test_an_instruction_over_the_limit_is_stated_as_it_was_read() -> None:
    encoded = encoder("smollm 2", max_instruction_tokens=40)
    told = "say it cat dog " * 20
    text = prompts_of(encoded, told)["instruction"]["text"]
    read = [*encoded.instruction(told, truncate=True), *encoded.continuation("cat")]
    assert tokens(encoded, {"text": text}, "cat") == read
    assert len(read) < 60


def test_without_an_instruction_only_the_prompt_alone_is_stated() -> None:
    assert prompts_of(encoder("smollm 2"), None).keys() == {"alone"}


def test_a_template_that_writes_the_date_is_said_to() -> None:
    encoded = CausalTextEncoder(made("llama 3.2", LLAMA_3_2), text_settings(encoding="chat", **LONG))
    prompts = prompts_of(encoded, "say it")
    assert prompts["dated"] is True
    assert prompts["instruction"]["messages"][0] == {"role": "system", "content": "say it"}


def test_messages_are_left_out_where_the_template_makes_another_text_of_them() -> None:
    """Qwen 3's by default: it ends before the empty think block, which the adapter was trained with."""
    encoded = CausalTextEncoder(made("qwen 3"), text_settings(encoding="chat", **LONG))
    prompts = prompts_of(encoded, "say it")
    assert prompts["alone"].keys() == prompts["instruction"].keys() == {"text"}
    assert tokens(encoded, prompts["alone"], "cat dog") == encoded.alone("cat dog")


def test_other_encodings_have_no_messages() -> None:
    encoded = CausalTextEncoder(causal_tokenizer(), text_settings())
    prompts = prompts_of(encoded, "w1 w2")
    assert prompts["alone"].keys() == prompts["instruction"].keys() == {"text"}
    start = [encoded.tokenizer.bos_token_id]
    read = [*encoded.instruction("w1 w2"), *encoded.continuation("w3")]
    assert [*start, *tokens(encoded, prompts["instruction"], "w3")] == read
    assert [*start, *tokens(encoded, prompts["alone"], "w3")] == encoded.alone("w3")


@pytest.fixture
def adapter(tmp_path: Path, run_tagi: Run) -> Path:
    """The folder of an adapter of a tiny Llama with a chat template, whose base and generator stand beside it."""
    tiny_chat_generator(tiny_chat_base(tmp_path / "base")).save_pretrained(tmp_path / "generator")
    ran = run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTION, "--out", tmp_path / "adapter")
    assert ran.code == 0, ran.err
    return tmp_path / "adapter"


@pytest.mark.parametrize("format", ["peft", "merged", "gguf"])
def test_nothing_is_lost_and_both_prompts_are_stated(format: str, adapter: Path, tmp_path: Path, run_tagi: Run) -> None:
    ran = run_tagi("export", adapter, "--format", format, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    record = json.loads((tmp_path / "out" / ExportRecord.FILE).read_text())
    assert (record["lost"], record["rank"], record["alpha"]) == ([], RANK, RANK)
    assert "prompt" not in record
    told = f"<|turn|>system\n{INSTRUCTION}<|over|>\n<|turn|>user\n{{input}}<|over|>\n<|turn|>assistant\n"
    user = {"role": "user", "content": "{input}"}
    assert record["prompts"] == {
        "instruction": {"messages": [{"role": "system", "content": INSTRUCTION}, user], "text": told},
        "alone": {
            "messages": [user],
            "text": "<|turn|>system\nBe kind.<|over|>\n<|turn|>user\n{input}<|over|>\n<|turn|>assistant\n",
        },
    }
    card = (tmp_path / "out" / "README.md").read_text()
    for prompt in record["prompts"].values():
        assert f"\n    {json.dumps(prompt['text'])}\n" in card
        assert all(f'"content": {json.dumps(message["content"])}' in card for message in prompt["messages"])
    if format == "peft":
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert repr(config["lora_alpha"]) == repr(RANK)
        assert run_tagi("verify", tmp_path / "out", "--input", "the river").code == 0
        export(open_exportable(tmp_path / "out"), "peft", tmp_path / "again")
        assert json.loads((tmp_path / "again" / ExportRecord.FILE).read_text()) == record


def test_a_merged_model_answers_the_stated_messages_the_same(adapter: Path, tmp_path: Path, run_tagi: Run) -> None:
    assert run_tagi("export", adapter, "--format", "merged", "--out", tmp_path / "out").code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts = json.loads((tmp_path / "out" / ExportRecord.FILE).read_text())["prompts"]

    def answer(name: str, text: str) -> str:
        messages = json.loads(json.dumps(prompts[name]["messages"]).replace("{input}", text))
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        limits = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
        found = model.generate(**asked, **limits)[0, asked["input_ids"].shape[1] :]
        return str(tokenizer.decode(found, skip_special_tokens=True)).strip()

    predicted = run_tagi("predict", "-a", adapter, *INPUTS, "--max-new-tokens", NEW_TOKENS, "--json")
    assert predicted.code == 0, predicted.err
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    assert [answer("instruction", text) for text in INPUTS] == [row["prediction"] for row in rows]
    alone = without_prefix(TaskAdapter.load(adapter, tiny_chat_generator(tmp_path / "base")))
    assert [answer("alone", text) for text in INPUTS] == alone.predict(INPUTS, max_new_tokens=NEW_TOKENS)


def test_an_adapter_without_prefix_stays_so_and_states_one_prompt(adapter: Path, tmp_path: Path, run_tagi: Run) -> None:
    generator = tiny_chat_generator(tmp_path / "base")
    told = TaskAdapter.load(adapter, generator)
    assert told.states.cross is not None
    alone = without_prefix(told)
    alone.save(tmp_path / "alone")
    again = TaskAdapter.load(tmp_path / "alone", generator)
    assert again.states.cross is None
    answers = again.predict(INPUTS, max_new_tokens=NEW_TOKENS)
    assert answers == alone.predict(INPUTS, max_new_tokens=NEW_TOKENS)
    assert answers != told.predict(INPUTS, max_new_tokens=NEW_TOKENS)
    record = export_of(again, tmp_path / "out")
    assert record["prompts"].keys() == {"alone"}
    assert record["lost"] == []
    assert record["instruction"] == INSTRUCTION


@pytest.mark.parametrize("prefix", [True, False], ids=["instruction", "alone"])
def test_a_refined_adapter_states_its_own_prompts(prefix: bool, adapter: Path, tmp_path: Path, run_tagi: Run) -> None:
    generator, given = tiny_chat_generator(tmp_path / "base"), adapter
    if not prefix:
        given = tmp_path / "alone"
        without_prefix(TaskAdapter.load(adapter, generator)).save(given)
    rows = [{"input": text, "output": "yes"} for text in INPUTS]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["-g", tmp_path / "generator", "--examples", tmp_path / "examples.jsonl", "--steps", 3]
    ran = run_tagi("refine", given, *arguments, "--held-out", 1, "--out", tmp_path / "refined")
    assert ran.code == 0, ran.err
    refined = TaskAdapter.load(tmp_path / "refined" / "adapter", generator)
    assert (refined.states.cross is not None) == prefix
    ran = run_tagi("export", tmp_path / "refined" / "adapter", "-g", tmp_path / "generator", "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    prompts = json.loads((tmp_path / "out" / ExportRecord.FILE).read_text())["prompts"]
    assert prompts.keys() == ({"instruction", "alone"} if prefix else {"alone"})
    assert run_tagi("verify", tmp_path / "out", "--input", "the river").code == 0


@pytest.mark.parametrize(("cache", "lost"), [("none", []), ("stock", ["the instruction's keys and values"])])
def test_other_generators_with_a_cache_state_the_prompt_alone(cache: Any, lost: list[str], tmp_path: Path) -> None:
    """What a LoRA alone is to be given, which is what is left of an adapter with keys and values of the backbone's."""
    generator = tiny_chat_generator(tiny_chat_base(tmp_path / "base"), instruction_cache=cache)
    adapted = generator.adapt(INSTRUCTION)
    assert isinstance(adapted, TaskAdapter)
    record = export_of(adapted, tmp_path / "out", lossy=bool(lost))
    assert record["lost"] == lost
    assert record["prompts"].keys() == {"alone"}


def test_generators_of_the_older_form_state_their_frame_as_before(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"instruction_cache": None, "shared_rank": 0, "residual": "low-rank"}
    generator = tiny_chat_generator(tiny_chat_base(tmp_path / "base"), **changed)
    adapted = generator.adapt(INSTRUCTION)
    assert isinstance(adapted, TaskAdapter)
    record = export_of(adapted, tmp_path / "out")
    assert "prompts" not in record
    assert record["prompt"] == "<|turn|>user\n{input}<|over|>\n<|turn|>assistant\n"
    assert "## Prompts" not in (tmp_path / "out" / "README.md").read_text()


def export_of(adapter: TaskAdapter, folder: Path, *, lossy: bool = False) -> dict[str, Any]:
    export(exportable_of(adapter), "peft", folder, lossy=lossy)
    record: dict[str, Any] = json.loads((folder / ExportRecord.FILE).read_text())
    return record
