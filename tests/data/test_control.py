"""Control tokens written out in user text: they are ordinary text in every encoder and every role."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tagi.data.task import Example
from tagi.data.text.control import BREAK, UserTextTokenizer
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tests.models import text_settings

CORPUS = ["Definition: say it.\n\nInput: cat dog.\nOutput: cat dog", "say <it> im_start think cat dog -> dog"] * 9
LONG = {"max_instruction_tokens": 300, "max_input_tokens": 400, "max_target_tokens": 60}
CHAT = (
    "{% set thought = '<think>\n\n</think>\n\n' %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ thought }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + thought }}{% endif %}"
)


def byte_pairs() -> PreTrainedTokenizerFast:
    """Qwen's kind, with a start token before every text: `<think>` is an added token, but not a special one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|start|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|start|>", eos_token="<|im_end|>")
    made.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>", "   ")])
    made.chat_template = CHAT
    return made


def marking() -> PreTrainedTokenizerFast:
    """Llama's kind: the start of every text is marked as if a space stood before it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        [*CORPUS, "</|,_>"], trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def full_width() -> PreTrainedTokenizerFast:
    """A tokenizer whose normalization makes a control token of full-width brackets."""
    made = byte_pairs()
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    made.add_tokens([AddedToken("<tool>", normalized=True)])
    return made


@lru_cache
def t5(data_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(data_dir / "t5_tokenizer")


def encoder(make: Callable[[], Any], encoding: str, **changed: Any) -> CausalTextEncoder:
    return CausalTextEncoder(make(), text_settings(**{"encoding": encoding, "positives": 2, **LONG, **changed}))


def ids_of(tokenizer: Any) -> set[int]:
    known = {str(token) for token in tokenizer.added_tokens_decoder.values() if not str(token).isspace()}
    return set(tokenizer.convert_tokens_to_ids(sorted(known))) - {tokenizer.unk_token_id}


def texts(encoded: TextEncoder, marks: list[str]) -> dict[str, list[int]]:
    """All that an encoder makes of user text, with each mark where `{0}` and `{1}` stand."""
    told, asked = (text.format(*marks) for text in ("say {0} it {1}", "cat{1} {0}{0}"))
    shown = [Example(*(text.format(*marks) for text in ("{0} cat", "dog {1}")))]
    return {
        "instruction": encoded.instruction(told, shown),
        "input": encoded.input(asked),
        "both": encoded.concatenated(told, shown, asked),
        "target": encoded.target(asked),
        "demonstration": encoded.demonstration(shown[0]),
        "document": encoded.document(told),
    }


@pytest.mark.parametrize(
    ("make", "encoding", "marks"),
    [
        (byte_pairs, "plain", ["<|im_end|>", "<|im_start|>"]),
        (byte_pairs, "tk-instruct", ["<|start|>", "<<|im_end|>"]),
        (byte_pairs, "chat", ["<|im_end|>\n<|im_start|>", "<think>"]),
        (byte_pairs, "chat", ["</think>", "<|im_<|im_end|>end|>"]),
        (marking, "plain", ["</s>", "<s>"]),
        (marking, "tk-instruct", ["<s>", "<<s>s>"]),
        (full_width, "chat", ["\uff1ctool\uff1e", "\uff1cthink\uff1e<tool>"]),
    ],
)
def test_user_text_becomes_no_control_token(make: Any, encoding: str, marks: list[str]) -> None:
    text = encoder(make, encoding)
    control, harmless = ids_of(text.tokenizer), ["<", "|"]
    for role, ids in texts(text, marks).items():
        wanted = [token for token in texts(text, harmless)[role] if token in control]
        assert [token for token in ids if token in control] == wanted, role
        assert all(isinstance(token, int) for token in ids)


@pytest.mark.parametrize("encoding", ["plain", "tk-instruct"])
def test_user_text_becomes_no_control_token_of_t5(data_dir: Path, encoding: str) -> None:
    """`</s>` is also a piece of T5's vocabulary, and T5's normalization makes it of full-width brackets."""
    text = TextEncoder(t5(data_dir), text_settings(encoding=encoding, positives=2, **LONG))
    control, end = ids_of(text.tokenizer), text.tokenizer.eos_token_id
    for marks in (
        ["</s>", "<extra_id_7>"],
        ["<pad>", "\uff1c/s\uff1e"],
        ["<extra_id_99>", "<unk>"],
        ["</\x01s>", "\uff1cextra_id_3\uff1e"],
    ):
        for role, ids in texts(text, marks).items():
            closed = role not in ("demonstration", "document")
            assert [token for token in ids if token in control] == [end] * closed, (role, marks)
            assert ids[-1:] == [end] or not closed


def test_what_is_encoded_reads_as_the_text_that_was_given(data_dir: Path) -> None:
    """No space comes in where a control token is taken apart."""
    written = "say </s> it<|im_end|><think>, <s>cat"
    for make in (byte_pairs, marking):
        text = encoder(make, "plain")
        assert text.tokenizer.decode(text.document(written)) == written
        cue = text.encoding.cue.strip()
        shown = text.tokenizer.decode(text.input(written), skip_special_tokens=True)
        assert "".join(shown.split()) == "".join(written.split()) + cue
    text = TextEncoder(t5(data_dir), text_settings(**LONG))
    unknown = "<unk>"  # T5 has no "<"
    assert text.tokenizer.decode(text.document("say a</s> it</s>, cat")) == f"say a{unknown}/s> it{unknown}/s>, cat"


def test_text_without_control_tokens_is_tokenized_as_ever(data_dir: Path) -> None:
    plain = ["cat <b> dog", "a < b -> c", "say   it <|im", "\uff1cit\uff1e é", "", "im_end|>"]
    for tokenizer in (byte_pairs(), marking(), full_width(), t5(data_dir)):
        for added in (False, True):
            guarded = UserTextTokenizer(tokenizer, added=added)
            for text in plain:
                assert guarded.escape(text) == text
                for special in (False, True):
                    wanted = tokenizer(text, add_special_tokens=special)["input_ids"]
                    assert guarded(text, add_special_tokens=special)["input_ids"] == wanted


def test_added_tokens_are_control_tokens_of_a_chat_alone() -> None:
    think = byte_pairs().convert_tokens_to_ids("<think>")
    assert think in encoder(byte_pairs, "plain").input("cat <think> dog")
    assert encoder(byte_pairs, "chat").input("cat <think> dog").count(think) == 1
    assert encoder(byte_pairs, "chat").input("cat dog").count(think) == 1


def test_a_frame_is_the_templates_own_around_user_text_with_control_tokens() -> None:
    text = encoder(byte_pairs, "chat")
    found = text.concatenated("say <|im_end|>", (), "<|im_start|>cat")
    left = text.concatenated("say ", (), "cat")
    control = ids_of(text.tokenizer)
    assert [token for token in found if token in control] == [token for token in left if token in control]
    shown = text.tokenizer.decode(found)
    messages = [{"role": "system", "content": "say <|im_end|>"}, {"role": "user", "content": "<|im_start|>cat"}]
    assert shown == text.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("encoding", ["plain", "tk-instruct", "chat"])
@pytest.mark.parametrize("limit", range(58, 90))
def test_what_is_cut_becomes_no_control_token_either(encoding: str, limit: int) -> None:
    """Wherever the cut falls, also inside a control token; a prompt that is decoded and read again is escaped again."""
    text = encoder(byte_pairs, encoding, max_input_tokens=limit, max_instruction_tokens=limit, max_target_tokens=9)
    control = ids_of(text.tokenizer)
    long = "<|im_end|> <|im_start|>" * 40
    for cut, whole in (
        (text.input(long, truncate=True), text.input("cat")),
        (text.instruction(long, truncate=True), text.instruction("cat")),
        (text.concatenated("say it", (), long, truncate=True), text.concatenated("say it", (), "cat")),
        (text.target(long), text.target("cat")),
    ):
        assert len(cut) <= limit
        assert [token for token in cut if token in control] == [token for token in whole if token in control]


def test_answers_are_decoded_without_the_special_tokens_that_are_written() -> None:
    text = encoder(byte_pairs, "chat")
    ids = text.target("cat <|im_end|> dog")
    assert ids[-1] == text.tokenizer.eos_token_id
    assert text.decode(torch.tensor([ids])) == ["cat <|im_end|> dog"]
    assert text.choice_labels([["cat", "<|im_end|>"], ["dog"]]).shape[:2] == (2, 2)


def test_a_break_is_no_text() -> None:
    text = encoder(byte_pairs, "plain")
    assert text.document(f"ca{BREAK}t") == [*text.document("ca"), *text.document("t")]
    assert text.document(BREAK) == []


def test_a_text_asked_for_twice_in_a_row_is_tokenized_once() -> None:
    seen: list[tuple[str, Any]] = []
    tokens = UserTextTokenizer(byte_pairs())

    def counted(text: str, **given: Any) -> dict[str, list[int]]:
        seen.append((text, given))
        return {"input_ids": [len(text), len(given)]}

    tokens.tokenizer = counted
    first = tokens("abc")["input_ids"]
    first.append(7)  # what one caller does to its list is nothing to the next
    assert tokens("abc")["input_ids"] == [3, 0]
    assert tokens("abc", add_special_tokens=False)["input_ids"] == [3, 1]
    assert tokens("ab")["input_ids"] == [2, 0]
    assert [text for text, _ in seen] == ["abc", "abc", "ab"]
