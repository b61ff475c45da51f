"""Text to token batches: limits, padding, labels."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from tagi.data.task import Example, Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.settings.text import TextSettings
from tests.models import text_settings, tokenizer, words

EOS, PAD = 1, 0


@pytest.fixture
def text() -> TextEncoder:
    """Limits: instruction 17, input 21, target 6 tokens."""
    return TextEncoder(tokenizer(), text_settings(positives=2))


def test_settings_travel_as_json() -> None:
    settings = text_settings(positives=1)
    assert TextSettings.from_dict(settings.as_dict()) == settings
    missing = {name: value for name, value in settings.as_dict().items() if name != "positives"}
    for wrong in (missing, {**settings.as_dict(), "positives2": 1}):
        with pytest.raises(CheckpointError, match="got a difference at 'positives"):
            TextSettings.from_dict(wrong)
    with pytest.raises(CheckpointError, match="expected an object, got 3"):
        TextSettings.from_dict(3)


def test_a_checkpoint_of_an_older_form_reads_instructions() -> None:
    settings = text_settings()
    assert "reads" not in settings.as_dict()
    assert TextSettings.from_dict(settings.as_dict()).reads == "instruction"
    other = text_settings(reads="demonstrations")
    assert other.as_dict() == {**settings.as_dict(), "reads": "demonstrations"}
    assert TextSettings.from_dict(other.as_dict()) == other
    with pytest.raises(CheckpointError, match="or 'nothing', got 'minds'"):
        TextSettings.from_dict({**settings.as_dict(), "reads": "minds"})


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'chat'"):
        TextEncoder(tokenizer(), text_settings(encoding="chat"))
    with pytest.raises(CheckpointError, match="encoding: expected 'tk-instruct', 'plain' or 'chat', got 'prose'"):
        TextSettings.from_dict({**text_settings().as_dict(), "encoding": "prose"})


def test_everything_ends_with_the_end(text: TextEncoder) -> None:
    known = tokenizer().get_vocab()
    for ids in (text.instruction(words(1, 3)), text.input(words(1, 3)), text.target(words(1, 3))):
        assert ids == [*(known[word] for word in words(1, 3).split()), EOS]
    examples = [Example(words(4, 2), words(5, 1)), Example(words(6, 2), words(7, 1)), Example("no", "no")]
    with_examples = text.instruction(words(1, 3), examples)
    assert len(with_examples) == 3 + 2 * (2 + 1 + 1) + 1
    assert text.concatenated(words(1, 3), examples, words(9, 4)) == [
        *with_examples[:-1],
        *text.input(words(9, 4)),
    ]


@pytest.mark.parametrize("kind", ["instruction", "input", "concatenated"])
def test_a_limit_is_exact(text: TextEncoder, kind: str) -> None:
    def encode(count: int, truncate: bool) -> list[int]:
        if kind == "concatenated":
            return text.concatenated(words(1, 3), (), words(2, count - 3), truncate=truncate)
        return getattr(text, kind)(words(1, count), truncate=truncate)

    limit = 17 if kind == "instruction" else 21
    for truncate in (False, True):
        assert len(encode(limit - 1, truncate)) == limit
    with pytest.raises(InputError, match=rf"expected at most {limit} tokens, got {limit + 1}"):
        encode(limit, False)
    cut = encode(limit + 5, True)
    assert len(cut) <= limit
    assert cut[-1] == EOS
    assert cut[: limit - 2] == encode(limit - 1, False)[: limit - 2]


def test_a_target_is_cut(text: TextEncoder) -> None:
    assert text.target(words(1, 9)) == [*text.target(words(1, 5))[:5], EOS]
    assert len(text.target(words(1, 5), truncate=False)) == 6
    with pytest.raises(InputError, match="expected at most 6 tokens, got 7: shorten the output"):
        text.target(words(1, 6), truncate=False)


def test_a_tokenizer_without_an_end_is_cut_at_the_limit() -> None:
    class Plain:
        eos_token_id = None

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(word) for word in text.split()]}

    text = TextEncoder(Plain(), text_settings())
    assert text.target("a bb ccc dddd e ff ggg") == [1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize("empty", ["", " ", "\n\t "])
def test_empty_texts_are_refused(text: TextEncoder, empty: str) -> None:
    with pytest.raises(InputError, match="expected an instruction, got an empty text"):
        text.instruction(empty, truncate=True)
    with pytest.raises(InputError, match="expected an input, got an empty text"):
        text.input(empty, truncate=True)
    with pytest.raises(InputError, match="expected an input, got an empty text"):
        text.concatenated("do", (), empty, truncate=True)


def test_batches_are_padded_on_the_right(text: TextEncoder) -> None:
    ids, mask = text.batch([[5, 6, 1], [7], [8, 1]])
    assert ids.tolist() == [[5, 6, 1], [7, PAD, PAD], [8, 1, PAD]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)
    assert text.labels([[5, 1], [1]]).tolist() == [[5, 1], [1, -100]]


def test_choices_fill_up_with_nothing(text: TextEncoder) -> None:
    one, two = words(1, 1), words(2, 2)
    labels = text.choice_labels([[one], [two, one, ""]])
    assert labels.shape == (2, 3, 3)
    assert labels[0].tolist() == [[*text.target(one), -100], [-100] * 3, [-100] * 3]
    assert labels[1].tolist() == [text.target(two), [*text.target(one), -100], [EOS, -100, -100]]


def test_answers_are_text(text: TextEncoder) -> None:
    ids = torch.tensor([[PAD, *text.target(words(1, 2)), PAD], [PAD, 3, *text.target(words(3, 1)), PAD]])
    assert text.decode(ids) == [words(1, 2), words(3, 1)]


def test_two_threads_may_encode_with_different_limits(text: TextEncoder) -> None:
    """A fast tokenizer keeps its truncation as state and refuses to change it while another thread reads."""
    long = words(1, 400)
    wanted = {"input": text.input(long, truncate=True), "target": text.target(long)}
    faults: list[object] = []

    def encode(kind: str) -> None:
        try:
            for _ in range(60):
                found = text.target(long) if kind == "target" else text.input(long, truncate=True)
                if found != wanted[kind]:
                    faults.append(found)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=encode, args=(kind,)) for kind in ("input", "target") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []


def test_an_instruction_without_words_is_its_frame() -> None:
    assert TextEncoder(tokenizer(), text_settings()).empty_instruction() == [EOS]
    framed = TextEncoder(tokenizer(), text_settings(encoding="tk-instruct"))
    assert framed.encoding.frame() == "Definition: .\n\n"
    assert framed.empty_instruction() == tokenizer()("Definition: .")["input_ids"]
    for encoder in (TextEncoder(tokenizer(), text_settings()), framed):  # not for what a user gives
        with pytest.raises(InputError, match="got an empty text"):
            encoder.instruction("  ")


def test_an_instruction_without_words_is_never_without_tokens() -> None:
    class NoEnd:
        eos_token_id = 7

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [9] * len(text.split())}

    assert TextEncoder(NoEnd(), text_settings()).empty_instruction() == [7]


FIRST, SECOND = Example(words(4, 2), words(5, 1)), Example(words(6, 3), words(7, 2))


def shown_by(positives: int = 0, **changed: Any) -> TextEncoder:
    return TextEncoder(tokenizer(), text_settings(reads="demonstrations", positives=positives, **changed))


def test_demonstrations_in_the_instructions_place() -> None:
    """Marks of three words each stand before input and output; no word of the instruction is read."""
    known = tokenizer().get_vocab()
    mark = [known["<unk>"]] * 3
    ids = {
        text: [known[word] for word in text.split()] for text in (words(4, 2), words(5, 1), words(6, 3), words(7, 2))
    }
    first = [*mark, *ids[words(4, 2)], *mark, *ids[words(5, 1)]]
    second = [*mark, *ids[words(6, 3)], *mark, *ids[words(7, 2)]]
    task = Task("t", "c", words(1, 3), (), (FIRST,), shots=(SECOND,))
    assert shown_by().of_task(task) == [*second, EOS]
    assert shown_by(1).of_task(task) == [*first, EOS]
    both = replace(task, examples=(FIRST, SECOND))
    assert shown_by(1).of_task(both) == [*first, EOS]
    assert shown_by(2, max_instruction_tokens=21).of_task(both) == [*first, *second, EOS]
    assert shown_by(2, max_instruction_tokens=20).of_task(both) == [*first, EOS]
    assert TextEncoder(tokenizer(), text_settings(positives=1)).of_task(task)[:3] == ids_of(words(1, 3))
    assert shown_by().demonstration(SECOND) == second
    cut = shown_by(max_input_tokens=2, max_target_tokens=1).demonstration(SECOND)
    assert cut == [*mark, *ids[words(6, 3)][:2], *mark, *ids[words(7, 2)][:1]]
    assert shown_by().empty_instruction() == [EOS]


def ids_of(text: str) -> list[int]:
    return [tokenizer().get_vocab()[word] for word in text.split()]


def test_tk_instructs_own_form_of_demonstrations() -> None:
    encoding = TextEncoder(tokenizer(), text_settings(encoding="tk-instruct", reads="demonstrations")).encoding
    assert encoding.demonstrations([Example(" in ", "out"), Example("a.", "b!")]) == (
        "Positive Example 1 -\nInput: in.\n Output: out.\n\n Positive Example 2 -\nInput: a.\n Output: b!"
    )


def test_no_demonstrations_and_too_long_ones() -> None:
    for task in (Task("bare", "c", words(1, 3), ()), Task("bare", "c", words(1, 3), (), (FIRST,))):
        with pytest.raises(InputError, match=r"^bare: expected demonstrations, .* got none$"):
            shown_by().of_task(task, truncate=True)
    long = Task("long", "c", "", (), shots=(Example(words(8, 30), words(9, 1)), FIRST))
    with pytest.raises(InputError, match=r"^long: expected at most 17 tokens, got 38: shorten the demonstration"):
        shown_by().of_task(long)
    cut = shown_by().of_task(long, truncate=True)
    assert cut == [*shown_by().demonstration(long.shots[0])[:16], EOS]
