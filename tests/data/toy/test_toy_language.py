"""The wordings: inventories, held-out wordings, and no instruction that asks for two programs."""

import random

import pytest

from tagi.data.toy import (
    Inventory,
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


def test_heldout_templates_and_phrases_are_never_used_in_training() -> None:
    assert len({*TEMPLATES["train"], *TEMPLATES["heldout"]}) == len(TEMPLATES["train"]) + len(TEMPLATES["heldout"])
    train = {text for program in all_programs() for text in all_wordings(program)}
    for program in all_programs():
        assert train.isdisjoint(all_wordings(program, "heldout"))
    for values in PHRASES.values():
        for _, heldout in values.values():
            assert heldout
            assert not any(f" {phrase} " in f" {text} " for phrase in heldout for text in train)


def test_heldout_wordings_use_only_words_of_training_wordings() -> None:
    assert wording_words("heldout") <= wording_words("train")
    words = {word for program in train_programs() for text in all_wordings(program) for word in text.split()}
    assert words == wording_words("train")
    for program in unseen_programs():
        assert {word for text in all_wordings(program, "heldout") for word in text.split()} <= words


def test_a_phrase_belongs_to_one_value() -> None:
    for values in PHRASES.values():
        phrases = [phrase for train, heldout in values.values() for phrase in (*train, *heldout)]
        assert len(set(phrases)) == len(phrases)


def test_no_wording_asks_for_two_programs() -> None:
    texts = [text for program in all_programs() for name in INVENTORIES for text in all_wordings(program, name)]
    assert len(set(texts)) == len(texts) == 120 * (270 + 384)


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_wordings_are_lower_case_sentences_of_13_to_26_words(inventory: Inventory) -> None:
    for program in all_programs()[::7]:
        for text in all_wordings(program, inventory):
            assert text == " ".join(text.split()).lower()
            assert text.endswith(" .")
            assert 13 <= len(text.split()) <= 26


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
    program, rng = all_programs()[7], random.Random(0)
    available = set(all_wordings(program, inventory))
    assert set(wordings(program, len(available), 0, inventory)) == available
    assert all(wording(program, rng, inventory) in available for _ in range(50))


@pytest.mark.parametrize(("inventory", "most"), [("train", 270), ("heldout", 384)])
@pytest.mark.parametrize("count", [-1, 385])
def test_impossible_number_of_wordings_is_refused(inventory: Inventory, most: int, count: int) -> None:
    program = all_programs()[0]
    with pytest.raises(DataError, match=rf"^expected 0 to {most} wordings of {program.name}, got {count}$"):
        wordings(program, count, 0, inventory)
