"""What rows of one template share is the template."""

import random

import pytest

from tagi.data.readers._shared_text import FIELD, merged_text, shared_text

WORDS = ["the", "of", "and", "in", "to", "a", "was", "one", "for", "it", "or", ".", ",", "?", "paris", "green", "runs"]


def field(rng: random.Random, words: int) -> str:
    """Text as long rows have it: the same few words again and again, no number of times."""
    return " ".join(rng.choices(WORDS, k=rng.randint(max(1, words // 2), words)))


def rows(template: str, words: int = 40, count: int = 70, seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        parts = template.split(FIELD)
        # A letter of its own at both ends of a field, so that no row begins or ends it as all others do.
        fields = [f"{chr(rng.randrange(945, 970))} {field(rng, words)} {rng.randrange(9999)}" for _ in parts[1:]]
        made.append("".join(part + text for part, text in zip(parts, [*fields, ""], strict=True)))
    return made


@pytest.mark.parametrize(
    "template",
    [
        "Question: [...]\nContext: [...]",
        "[...] \n\nWhich section would it be in? World, Sports",
        'Given "[...]", answer the question.\n\nQ: [...]\n\nA:',
        "[...]\nPick one:\n- [...]\n- [...]",
        "One of the [...]\nwith the sentence\n[...]\nthe same?",
        "Zähle\u2028die Wörter — [...] !",
    ],
)
@pytest.mark.parametrize("words", [6, 40, 400])
def test_the_template_comes_back(template: str, words: int) -> None:
    found = shared_text(rows(template, words))
    # A field before "\n- " twice: which of the two is which cannot be told.
    assert found == template.replace("[...]\n- [...]", "[...]")


def test_it_depends_on_the_rows_alone_and_neighbours_may_be_alike() -> None:
    made = rows("Read this: [...]\nAnswer: [...]", count=30)
    crowded = [row for row in made for _ in range(7)]
    assert shared_text(crowded) == shared_text(made) == "Read this: [...]\nAnswer: [...]"
    passage = [f"Passage: the very same passage\nQuestion: {number} why?" for number in range(48)]
    mixed = [*passage, *rows("Passage: [...]\nQuestion: [...]", count=100)]
    assert shared_text(mixed) == "Passage: [...]\nQuestion: [...]"


def test_a_run_counts_only_where_it_stands_once() -> None:
    # "Answer:" stands in every row, but not always once; in the same place it counts whatever else there is.
    often = [f"x{n} Answer: y{n} " + "Answer: " * (n % 3) + f"z{n}" for n in range(20)]
    assert shared_text(often) == ""
    ends = [f"Answer: {'Answer: ' * (n % 3)}{n} end" for n in range(20)]
    assert shared_text(ends) == "Answer: [...] end"
    # Once in each, but in one order here and in another there: one of the two at most.
    crossed = [f"a{n} first b{n} second c{n}" if n % 2 else f"a{n} second b{n} first c{n}" for n in range(20)]
    assert shared_text(crossed) == "[...] second [...]"


def test_tokens_are_whole_words() -> None:
    assert shared_text([f"{n}part {n} depart{n}" for n in range(20)]) == ""
    party = [f"a{n} big party b{n} part c{n}" if n % 2 else f"a{n} big part b{n}" for n in range(20)]
    assert shared_text(party) == "[...] big[...] part [...]"


def test_rows_that_share_no_word() -> None:
    assert shared_text([]) == shared_text(["one"]) == shared_text(["one"] * 9) == ""
    assert shared_text(["", "a"]) == shared_text(["ab", "cd"]) == ""
    assert shared_text([f"{n}\n\n{n * 7}?" for n in range(20)]) == ""
    assert shared_text([f"1 {n}" for n in range(20)]) == ""


def test_an_empty_field_and_the_separator_as_text() -> None:
    assert shared_text(["Say: ", "Say: x", "Say: \x1f y"]) == "Say: [...]"
    assert shared_text(["a\x1f\x1fb Title c", "d Title\x1fe"]) == "[...] Title [...]"


@pytest.mark.parametrize(
    ("texts", "merged"),
    [
        ([], ""),
        (["as it is."], "as it is."),
        (["the same", "the same"], "the same"),
        ([" because... ", " so... "], f" {FIELD}... "),
        (["it is a cause", "they are a cause"], f"{FIELD} a cause"),
        (["a", "b", "c"], FIELD),
        (["", "some words"], FIELD),
        (["1, 2", "3, 4"], FIELD),
        (["1 or 2?", "3 or 4?"], f"{FIELD} or {FIELD}?"),
    ],
)
def test_what_a_few_texts_share(texts: list[str], merged: str) -> None:
    assert merged_text(texts) == merged
