"""The wordings: inventories, held-out wordings, and no instruction that asks for two programs."""

import random
from collections import Counter
from functools import cache
from itertools import permutations

import pytest

from tagi.data.toy.language import PHRASES, TEMPLATES, Inventory, wording, wording_words, wordings
from tagi.data.toy.lexicon import KINDS, lexicon_words
from tagi.data.toy.programs import Program, all_programs, train_programs, unseen_programs
from tagi.errors import DataError
from tests.data.toy.reading import INVENTORIES, all_wordings, programs_asked_for

TWO = Program(("food", "tool"), "small")
THREE = Program(("animal", "place", "person"), "kelvan")


@cache
def some_wordings(program: Program, inventory: Inventory = "train") -> tuple[str, ...]:
    """All for two kinds, 120 drawn for three."""
    if len(program.kinds) == 2:
        return tuple(all_wordings(program, inventory))
    return wordings(program, 120, 0, inventory)


def mentioned_in(text: str) -> tuple[str, ...]:
    """The kinds in the order in which an instruction mentions them."""
    return tuple(word for word in text.split() if word in KINDS)


def test_heldout_templates_and_phrases_are_never_used_in_training() -> None:
    assert len({*TEMPLATES["train"], *TEMPLATES["heldout"]}) == len(TEMPLATES["train"]) + len(TEMPLATES["heldout"])
    train = "\n".join(f" {text} " for program in all_programs() for text in some_wordings(program))
    for values in PHRASES.values():
        for phrases in values.values():
            assert phrases["heldout"]
            assert all(f" {phrase} " in train for phrase in phrases["train"])
            assert not any(f" {phrase} " in train for phrase in phrases["heldout"])


def test_heldout_wordings_use_only_words_of_training_wordings() -> None:
    assert wording_words("heldout") <= wording_words("train")
    words = {word for program in train_programs() for text in some_wordings(program) for word in text.split()}
    assert words == wording_words("train")
    for program in unseen_programs():
        assert {word for text in some_wordings(program, "heldout") for word in text.split()} <= words


def test_a_phrase_belongs_to_one_value() -> None:
    for values in PHRASES.values():
        phrases = [phrase for own in values.values() for phrase in (*own["train"], *own["heldout"])]
        assert len(set(phrases)) == len(phrases)


def test_no_phrase_holds_what_templates_put_between_phrases() -> None:
    """So that an instruction can be taken apart in one way alone."""
    for values in PHRASES.values():
        for phrases in values.values():
            assert {",", ".", "and"}.isdisjoint(" ".join((*phrases["train"], *phrases["heldout"])).split())


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
    assert text in set(all_wordings(program))
    assert programs_asked_for(text) == {program}


def test_no_wording_asks_for_two_programs_or_belongs_to_both_inventories() -> None:
    for program in all_programs():
        for text in some_wordings(program):
            assert programs_asked_for(text) == {program}
            assert not programs_asked_for(text, "heldout")
        for text in some_wordings(program, "heldout"):
            assert programs_asked_for(text, "heldout") == {program}
            assert not programs_asked_for(text)


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
    draw_examples = wordings(program, 40, seed=3)
    assert len(set(draw_examples)) == 40
    assert draw_examples == wordings(program, 40, seed=3)
    assert draw_examples[:7] == wordings(program, 7, seed=3)
    assert draw_examples != wordings(program, 40, seed=4)


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_wording_draws_from_all_of_its_inventory(inventory: Inventory) -> None:
    """All of them for two kinds; for three, 2000 draws that between them hold every phrase."""
    available = set(all_wordings(TWO, inventory))
    assert set(wordings(TWO, len(available), 0, inventory)) == available
    draw_examples = set(wordings(THREE, 2000, 0, inventory))
    assert draw_examples <= set(all_wordings(THREE, inventory))
    text = "\n".join(f" {one} " for one in draw_examples)
    values = [PHRASES["map"][THREE.mapping], *(PHRASES["kind"][kind] for kind in THREE.kinds)]
    for phrases in values:
        assert all(f" {phrase} " in text for phrase in phrases["train"])
        assert all((f" {phrase} " in text) == (inventory == "heldout") for phrase in phrases["heldout"])


@pytest.mark.parametrize(
    ("program", "inventory", "most"),
    [(TWO, "train", 540), (TWO, "heldout", 768), (THREE, "train", 4860), (THREE, "heldout", 9216)],
)
def test_impossible_number_of_wordings_is_refused(program: Program, inventory: Inventory, most: int) -> None:
    texts = list(all_wordings(program, inventory))
    assert len(set(texts)) == len(texts) == most
    for count in (-1, most + 1):
        with pytest.raises(DataError, match=rf"^expected 0 to {most} wordings of {program.name}, got {count}$"):
            wordings(program, count, 0, inventory)
