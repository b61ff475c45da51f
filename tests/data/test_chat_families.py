"""The chat templates of known families: prompt, training row and an input alone are what the template itself writes.

The templates are short forms of the families' own, without tools.
"""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tagi.data.task import Example
from tagi.data.text.chat import ChatEncoding
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.formats.export import _prompt as prompt_of_export
from tagi.settings.text import TextSettings
from tagi.stages.recipe_settings import text_settings as settings_of_recipe
from tagi.stages.recipes import load_recipe
from tests.models import text_settings, tokenizer

HEADED = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3 = "{{ bos_token }}" + HEADED
LLAMA_3_2 = (
    "{{ bos_token }}\n"
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system_message = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}{{ 'Cutting Knowledge Date: December 2023\n' }}"
    "{{ 'Today Date: ' + date_string + '\n\n' }}{{ system_message }}{{ '<|eot_id|>' }}" + HEADED
).replace("}}\n{%", "}}{%")
GEMMA_2 = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_3 = (
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% set ns = namespace(last=0) %}"
    "{% for m in loop_messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for m in loop_messages %}{% if m['role'] == 'user' %}"
    "{% if loop.index0 == ns.last and system_message is defined %}"
    "{{ '[INST] ' + system_message + '\n\n' + m['content'] + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN_2_5 = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>system\nYou are Qwen, a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) or m.role == 'assistant' %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_3 = (
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{% set content = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content }}"
    "{% else %}{{ '<|im_start|>assistant\n' + content }}{% endif %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
SMOLLM_2 = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3": (LLAMA_3, {}),
    "llama 3.2": (LLAMA_3_2, {"date_string": "26 Jul 2024"}),
    "gemma 2": (GEMMA_2, {}),
    "mistral 0.1": (MISTRAL_1, {}),
    "mistral 0.3": (MISTRAL_3, {}),
    "qwen 2.5": (QWEN_2_5, {}),
    "qwen 3": (QWEN_3, {"enable_thinking": False}),
    "smollm 2": (SMOLLM_2, {}),
}
NO_SYSTEM = ("gemma 2", "mistral 0.1")
STARTS = ("llama 3", "llama 3.2", "gemma 2", "mistral 0.1", "mistral 0.3")
"""Families whose tokenizer writes a start token before every text, and so does the template."""
SPECIAL = {
    "llama": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "mistral": ["[INST]", "[/INST]"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
    "smollm": ["<|im_start|>", "<|im_end|>"],
}
CORPUS = [
    "say it cat dog Today Date: 26 Jul 2024 You are a helpful assistant user system model",
    "Input: cat\nOutput: dog\n\nsay it: [INST] cat -> dog [/INST]",
] * 9
LONG = {"max_instruction_tokens": 400, "max_input_tokens": 500, "max_target_tokens": 60}
SHOWN = (Example("cat", "dog"), Example("dog", "cat it"))
TEXTS = [("say it", "cat dog"), ("say it.", ".cat"), ("say:\n it", "9 cat\n\ndog"), ("[say]", "[cat]")]
ANSWERS = ["dog", " dog cat ", "9", "\n- cat\n- dog", ".dog"]


def made(family: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A small tokenizer of the family's kind with its template: Mistral 0.1's is Llama 2's kind, the others BPE."""
    kind = family.split()[0]
    backend = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if family == "mistral 0.1":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        backend.decoder = decoders.Metaspace()
        alphabet = [chr(at) for at in range(33, 127)] + ["\n"]
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    if family in STARTS:
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    if family != "mistral 0.1":  # whose marks are words like any other
        found.add_special_tokens({"additional_special_tokens": SPECIAL[kind]})
    if kind == "qwen":
        found.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    if kind == "gemma":
        found.add_tokens([AddedToken("\n" * count, normalized=False) for count in range(1, 5)])
    found.chat_template = FAMILIES[family][0] if template is None else template
    return found


def encoder(family: str, **changed: Any) -> CausalTextEncoder:
    settings = text_settings(**{"encoding": "chat", "positives": 2, **LONG, **changed})
    arguments = FAMILIES[family][1] or None
    return CausalTextEncoder(made(family), replace(settings, template_arguments=arguments))


def conversation(family: str, instruction: str | None, text: str) -> list[dict[str, str]]:
    if instruction is None:
        return [{"role": "user", "content": text}]
    if family in NO_SYSTEM:
        return [{"role": "user", "content": f"{instruction}\n\n{text}"}]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]


def written(family: str, messages: list[dict[str, str]], answer: str | None = None) -> list[int]:
    """What transformers makes of a conversation."""
    tokens, arguments = made(family), FAMILIES[family][1]
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer}]
    ids: list[int] = tokens.apply_chat_template(
        messages, add_generation_prompt=answer is None, return_dict=False, **arguments
    )
    return ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("instruction", "text"), TEXTS)
def test_prompts_and_training_rows_are_the_templates_own(family: str, instruction: str, text: str) -> None:
    encoded = encoder(family)
    prompt = encoded.concatenated(instruction, (), text)
    assert prompt == written(family, conversation(family, instruction, text))
    assert encoded.instruction(instruction) + encoded.input(text) == prompt
    assert encoded.continuation(text) == encoded.input(text)
    alone = encoded.alone(text)
    assert alone == written(family, conversation(family, None, text))
    for answer in ANSWERS:
        target = encoded.target(answer)
        for asked, messages in (
            (prompt, conversation(family, instruction, text)),
            (alone, conversation(family, None, text)),
        ):
            whole = written(family, messages, answer.strip())
            assert [*asked, *target] == whole[: len(asked) + len(target)]
        assert encoded.decode(torch.tensor([target])) == [answer.strip()]
        assert encoded.tokenizer.decode(target[-1:]).strip() in ("</s>", "<|eot_id|>", "<end_of_turn>", "<|im_end|>")
    start = encoded.tokenizer.bos_token_id
    assert prompt.count(start) == alone.count(start) == (1 if family in STARTS else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_stand_in_the_instruction(family: str) -> None:
    encoded = encoder(family)
    told = "say it\n\nInput: cat\nOutput: dog\n\nInput: dog\nOutput: cat it"
    assert encoded.concatenated("say it", SHOWN, "cat") == written(family, conversation(family, told, "cat"))
    parts = [*encoded.instruction("say it", SHOWN), *encoded.input("cat")]
    assert parts == encoded.concatenated("say it", SHOWN, "cat")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("over", [1, 2, 7])
def test_an_input_alone_that_is_cut_keeps_its_frame(family: str, over: int) -> None:
    text = "cat " * 30 + "dog"
    full = encoder(family).alone(text)
    encoded = encoder(family, max_input_tokens=len(full) - over)
    with pytest.raises(InputError, match=f"expected at most {len(full) - over} tokens, got {len(full)}"):
        encoded.alone(text)
    cut = encoded.alone(text, truncate=True)
    shown = [text[:end].rstrip() for end in range(len(text))]
    assert cut in [written(family, conversation(family, None, part)) for part in shown if part]
    assert len(full) - over - 3 <= len(cut) <= len(full) - over
    with pytest.raises(InputError, match="an empty text"):
        encoded.alone(" ")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_that_an_export_states_is_what_is_read(family: str) -> None:
    encoded = encoder(family)
    stated = prompt_of_export(encoded).replace("{input}", "cat dog")
    tokens = encoded.tokenizer
    assert (
        tokens.decode(encoded.input("cat dog")).lstrip()
        == tokens.decode(tokens(stated, add_special_tokens=False)["input_ids"]).lstrip()
    )
    if not family.startswith(("gemma", "mistral")):  # whose inputs go on within the user's message
        assert encoded.input("cat dog") == tokens(stated, add_special_tokens=False)["input_ids"]


def test_a_default_system_message_stands_in_the_frame_of_an_input_alone() -> None:
    for family, default in (("smollm 2", "named SmolLM"), ("qwen 2.5", "You are Qwen")):
        encoded = encoder(family)
        assert encoded.tokenizer.decode(encoded.alone("cat")).count(default) == 1
        assert default not in encoded.tokenizer.decode(encoded.concatenated("say it", (), "cat"))


def test_thinking_is_closed_before_an_answer_is_trained() -> None:
    """With the template's defaults the prompt ends before the think block, so it is added to the prompt."""
    closed, left = encoder("qwen 3"), CausalTextEncoder(made("qwen 3"), text_settings(encoding="chat", **LONG))
    assert left.input("cat") == closed.input("cat")
    assert left.tokenizer.decode(left.input("cat")).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert left.alone("cat") == closed.alone("cat")


def test_a_start_of_an_answer_that_no_conversation_has_is_refused() -> None:
    template = QWEN_3.replace("enable_thinking is false", "enable_thinking").replace(
        "{{ '<think>\n\n</think>\n\n' }}", "{{ '<think>\n' }}"
    )
    settings = replace(text_settings(encoding="chat", **LONG), template_arguments={"enable_thinking": True})
    assert CausalTextEncoder(made("qwen 3", template), settings).input("cat")  # a part of the empty think block
    template = template.replace("{{ '<think>\n' }}", "{{ '<think>hm' }}")
    with pytest.raises(ConfigError, match="starts an answer as it starts one in a whole conversation") as caught:
        CausalTextEncoder(made("qwen 3", template), settings)
    assert repr("<|im_end|>\n<|im_start|>assistant\n<think>hm") in str(caught.value)
    assert repr("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n") in str(caught.value)
    assert "data.template_arguments" in str(caught.value)


def test_a_date_is_kept_as_it_was_written() -> None:
    tokens = made("llama 3.2")
    encoded = CausalTextEncoder(tokens, text_settings(encoding="chat", **LONG))
    today = datetime.now().strftime("%d %b %Y")
    assert encoded.settings.frame is not None
    assert f"Today Date: {today}" in encoded.settings.frame["opening"]
    assert f"Today Date: {today}" in encoded.settings.frame["alone_opening"]
    stored = json.loads(json.dumps(encoded.settings.as_dict()))
    stored["frame"] = {name: piece.replace(today, "01 Feb 2003") for name, piece in stored["frame"].items()}
    tokens.chat_template = None  # which a frame does not need
    read = CausalTextEncoder(tokens, TextSettings.from_dict(stored))
    assert read.settings == TextSettings.from_dict(stored)
    for ids in (read.concatenated("say it", (), "cat"), read.alone("cat")):
        assert "Today Date: 01 Feb 2003\n\n" in tokens.decode(ids)
    assert read.target("cat dog") == encoded.target("cat dog")
    assert read.input("cat") == encoded.input("cat")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frame_without_a_date_is_not_stored(family: str) -> None:
    encoded = encoder(family)
    assert encoded.settings.frame is None
    assert "frame" not in encoded.settings.as_dict()
    assert ("template_arguments" in encoded.settings.as_dict()) == bool(FAMILIES[family][1])
    assert TextSettings.from_dict(json.loads(json.dumps(encoded.settings.as_dict()))) == encoded.settings
    hash(encoded.settings)


def test_the_mentioning_of_a_date_alone_stores_nothing() -> None:
    template = "{# strftime_now and date_string #}" + QWEN_2_5
    assert CausalTextEncoder(made("qwen 2.5", template), text_settings(encoding="chat", **LONG)).settings.frame is None


def test_a_frame_or_arguments_that_cannot_be_read_are_refused() -> None:
    settings = text_settings(encoding="chat", **LONG)
    pieces = ChatEncoding(0, *"abcdefgh").pieces()
    assert ChatEncoding.of_pieces(pieces, 2) == ChatEncoding(2, *"abcdefgh")
    for frame, named in (
        ({"opening": "a"}, "a chat's frame of"),
        ({**pieces, "told": 3}, "a text for frame.told, got 3"),
    ):
        with pytest.raises(CheckpointError, match=named):
            CausalTextEncoder(made("qwen 3"), replace(settings, frame=frame))  # type: ignore[arg-type]
    for name in ("frame", "template_arguments"):
        with pytest.raises(CheckpointError, match=f"{name}: expected a table, got 'x'"):
            TextSettings.from_dict({**settings.as_dict(), name: "x"})
    with pytest.raises(ConfigError, match="expected arguments of the chat template, got 'tokenize'"):
        CausalTextEncoder(made("qwen 3"), replace(settings, template_arguments={"tokenize": True}))


def test_a_recipe_gives_the_templates_arguments() -> None:
    recipe = load_recipe("smollm2", ["data.template_arguments={enable_thinking=false}"])
    assert settings_of_recipe(recipe).template_arguments == {"enable_thinking": False}
    plain = load_recipe("smollm2")
    assert settings_of_recipe(plain).template_arguments is None
    assert "template_arguments" not in plain.model_dump(mode="json")["data"]
    assert recipe.model_dump(mode="json")["data"]["template_arguments"] == {"enable_thinking": False}
    with pytest.raises(ConfigError, match=r"expected none with data\.encoding = 'plain'"):
        load_recipe("smollm2", ["data.encoding=plain", "data.template_arguments={enable_thinking=false}"])
    with pytest.raises(ConfigError, match="expected values that JSON can hold"):
        load_recipe("smollm2", ["data.template_arguments={day=2024-07-26}"])


@pytest.mark.parametrize("encoding", ["plain", "tk-instruct"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_texts_go_on_without_a_start(family: str, encoding: str) -> None:
    encoded = encoder(family, encoding=encoding)
    told = encoded.instruction("say it", SHOWN)
    both = encoded.concatenated("say it", SHOWN, "cat dog")
    assert [*told, *encoded.continuation("cat dog")] == both
    assert both.count(encoded.tokenizer.bos_token_id) == (1 if family in STARTS else 0)
    assert encoded.alone("cat dog") == encoded.input("cat dog")
    limit = len(encoded.continuation("cat dog")) + 9
    short = encoder(family, encoding=encoding, max_input_tokens=limit)
    with pytest.raises(InputError, match=f"expected at most {limit} tokens"):
        short.continuation("cat " * 60)
    cut = short.continuation("cat " * 60, truncate=True)
    assert limit - 3 <= len(cut) <= limit
    assert cut[-1] == encoded.continuation("cat dog")[-1]


def test_an_encoder_decoder_reads_all_inputs_alike() -> None:
    encoded = TextEncoder(tokenizer(), text_settings())
    assert encoded.continuation("w3 w5") == encoded.alone("w3 w5") == encoded.input("w3 w5")
    long = " ".join(["w3"] * 60)
    for read in (encoded.continuation, encoded.alone):
        assert read(long, truncate=True) == encoded.input(long, truncate=True)
