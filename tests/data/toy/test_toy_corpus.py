"""The unlabelled corpus: lengths, what it teaches, and that it never labels a list."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tagi.data.toy.corpus import toy_corpus
from tagi.data.toy.language import Inventory
from tagi.data.toy.lexicon import FACT_TABLES, FACTS, KIND_OF, KINDS, MAPS, PAIRS, WORDS, lexicon_words
from tagi.data.toy.programs import INPUT_WORDS, Program, all_programs, train_programs, unseen_programs
from tests.data.toy.reading import programs_asked_for

DOCUMENTS = list(islice(toy_corpus(2), 1500))
LEXICON = lexicon_words()
SOURCE = {name: {y: x for x, y in table.items()} for name, table in MAPS.items()}
PAIR_OF = {word: pair for pairs in PAIRS.values() for pair in pairs for word in pair}
STATEMENTS = {
    template.format(x=word, y=FACT_TABLES[name][word]) for name in FACTS for template in FACTS[name] for word in WORDS
}


def runs_of(document: str) -> list[list[str]]:
    """Runs of lexicon words: one word in facts, all of it in lists, none in instructions."""
    runs: list[list[str]] = [[]]
    for word in document.split():
        if word in LEXICON:
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def lists_of(document: str) -> list[list[str]]:
    return [run for run in runs_of(document) if len(run) > 1]


def source_of(words: list[str]) -> list[str]:
    """The base words of a list in any one form; copies rather than partners."""
    return next([table[word] for word in words] for table in SOURCE.values() if table.keys() >= set(words))


def programs_in(document: str, inventory: Inventory = "train") -> set[Program]:
    """What the instructions in the document ask for, if they start with a sentence and end with one."""
    words = document.split()
    ends = [at + 1 for at, word in enumerate(words) if word == "."]
    return {
        program
        for start in (0, *ends)
        for end in ends
        for program in programs_asked_for(" ".join(words[start:end]), inventory)
    }


def steps(words: list[str], at: int, programs: set[Program]) -> Iterator[int]:
    """Where a list, a fact or an instruction for one of the programs that starts here may end."""
    for end in range(at + 1, len(words) + 1):
        text = " ".join(words[at:end])
        listed = end - at == INPUT_WORDS + 1 and LEXICON.issuperset(words[at : end - 1]) and words[end - 1] == "."
        if listed or text in STATEMENTS or programs & programs_asked_for(text):
            yield end


def is_made_of(document: str, programs: set[Program]) -> bool:
    """Whether the document is lists, facts and training wordings of these programs alone."""
    words = document.split()
    reached, pending = {0}, [0]
    while pending:
        ends = set(steps(words, pending.pop(), programs)) - reached
        reached |= ends
        pending += ends
    return len(words) in reached


def test_documents_have_15_to_60_words() -> None:
    lengths = [len(document.split()) for document in DOCUMENTS]
    assert min(lengths) >= 15
    assert max(lengths) <= 60


def test_lists_hold_one_word_of_each_kind_in_one_form_and_random_order() -> None:
    lists = [source_of(words) for document in DOCUMENTS for words in lists_of(document)]
    orders = {tuple(KIND_OF[word] for word in words) for words in lists}
    assert all(sorted(order) == sorted(KINDS) for order in orders)
    assert len(orders) == 120
    assert len(lists) > 500


def test_lists_of_a_document_share_no_word_in_any_form() -> None:
    several = 0
    for document in DOCUMENTS:
        used = [{PAIR_OF[word] for word in source_of(words)} for words in lists_of(document)]
        assert len(set().union(*used)) == sum(map(len, used)), document
        several += len(used) > 1
    assert several > 50


def test_no_document_holds_a_list_and_its_answer() -> None:
    """Nor its answer anywhere else in the document, for any of the programs."""
    inputs = 0
    for document in DOCUMENTS:
        runs = runs_of(document)
        text = " ".join(" ".join(run) + " ." for run in runs)
        for words in runs:
            if len(words) == 1 or not set(words) <= set(WORDS):
                continue
            inputs += 1
            own = " ".join(words)
            assert text.count(own) == 1
            answers = {" ".join(program.apply(words)) for program in all_programs()}
            assert not any(answer in text.replace(own, "") for answer in answers), document
            assert not any(f"{own} {answer}" in document for answer in answers), document
    assert inputs > 200


def test_every_fact_is_stated() -> None:
    text = "\n".join(DOCUMENTS)
    for name, templates in FACTS.items():
        for word in WORDS:
            assert any(template.format(x=word, y=FACT_TABLES[name][word]) in text for template in templates)


@pytest.mark.parametrize("holdout", [0, 3])
def test_instructions_are_those_of_training_programs(holdout: int) -> None:
    """Every document is lists, facts and training wordings of training programs, and nothing else."""
    documents = list(islice(toy_corpus(4, holdout), 400))
    train = set(train_programs(holdout))
    assert all(is_made_of(document, train) for document in documents)
    assert not all(is_made_of(document, set()) for document in documents)
    for document in documents:
        assert programs_in(document).isdisjoint(unseen_programs(holdout)), document
        assert not programs_in(document, "heldout"), document


def test_every_training_program_is_asked_for() -> None:
    assert set().union(*map(programs_in, DOCUMENTS)) == set(train_programs())


def test_seed_and_holdout_decide() -> None:
    assert list(islice(toy_corpus(2), 10)) == DOCUMENTS[:10]
    assert list(islice(toy_corpus(6), 10)) != DOCUMENTS[:10]
    assert list(islice(toy_corpus(2, holdout=1), 10)) != DOCUMENTS[:10]
