"""Text piece by piece: whole characters, never a part of a stop string, the same text in the end."""

from typing import Any

import pytest

from tagi.serving.answers import Answer, TextStream
from tagi.serving.protocol import Piece, Sampling
from tests.causal_models import causal_tokenizer
from tests.data.test_causal_text import bytes_tokenizer, marking_tokenizer

TEXTS = [
    "say it cat dog",
    "café 😀😀 naïve",
    "你好, world",
    "two  spaces\n\n and lines ",
]


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def given(text: str, *, end: bool = True, top: tuple[tuple[int, float], ...] = (), **sampling: Any) -> list[Piece]:
    """The pieces of an answer of these characters' tokens, to its end."""
    tokenizer = bytes_tokenizer()
    ids = [*tokens_of(tokenizer, text), *([tokenizer.eos_token_id] if end else [])]
    answer = Answer(tokenizer, Sampling(**{"max_tokens": 99, **sampling}), [tokenizer.eos_token_id], 12, 5)
    found = []
    for token in ids:
        piece = answer.add(token, -0.5, top)
        found += [] if piece is None else [piece]
        if piece is not None and piece.finish is not None:
            break
    return found


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [bytes_tokenizer, marking_tokenizer])
def test_the_pieces_are_the_text_in_whole_characters(make: Any, text: str) -> None:
    tokenizer = make()
    stream, ids = TextStream(tokenizer), tokens_of(tokenizer, text)
    parts = [stream.add(token) for token in ids]
    assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in part for part in parts)
    assert sum(part != "" for part in parts) > 1


def test_words_and_special_tokens() -> None:
    tokenizer = causal_tokenizer()
    stream, ids = TextStream(tokenizer), tokens_of(tokenizer, "w1 w2 </s> w3")
    assert [stream.add(token) for token in ids] == ["w1", " w2", "", " w3"]


def test_half_a_character_at_the_end_is_not_given() -> None:
    ids = tokens_of(bytes_tokenizer(), "é😀")
    assert len(ids) == 6
    pieces = given("é😀", max_tokens=5)
    assert "".join(piece.text for piece in pieces) == "é"
    assert (pieces[-1].finish, pieces[-1].generated_tokens) == ("length", 5)


def test_the_last_piece_counts_tokens() -> None:
    *others, last = given("cat dog")
    assert (last.finish, last.prompt_tokens, last.cached_tokens) == ("stop", 12, 5)
    assert last.generated_tokens == len(tokens_of(bytes_tokenizer(), "cat dog")) + 1
    assert all(piece.finish is None and piece.generated_tokens == 0 for piece in others)


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one stop two", ("stop",), "one "),
        ("one stop two", ("p tw", "stop"), "one "),
        ("one stop two", ("two", "op"), "one st"),
        ("aab", ("ab",), "a"),
        ("one sto", ("stop",), "one sto"),
        ("one stXstopX", ("stop",), "one stX"),
        ("stop", ("stop",), ""),
        ("a😀b😀c", ("b😀",), "a😀"),
        ("one two", ("",), "one two"),
        ("one two", ("three", "four"), "one two"),
    ],
)
def test_an_answer_ends_before_a_stop_string(text: str, stop: tuple[str, ...], wanted: str) -> None:
    """What may become a stop string is held back, and comes when it does not."""
    pieces = given(text, stop=stop)
    assert "".join(piece.text for piece in pieces) == wanted
    assert pieces[-1].finish == "stop"
    for piece in pieces[:-1]:
        assert piece.text
    sent = ""
    for piece in pieces:
        sent += piece.text
        assert wanted.startswith(sent)


def test_text_that_is_no_stop_string_is_not_held_back() -> None:
    assert next(piece.text for piece in given("x y", stop=("q",))) == "x"


def test_tokens_come_with_their_text_and_those_of_a_stop_string_do_not() -> None:
    top = ((3, -0.1), (4, -2.0))
    plain = given("xyé", logprobs=2, top=top)
    assert [[token.text for token in piece.tokens] for piece in plain][:2] == [["x"], ["y"]]
    assert sum(len(piece.tokens) for piece in plain) == 4
    token, tokenizer = plain[0].tokens[0], bytes_tokenizer()
    assert token.logprob == -0.5
    assert token.top == ((tokenizer.decode([3]), -0.1), (tokenizer.decode([4]), -2.0))
    stopped = given("xyqrz", logprobs=0, stop=("qr",))
    assert "".join(token.text for piece in stopped for token in piece.tokens) == "xy"
    released = given("xyqz", logprobs=0, stop=("qr",))
    assert ["".join(token.text for token in piece.tokens) for piece in released] == ["x", "y", "qz", ""]
    assert not any(piece.tokens for piece in given("xy"))
