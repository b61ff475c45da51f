"""The wordings: inventories, held-out wordings, and no instruction that asks for two programs."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice, permutations

import pytest

from tagi.data.toy import (
    KINDS,
    Inventory,
    Program,
    all_programs,
    all_wordings,
    lexicon_words,
    train_programs,
    unseen_programs,
    wording,
    wording_words,
    wordings,
)
from tagi.data.toy.language import PHRASES, TEMPLATES
from tagi.errors import DataError

INVENTORIES: tuple[Inventory, ...] = ("train", "heldout")
TWO = Program(("food", "tool"), "small")
THREE = Program(("animal", "place", "person"), "kelvan")


def some_wordings(program: Program, inventory: Inventory = "train") -> Iterator[str]:
    """All for two kinds, every 17th for three: no number of choices is a multiple of 17."""
    return islice(all_wordings(program, inventory), 0, None, 1 if len(program.kinds) == 2 else 17)


def mentioned_in(text: str) -> tuple[str, ...]:
    """The kinds in the order in which an instruction mentions them."""
    return tuple(word for word in text.split() if word in KINDS)


def test_heldout_templates_and_phrases_are_never_used_in_training() -> None:
    assert len({*TEMPLATES["train"], *TEMPLATES["heldout"]}) == len(TEMPLATES["train"]) + len(TEMPLATES["heldout"])
    train = "\n".join(f" {text} " for program in all_programs() for text in some_wordings(program))
    for values in PHRASES.values():
        for phrases, heldout in values.values():
            assert heldout
            assert all(f" {phrase} " in train for phrase in phrases)
            assert not any(f" {phrase} " in train for phrase in heldout)


def test_heldout_wordings_use_only_words_of_training_wordings() -> None:
    assert wording_words("heldout") <= wording_words("train")
    words = {word for program in train_programs() for text in some_wordings(program) for word in text.split()}
    assert words == wording_words("train")
    for program in unseen_programs():
        assert {word for text in some_wordings(program, "heldout") for word in text.split()} <= words


def test_a_phrase_belongs_to_one_value() -> None:
    for values in PHRASES.values():
        phrases = [phrase for train, heldout in values.values() for phrase in (*train, *heldout)]
        assert len(set(phrases)) == len(phrases)


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (TWO, "take the food and the word for the tool and make each one small ."),
        (TWO, "look for the one that is a tool and the food . use the small forms ."),
        (THREE, "say each in kelvan . use only the animal , the word for the place and the person ."),
        (THREE, "find the person , the animal and the one that is a place , then translate each into kelvan ."),
    ],
)
def test_instructions_worded_by_hand(program: Program, text: str) -> None:
    assert [other for other in all_programs() if text in all_wordings(other)] == [program]


def test_no_wording_asks_for_two_programs_or_belongs_to_both_inventories() -> None:
    texts = [text for program in all_programs() for name in INVENTORIES for text in all_wordings(program, name)]
    assert len(texts) == 60 * (540 + 768) + 60 * (4860 + 9216)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_kinds_are_mentioned_once_each_in_every_order(inventory: Inventory) -> None:
    for program in all_programs():
        orders = {mentioned_in(text) for text in some_wordings(program, inventory)}
        assert orders == set(permutations(program.kinds))


@pytest.mark.parametrize("inventory", INVENTORIES)
@pytest.mark.parametrize("program", [TWO, THREE], ids=["two", "three"])
def test_no_order_of_mention_is_drawn_more_often(program: Program, inventory: Inventory) -> None:
    rng = random.Random(0)
    orders = Counter(mentioned_in(wording(program, rng, inventory)) for _ in range(3000))
    assert set(orders) == set(permutations(program.kinds))
    assert all(count == pytest.approx(3000 / len(orders), rel=0.2) for count in orders.values())


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_wordings_are_lower_case_sentences_of_12_to_31_words(inventory: Inventory) -> None:
    for program in all_programs():
        for text in some_wordings(program, inventory):
            assert text == " ".join(text.split()).lower()
            assert text.endswith(" .")
            assert 12 <= len(text.split()) <= 31


def test_instructions_hold_no_word_of_the_lexicon() -> None:
    assert not wording_words() & lexicon_words()


def test_wordings_are_different_and_repeatable() -> None:
    program = all_programs()[5]
    drawn = wordings(program, 40, seed=3)
    assert len(set(drawn)) == 40
    assert drawn == wordings(program, 40, seed=3)
    assert drawn[:7] == wordings(program, 7, seed=3)
    assert drawn != wordings(program, 40, seed=4)


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_wording_draws_from_all_of_its_inventory(inventory: Inventory) -> None:
    """All of them for two kinds; for three, 2000 draws that between them hold every phrase."""
    assert set(wordings(TWO, len(set(all_wordings(TWO, inventory))), 0, inventory)) == set(all_wordings(TWO, inventory))
    drawn = set(wordings(THREE, 2000, 0, inventory))
    assert drawn <= set(all_wordings(THREE, inventory))
    text = "\n".join(f" {one} " for one in drawn)
    values = [PHRASES["map"][THREE.mapping], *(PHRASES["kind"][kind] for kind in THREE.kinds)]
    for train, heldout in values:
        assert all(f" {phrase} " in text for phrase in train)
        assert all((f" {phrase} " in text) == (inventory == "heldout") for phrase in heldout)


@pytest.mark.parametrize(
    ("program", "inventory", "most"),
    [(TWO, "train", 540), (TWO, "heldout", 768), (THREE, "train", 4860), (THREE, "heldout", 9216)],
)
def test_impossible_number_of_wordings_is_refused(program: Program, inventory: Inventory, most: int) -> None:
    assert len(list(all_wordings(program, inventory))) == most
    for count in (-1, most + 1):
        with pytest.raises(DataError, match=rf"^expected 0 to {most} wordings of {program.name}, got {count}$"):
            wordings(program, count, 0, inventory)
