import string

import pytest

from tagi.data.task import Example
from tagi.data.text.encoding import Budget, Encoding, PlainEncoding, TkInstructEncoding, encoding_from_name
from tagi.errors import ConfigError, InputError

EXAMPLES = (Example(" a b ", " two\n"), Example("c?", "one!"), Example("d e f", "three"))


class WordTokenizer:
    """Words as tokens, and one closing token; a decoded text has single spaces."""

    def __init__(self):
        self.words = ["</s>"]

    def __call__(self, text):
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return {"input_ids": [self.words.index(word) for word in text.split()] + [0]}

    def decode(self, token_ids, *, skip_special_tokens=False):
        return " ".join(self.words[i] for i in token_ids if i or not skip_special_tokens)


@pytest.fixture
def words():
    return WordTokenizer()


def length(text):
    return len(text.split()) + 1


def test_tk_instruct_without_examples():
    encoding = TkInstructEncoding()
    assert encoding.instruction(" Count the words", EXAMPLES) == "Definition: Count the words.\n\n"
    assert encoding.input("  x y\n") == "Now complete the following example -\nInput: x y.\nOutput: "


def test_tk_instruct_with_examples():
    assert TkInstructEncoding(2).instruction("Count:", EXAMPLES) == (
        "Definition: Count:\n\n"
        " Positive Example 1 -\nInput: a b.\n Output: two.\n\n"
        " Positive Example 2 -\nInput: c?\n Output: one!\n\n"
    )


def test_every_ascii_punctuation_closes_a_text_and_nothing_else_does():
    encoding = TkInstructEncoding()
    for mark in string.punctuation:
        assert encoding.input("x" + mark) == f"Now complete the following example -\nInput: x{mark}\nOutput: "
    for other in "a1。…é":
        assert encoding.input("x" + other).endswith(f"x{other}.\nOutput: ")
    assert encoding.input("").endswith("Input: .\nOutput: ")


def test_plain():
    encoding = PlainEncoding(2)
    assert encoding.instruction(" Count. ", EXAMPLES) == "Count.\na b -> two\nc? -> one!"
    assert encoding.input(" x y") == " x y"
    assert encoding.concatenated("Count.", EXAMPLES[:1], "x") == "Count.\na b -> two\nx"


@pytest.mark.parametrize("encoding", [TkInstructEncoding(2), PlainEncoding(2), TkInstructEncoding(), PlainEncoding(9)])
def test_both_parts_make_the_whole(encoding):
    whole = encoding.concatenated("Count", EXAMPLES, "x y")
    assert whole == encoding.instruction("Count", EXAMPLES) + encoding.separator + encoding.input("x y")


def test_an_example_over_the_limit_is_left_out_and_those_after_it(words):
    encoding = PlainEncoding(3)
    examples = (Example("a", "1"), Example("b c d e", "2"), Example("f", "3"))
    limited = [encoding.instruction("Do it.", examples, budget=Budget(words, n)) for n in (3, 5, 6, 11, 12, 15)]
    shown = [text.split("\n")[1:] for text in limited]
    lines = ["a -> 1", "b c d e -> 2", "f -> 3"]
    assert shown == [[], [], lines[:1], lines[:1], lines[:2], lines]


@pytest.mark.parametrize("encoding", [TkInstructEncoding(3), PlainEncoding(3)])
def test_the_limit_is_for_both_parts_when_they_are_concatenated(encoding, words):
    def examples_in(limit):
        text = encoding.concatenated("Do it.", EXAMPLES, "one two three four", budget=Budget(words, limit))
        assert length(text) <= limit
        return text.count("two") - 1

    alone = length(encoding.concatenated("Do it.", (), "one two three four"))
    one = length(encoding.concatenated("Do it.", EXAMPLES[:1], "one two three four"))
    assert [examples_in(limit) for limit in (alone, one - 1, one)] == [0, 0, 1]
    # The same limit leaves room for more in the instruction alone.
    assert length(encoding.instruction("Do it.", EXAMPLES, budget=Budget(words, one))) > length(
        encoding.instruction("Do it.", EXAMPLES[:1])
    )


@pytest.mark.parametrize("encoding", [TkInstructEncoding(), PlainEncoding()])
def test_an_instruction_over_the_limit(encoding, words):
    text = "one two three four five six seven eight."
    tokens = length(encoding.instruction(text))
    assert encoding.instruction(text, budget=Budget(words, tokens)) == encoding.instruction(text)
    with pytest.raises(
        InputError, match=f"expected at most {tokens - 1} tokens, got {tokens}: shorten the instruction"
    ):
        encoding.instruction(text, budget=Budget(words, tokens - 1))
    for limit in range(tokens - 6, tokens):
        cut = encoding.instruction(text, EXAMPLES, budget=Budget(words, limit, truncate=True))
        assert length(cut) == limit
        assert encoding.instruction(text).startswith(cut.rstrip().rstrip("."))


@pytest.mark.parametrize("encoding", [TkInstructEncoding(), PlainEncoding()])
def test_an_input_over_the_limit_keeps_its_frame(encoding, words):
    text = "one two three four five six seven eight"
    tokens = length(encoding.input(text))
    assert encoding.input(text, budget=Budget(words, tokens)) == encoding.input(text)
    with pytest.raises(InputError, match=f"expected at most {tokens - 2} tokens, got {tokens}: shorten the input"):
        encoding.input(text, budget=Budget(words, tokens - 2))
    assert encoding.input(text, budget=Budget(words, tokens - 3, truncate=True)) == encoding.input(text[:23])


def test_no_room_at_all(words):
    with pytest.raises(InputError, match="a limit of 4 tokens leaves no room"):
        TkInstructEncoding().input("some text", budget=Budget(words, 4, truncate=True))
    with pytest.raises(InputError, match="a limit of 1 tokens leaves no room"):
        PlainEncoding().instruction("some text", budget=Budget(words, 1, truncate=True))


@pytest.mark.parametrize("encoding", [TkInstructEncoding(1), PlainEncoding(1)])
def test_a_prompt_over_the_limit(encoding, words):
    whole = encoding.concatenated("Do it.", (), "one two three")
    tokens = length(whole)
    assert encoding.concatenated("Do it.", EXAMPLES, "one two three", budget=Budget(words, tokens)) == whole
    with pytest.raises(
        InputError, match=f"expected at most {tokens - 1} tokens, got {tokens}: shorten the instruction and"
    ):
        encoding.concatenated("Do it.", EXAMPLES, "one two three", budget=Budget(words, tokens - 1))
    cut = encoding.concatenated("Do it.", EXAMPLES, "one two three", budget=Budget(words, tokens - 3, truncate=True))
    assert cut.split() == whole.split()[: tokens - 3]


def test_an_empty_instruction(words):
    for encoding in (TkInstructEncoding(2), PlainEncoding()):
        with pytest.raises(InputError, match="expected an instruction, got an empty text"):
            encoding.instruction(" \n")
        with pytest.raises(InputError, match="expected an instruction, got an empty text"):
            encoding.concatenated("", (), "x", budget=Budget(words, 40))


def test_encodings_by_name():
    assert encoding_from_name("tk-instruct", 2) == TkInstructEncoding(2)
    assert encoding_from_name("plain") == PlainEncoding(0) != TkInstructEncoding(0)
    assert isinstance(encoding_from_name("plain"), Encoding)
    with pytest.raises(ConfigError, match="expected 'tk-instruct' or 'plain', got 'chat'"):
        encoding_from_name("chat", 2)
    with pytest.raises(ConfigError, match="expected 0 or more positive examples, got -1"):
        encoding_from_name("plain", -1)
