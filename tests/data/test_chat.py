"""Chat templates as an encoding: what the template makes of a prompt, token by token, in two parts."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tagi.data.task import Example
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import ConfigError, InputError
from tests.causal_models import causal_tokenizer
from tests.data.test_causal_text import LONG, bytes_tokenizer, marking_tokenizer
from tests.models import text_settings

TURNS = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|over|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
"""A system's message has a turn of its own (ChatML)."""
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
HEADED = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + "
    "'<|over|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
"""Llama 3's kind."""
ZEPHYR = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + '<|over|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
"""No special token but the end."""
INST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ '[INST] ' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + '<|over|>' }}"
    "{% endif %}{% endfor %}"
)
"""Nothing special between instruction and input."""
TEMPLATES = {"turns": TURNS, "no system": NO_SYSTEM, "headed": HEADED, "zephyr": ZEPHYR, "inst": INST}
SHOWN = (Example("cat", "dog"), Example("dog", "cat"))


def chatty(template: str | None, make: Any = bytes_tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = make()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|turn|>", "<|over|>", "<|begin|>", "<|head|>", "<|/head|>"]}
    )
    tokenizer.chat_template = template
    return tokenizer


def encoder(template: str | None, make: Any = bytes_tokenizer, **changed: Any) -> CausalTextEncoder:
    settings = text_settings(**{"encoding": "chat", "positives": 2, **LONG, **changed})
    return CausalTextEncoder(chatty(template, make), settings)


def messages(template: str, instruction: str, text: str) -> list[dict[str, str]]:
    if template == "no system":
        return [{"role": "user", "content": f"{instruction}\n\n{text}"}]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]


@pytest.mark.parametrize("make", [bytes_tokenizer, marking_tokenizer])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_the_template_makes(name: str, make: Any) -> None:
    text = encoder(TEMPLATES[name], make)
    wanted = text.tokenizer.apply_chat_template(messages(name, "say it", "cat dog"), add_generation_prompt=True)
    found = text.concatenated("say it", (), "cat dog")
    assert found == wanted["input_ids"]
    answered = [*messages(name, "say it", "cat dog"), {"role": "assistant", "content": "dog cat"}]
    whole = text.tokenizer.apply_chat_template(answered)["input_ids"]
    target = text.target(" dog cat ")
    assert [*found, *target] == whole[: len(found) + len(target)]
    over = text.tokenizer.convert_tokens_to_ids("<|over|>")
    assert target[-1] == over
    assert text.target("") == [over]
    assert text.decode(torch.tensor([target])) == ["dog cat"]


@pytest.mark.parametrize("name", ["turns", "headed", "zephyr"])
@pytest.mark.parametrize("instruction", ["say it", "say it.", "say it:\n", "9"])
@pytest.mark.parametrize("given", ["cat dog", ".cat", "\n\n9"])
def test_a_prompt_parts_at_a_special_token(name: str, instruction: str, given: str) -> None:
    text = encoder(TEMPLATES[name])
    told, rest = text.instruction(instruction, SHOWN), text.input(given)
    assert [*told, *rest] == text.concatenated(instruction, SHOWN, given)
    assert text.tokenizer.decode(told).count("Input: ") == 2
    assert text.tokenizer.convert_tokens_to_ids("<|over|>") in told[-2:]
    assert "user" in text.tokenizer.decode(rest)
    assert text.tokenizer.decode(rest).endswith(text.encoding.cue)


def test_a_tokenizer_may_join_instruction_and_input() -> None:
    """It joins what ends the instruction with what starts the rest where it has seen that in its corpus."""

    def parts(text: CausalTextEncoder, given: str) -> bool:
        told = text.instruction("say it", ())
        return text.concatenated("say it", (), given)[: len(told)] == told

    for template in (INST, TURNS):
        assert parts(encoder(template), "cat dog")
    assert not parts(encoder(INST.replace("\n\n", "\n"), marking_tokenizer), "cat dog -> dog")


def test_prompts_of_other_encodings_start_with_their_instruction() -> None:
    text = CausalTextEncoder(bytes_tokenizer(), text_settings(encoding="tk-instruct", positives=2, **LONG))
    told, whole = text.instruction("say it", SHOWN), text.concatenated("say it", SHOWN, "cat dog")
    assert whole[: len(told)] == told
    fewer = {**LONG, "max_input_tokens": len(whole) - 1}
    short = CausalTextEncoder(bytes_tokenizer(), text_settings(encoding="tk-instruct", positives=2, **fewer))
    assert len(short.concatenated("say it", SHOWN, "cat dog")) < len(told)


@pytest.mark.parametrize("over", range(1, 9))
def test_a_chat_that_is_cut_is_a_whole_chat(over: int) -> None:
    whole = encoder(TURNS)
    arguments = ("say it", (), "cat " * 12 + "dog")
    full = whole.concatenated(*arguments)
    text = encoder(TURNS, max_input_tokens=len(full) - over)
    with pytest.raises(InputError, match=f"expected at most {len(full) - over} tokens, got {len(full)}"):
        text.concatenated(*arguments)
    cut = text.concatenated(*arguments, truncate=True)
    assert len(full) - over - 2 <= len(cut) <= len(full) - over
    shown = text.tokenizer.decode(cut)
    assert shown.startswith("<|turn|>system\nsay it<|over|>\n<|turn|>user\ncat")
    assert shown.endswith("<|over|>\n<|turn|>assistant\n")


@pytest.mark.parametrize("asked", ["cat dog", "cat " * 60 + "dog"])
def test_a_long_instruction_leaves_an_input_half_of_the_limit(asked: str) -> None:
    told, whole = "say it " * 60 + "now", encoder(TURNS)
    limit = 117
    assert len(whole.instruction(told, ())) > limit
    text = encoder(TURNS, max_input_tokens=limit)
    cut = text.concatenated(told, SHOWN, asked, truncate=True)
    assert limit - 4 <= len(cut) <= limit
    shown = text.tokenizer.decode(cut)
    head, tail = shown.split("<|turn|>user\n")
    assert head.startswith("<|turn|>system\nsay it say it")
    assert head.endswith("<|over|>\n")
    assert tail.startswith("cat ")
    assert tail.endswith("<|over|>\n<|turn|>assistant\n")
    kept, given = tail.removesuffix("<|over|>\n<|turn|>assistant\n"), head[len("<|turn|>system\n") : -len("<|over|>\n")]
    if asked == "cat dog":
        assert kept == asked
    else:
        lengths = [len(text.tokenizer(part)["input_ids"]) for part in (kept, given)]
        assert abs(lengths[0] - lengths[1]) <= 4
        assert min(lengths) > 20


def test_an_example_without_room_is_left_out() -> None:
    whole = encoder(TURNS)
    one, two = (whole.concatenated("say it", SHOWN[:count], "cat") for count in (1, 2))
    for truncate in (False, True):
        text = encoder(TURNS, max_input_tokens=len(two) - 1)
        assert text.concatenated("say it", SHOWN, "cat", truncate=truncate) == one
        text = encoder(TURNS, max_instruction_tokens=len(whole.instruction("say it", SHOWN)) - 1)
        assert text.instruction("say it", SHOWN, truncate=truncate) == whole.instruction("say it", SHOWN[:1])


def test_an_instruction_that_says_nothing_is_a_frame() -> None:
    text = encoder(TURNS)
    assert text.tokenizer.decode(text.empty_instruction()) == "<|turn|>system\n<|over|>\n"


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (None, "expected a tokenizer with a chat template"),
        ("always the same", "expected a chat template that shows instruction, input and answer once each"),
        ("{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}", "in this order"),
        ("{{ messages[0]['content'] }} {{ messages | length }}", "once each"),
        ("{% for m in messages %}{{ m['content'] ~ m['content'] }}{% endfor %}", "once each"),
    ],
)
def test_what_is_no_chat_is_refused(template: str | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        encoder(template)
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_has_no_chat() -> None:
    with pytest.raises(ConfigError, match="expected 'tk-instruct' or 'plain', got 'chat'"):
        TextEncoder(chatty(TURNS), text_settings(encoding="chat"))
    assert causal_tokenizer().chat_template is None
