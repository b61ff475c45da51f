"""Unlabelled text of the toy family, for pretraining."""

import random
from collections.abc import Iterator

from tagi.data.toy.language import wording
from tagi.data.toy.lexicon import FACT_TABLES, FACTS, KINDS, MAPS, PAIRS, WORDS
from tagi.data.toy.programs import train_programs

_LISTS_PER_DOCUMENT = 3
_SHORTEST, _LONGEST_TARGET = 15, 30  # the last sentence adds at most 30 words


def toy_corpus(seed: int, holdout: int = 0) -> Iterator[str]:
    """Endless documents of 15 to 60 words: lexicon facts, word lists, instructions of training programs.

    No document holds a list together with what a task would answer for it: the lists of a document share
    neither words nor partners nor translations.
    """
    rng = random.Random(f"toy corpus {seed}")
    while True:
        yield _document(rng, holdout)


def _document(rng: random.Random, holdout: int) -> str:
    words: list[str] = []
    lists = _word_lists(rng)
    target = rng.randint(_SHORTEST, _LONGEST_TARGET)
    while len(words) < target:
        kind = rng.choices(("fact", "list", "wording"), (5, 2, 2))[0]
        if kind == "list" and lists:
            words += lists.pop()
        elif kind == "wording":
            words += wording(rng.choice(train_programs(holdout)), rng).split()
        else:
            words += _fact(rng).split()
    return " ".join(words)


def _fact(rng: random.Random) -> str:
    name = rng.choice(tuple(FACTS))
    word = rng.choice(WORDS)
    return rng.choice(FACTS[name]).format(x=word, y=FACT_TABLES[name][word])


def _word_lists(rng: random.Random) -> list[list[str]]:
    """Lists for one document, one word of each kind and in one language, from pairs of its own, with a full stop."""
    pairs = {kind: rng.sample(PAIRS[kind], len(PAIRS[kind])) for kind in KINDS}
    lists = []
    for number in range(_LISTS_PER_DOCUMENT):
        table = MAPS[rng.choice(tuple(MAPS))]
        words = [table[rng.choice(pairs[kind][number])] for kind in KINDS]
        rng.shuffle(words)
        lists.append([*words, "."])
    return lists
