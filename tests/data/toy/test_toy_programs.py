"""The programs: how many, how different, and how the unseen ones are held out."""

import itertools
import random
from collections import Counter
from itertools import islice

import pytest

from tagi.data.toy.family import toy_inputs
from tagi.data.toy.lexicon import KIND_OF, KINDS, MAPS, WORDS
from tagi.data.toy.programs import (
    INPUT_WORDS,
    SELECTIONS,
    Program,
    all_programs,
    program_of,
    train_programs,
    unseen_programs,
)
from tagi.errors import DataError

HOLDOUTS = range(7)


def probes(count: int) -> list[list[str]]:
    return list(islice(toy_inputs(random.Random("probes"), "eval"), count))


def answers(program: Program, inputs: list[list[str]]) -> tuple[str, ...]:
    return tuple(" ".join(program.apply(words)) for words in inputs)


def test_counts() -> None:
    assert (len(all_programs()), len(train_programs()), len(unseen_programs())) == (120, 96, 24)
    assert (len(KINDS), len(MAPS), len(WORDS)) == (5, 6, 30)
    assert len(set(all_programs())) == 120


def test_programs_name_two_or_three_kinds_in_the_order_of_kinds() -> None:
    assert Counter(map(len, SELECTIONS)) == {2: 10, 3: 10}
    assert len(set(SELECTIONS)) == 20
    for kinds in SELECTIONS:
        assert kinds == tuple(kind for kind in KINDS if kind in kinds)
    pairs = {(program.kinds, program.mapping) for program in all_programs()}
    assert pairs == set(itertools.product(SELECTIONS, MAPS))


@pytest.mark.parametrize(
    ("kinds", "mapping", "expected"),
    [
        ("animal food", "copy", "cat soup"),
        ("tool person", "plural", "pens queens"),
        ("tool place", "partner", "brush valley"),
        ("place person", "small", "hillling queenling"),
        ("animal place", "zorbish", "zorb zuk"),
        ("food person", "kelvan", "lasha pynn"),
        ("animal tool person", "copy", "cat pen queen"),
        ("food place person", "plural", "soups hills queens"),
        ("animal place person", "partner", "dog valley king"),
        ("animal food place", "small", "catling soupling hillling"),
        ("animal tool place", "zorbish", "zorb rimp zuk"),
        ("food tool person", "kelvan", "lasha falune pynn"),
    ],
)
def test_answers_worked_by_hand(kinds: str, mapping: str, expected: str) -> None:
    """The same for every order of the input's words."""
    program = Program(tuple(kinds.split()), mapping)
    assert program in all_programs()
    for words in itertools.permutations(["hill", "soup", "cat", "queen", "pen"]):
        assert program.apply(words) == expected.split()


def test_word_maps_are_one_to_one_and_apart() -> None:
    for table in MAPS.values():
        assert set(table) == set(WORDS)
        assert len(set(table.values())) == len(WORDS)
    ranges = [set(table.values()) for name, table in MAPS.items() if name != "partner"]
    assert len(set().union(*ranges)) == sum(map(len, ranges))
    partner = MAPS["partner"]
    assert all(partner[other] == word != other and KIND_OF[other] == KIND_OF[word] for word, other in partner.items())


def test_any_two_programs_agree_on_at_most_30_percent_of_inputs() -> None:
    """So another task's answer, unseen or not, is right no more often; in fact it never is."""
    behaviour = {program: answers(program, probes(60)) for program in all_programs()}
    agreement = {
        (one.name, other.name): sum(map(str.__eq__, behaviour[one], behaviour[other])) / 60
        for one, other in itertools.combinations(behaviour, 2)
    }
    assert len(agreement) == 120 * 119 // 2
    assert max(agreement.values()) <= 0.3
    assert max(agreement.values()) == 0


@pytest.mark.parametrize("programs", [all_programs(), train_programs(), unseen_programs()], ids=len)
def test_input_alone_solves_at_most_30_percent_of_the_tasks(programs: tuple[Program, ...]) -> None:
    """The best answer that knows the input but not the task; in fact it serves one task."""
    for words in probes(40):
        given = Counter(answers(program, [words]) for program in programs)
        assert given.most_common(1)[0][1] / len(programs) <= 0.3
        assert len(given) == len(programs)


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_training_and_unseen_tasks_are_disjoint_as_programs(holdout: int) -> None:
    inputs = probes(20)
    train = {answers(program, inputs) for program in train_programs(holdout)}
    unseen = {answers(program, inputs) for program in unseen_programs(holdout)}
    assert (len(train), len(unseen), len(train | unseen)) == (96, 24, 120)


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_unseen_programs_are_balanced(holdout: int) -> None:
    unseen = unseen_programs(holdout)
    assert Counter(program.mapping for program in unseen) == dict.fromkeys(MAPS, 4)
    assert Counter(len(program.kinds) for program in unseen) == {2: 12, 3: 12}
    assert max(Counter(program.kinds for program in unseen).values()) <= 2
    kind_map = Counter((kind, program.mapping) for program in unseen for kind in program.kinds)
    assert max(kind_map.values()) <= 3
    assert {kind for kind, _ in kind_map} == set(KINDS)


@pytest.mark.parametrize("holdout", HOLDOUTS)
def test_every_selection_and_every_kind_in_every_map_occurs_in_training(holdout: int) -> None:
    """Each selection under at least four of the six maps; each kind and map in at least seven of ten programs."""
    train = train_programs(holdout)
    selections = Counter(program.kinds for program in train)
    kind_map = Counter((kind, program.mapping) for program in train for kind in program.kinds)
    assert Counter(program.mapping for program in train) == dict.fromkeys(MAPS, 16)
    assert all(selections[kinds] >= 4 for kinds in SELECTIONS)
    assert all(kind_map[pair] >= 7 for pair in itertools.product(KINDS, MAPS))


def test_holdouts_differ() -> None:
    assert len({unseen_programs(holdout) for holdout in HOLDOUTS}) == len(HOLDOUTS)


def test_program_of_a_task_name() -> None:
    assert all(program_of(program.name) == program for program in all_programs())
    with pytest.raises(DataError, match=r"^expected the name of a toy task such as .* got 'toy-animal-food'$"):
        program_of("toy-animal-food")


@pytest.mark.parametrize(
    "text",
    [
        "cat soup pen hill",  # no person
        "cat soup pen hill queens",  # not a base word
        "cat soup pen hill river",  # two places
        "cat soup pen hill queen queen",  # one too many
        "",
    ],
)
def test_foreign_input_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=rf"^a toy input is {INPUT_WORDS} words, one of each kind, got '{text}'$"):
        Program(("animal", "food"), "copy").apply(text.split())
