"""Text for decoder-only models: prompts that stay open, targets that go on from them, padding on the left."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tagi.data.task import Example
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import ConfigError, InputError
from tests.causal_models import causal_tokenizer
from tests.models import text_settings, tokenizer, words

START, END, CUE = 0, 1, 3
CORPUS = [
    "Definition: say it.\n\nNow complete the following example -\nInput: cat dog.\nOutput: cat dog",
    "say it\ncat dog -> dog",
] * 9
LONG = {"max_instruction_tokens": 300, "max_input_tokens": 300, "max_target_tokens": 30}


@pytest.fixture
def text() -> CausalTextEncoder:
    """Limits: instruction 17, input 21, target 6 tokens."""
    return CausalTextEncoder(causal_tokenizer(), text_settings(positives=2))


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level pairs, a space begins its word's token, nothing before or after a text, no padding."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def marking_tokenizer() -> PreTrainedTokenizerFast:
    """Llama's kind: the start of every text is marked as if a space stood before it, spaces are part of words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_prompts_stay_open_and_targets_end(text: CausalTextEncoder) -> None:
    known = causal_tokenizer().get_vocab()
    ids = [known[word] for word in words(1, 3).split()]
    assert text.instruction(words(1, 3)) == [START, *ids]
    assert text.input(words(1, 3)) == text.input(f"{words(1, 3)} \n") == [START, *ids, CUE]
    assert text.target(words(1, 3)) == text.target(f" {words(1, 3)}\n") == [*ids, END]
    assert text.target("") == text.target(" ") == [END]
    assert text.target(words(1, 9)) == [*text.target(words(1, 5), truncate=False)[:5], END]
    with pytest.raises(InputError, match="expected at most 6 tokens, got 7: shorten the output"):
        text.target(words(1, 6), truncate=False)
    examples = [Example(words(4, 2), words(5, 1))]
    joined = text.concatenated(words(1, 3), examples, words(9, 4))
    assert joined == [*text.instruction(words(1, 3), examples), *text.input(words(9, 4))[1:]]


def test_a_tokenizer_that_closes_every_text_is_opened() -> None:
    text, closed = (kind(tokenizer(), text_settings()) for kind in (CausalTextEncoder, TextEncoder))
    unknown = tokenizer().unk_token_id
    assert text.instruction(words(1, 3)) == closed.instruction(words(1, 3))[:-1]
    assert text.input(words(1, 3)) == [*closed.input(words(1, 3))[:-1], unknown]
    assert text.target(words(1, 3)) == closed.target(words(1, 3))


@pytest.mark.parametrize("make", [bytes_tokenizer, marking_tokenizer])
@pytest.mark.parametrize("encoding", ["plain", "tk-instruct"])
def test_prompt_and_target_are_the_tokens_of_one_text(make: Any, encoding: str) -> None:
    """The space between them is the target's, as in all that a model was pretrained on."""
    known = make()
    text = CausalTextEncoder(known, text_settings(encoding=encoding, **LONG))
    prompt, target = text.concatenated("say it", (), "cat dog"), text.target("dog cat")
    written = {
        "plain": "say it\ncat dog ->",
        "tk-instruct": "Definition: say it.\n\nNow complete the following example -\nInput: cat dog.\nOutput:",
    }[encoding]
    assert prompt == known(written)["input_ids"]
    assert prompt + target == [*known(f"{written} dog cat")["input_ids"], known.eos_token_id]
    assert text.target("cat")[:-1] == known.convert_tokens_to_ids(["Ġcat" if make is bytes_tokenizer else "▁cat"])
    assert text.decode(torch.tensor([target])) == ["dog cat"]


@pytest.mark.parametrize("kind", ["instruction", "input", "concatenated"])
@pytest.mark.parametrize("make", [causal_tokenizer, tokenizer])
def test_a_limit_is_exact(kind: str, make: Any) -> None:
    text = CausalTextEncoder(make(), text_settings())
    special = (make is causal_tokenizer) + (kind != "instruction")

    def encode(count: int, truncate: bool) -> list[int]:
        """A prompt of `count` tokens."""
        count -= special
        if kind == "concatenated":
            return text.concatenated(words(1, 3), (), words(2, count - 3), truncate=truncate)
        return getattr(text, kind)(words(1, count), truncate=truncate)

    limit = 17 if kind == "instruction" else 21
    for truncate in (False, True):
        assert len(encode(limit, truncate)) == limit
    with pytest.raises(InputError, match=rf"expected at most {limit} tokens, got {limit + 1}"):
        encode(limit + 1, False)
    cut = encode(limit + 6, True)
    assert len(cut) == limit
    assert cut == encode(limit, False)


@pytest.mark.parametrize("make", [bytes_tokenizer, marking_tokenizer])
@pytest.mark.parametrize("over", range(4))
def test_a_prompt_that_is_cut_still_asks(make: Any, over: int) -> None:
    """Tk-Instruct's truncation loses the end of its prompt, which is where the answer belongs."""
    known = make()
    whole = CausalTextEncoder(known, text_settings(encoding="tk-instruct", **LONG))
    arguments = ("say it", (), "cat dog cat dog cat dog")
    full = whole.concatenated(*arguments)
    limit = len(full) - 3 * over - 1
    text = CausalTextEncoder(known, text_settings(encoding="tk-instruct", max_input_tokens=limit))
    cut = text.concatenated(*arguments, truncate=True)
    assert len(cut) <= limit
    assert known.decode(cut).endswith("\nOutput:")
    assert cut[: limit // 2] == full[: limit // 2]


def test_a_target_is_cut(text: CausalTextEncoder) -> None:
    assert text.target(words(1, 9)) == [*text.target(words(1, 5))[:5], END]
    assert len(text.target(words(1, 5))) == 6


@pytest.mark.parametrize("empty", ["", " ", "\n\t "])
def test_empty_texts_are_refused(text: CausalTextEncoder, empty: str) -> None:
    with pytest.raises(InputError, match="expected an input, got an empty text"):
        text.input(empty, truncate=True)
    with pytest.raises(InputError, match="expected an input, got an empty text"):
        text.concatenated("do", (), empty, truncate=True)


def test_prompts_are_padded_on_the_left_and_labels_on_the_right(text: CausalTextEncoder) -> None:
    ids, mask = text.batch([[5, 6, 1], [7], [8, 1]])
    assert ids.tolist() == [[5, 6, 1], [END, END, 7], [END, 8, 1]]
    assert mask.tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    assert text.labels([[5, 1], [1]]).tolist() == [[5, 1], [1, -100]]
    padded = CausalTextEncoder(tokenizer(), text_settings())
    assert padded.batch([[5, 6], [7]])[0].tolist() == [[5, 6], [0, 7]]
    assert causal_tokenizer().pad_token_id is None


def test_choices_end_too(text: CausalTextEncoder) -> None:
    labels = text.choice_labels([[words(1, 1)], [words(2, 2), ""]])
    assert labels[0].tolist() == [[*text.target(words(1, 1)), -100], [-100] * 3]
    assert labels[1].tolist() == [text.target(words(2, 2)), [END, -100, -100]]


def test_a_tokenizer_without_an_end_is_refused() -> None:
    class Plain:
        eos_token_id = None

    with pytest.raises(ConfigError, match="expected a tokenizer with an end-of-sequence token"):
        CausalTextEncoder(Plain(), text_settings())
