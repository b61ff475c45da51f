"""Unlabelled text of the toy family: for pretraining its backbone, and a hypernetwork on it."""

import random
from collections.abc import Iterator

from tagi.data.pretraining import Document
from tagi.data.toy.language import wording
from tagi.data.toy.lexicon import FACT_TABLES, FACTS, KINDS, MAPS, PAIRS, WORDS
from tagi.data.toy.programs import train_programs

_LISTS_PER_DOCUMENT = 3
_SHORTEST, _LONGEST_TARGET = 15, 30  # the last sentence adds at most 30 words


def toy_corpus(seed: int, holdout: int = 0) -> Iterator[str]:
    """Endless documents of 15 to 60 words: lexicon facts, word lists, instructions of training programs.

    No document contains a list together with a task's answer for it: the lists of a document share neither words nor
    partners nor translations.
    """
    rng = random.Random(f"toy corpus {seed}")
    while True:
        yield _document(rng, holdout)


class ToyDocuments:
    """Documents with a theme, as real ones have: their beginning is informative about their end.

    A theme is a training program. Its document describes it, states facts about its word map, and lists words of its
    kinds in its form. The original words of a list do not occur in the document's lists, so documents contain no
    labels.
    """

    def __init__(self, seed: int, holdout: int = 0) -> None:
        self.seed = seed
        self.holdout = holdout

    def read(self, start: int, count: int) -> list[Document]:
        """Return documents `start` to `start + count - 1`. Each depends only on the seed and its index."""
        return [Document(index, self._text(index)) for index in range(start, start + count)]

    def _text(self, index: int) -> str:
        rng = random.Random(f"toy documents {self.seed} {index}")
        theme = rng.choice(train_programs(self.holdout))
        lists = [" ".join(words) for words in _word_lists(rng, theme.kinds, theme.mapping)]
        fact = theme.mapping if theme.mapping in FACTS else "kind"
        sentences = [wording(theme, rng), _fact(rng, fact), *lists]
        if rng.random() < 0.5:  # the description need not come first
            rng.shuffle(sentences)
        return " ".join(sentences)


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


def _fact(rng: random.Random, name: str | None = None) -> str:
    name = name or rng.choice(tuple(FACTS))
    word = rng.choice(WORDS)
    return rng.choice(FACTS[name]).format(x=word, y=FACT_TABLES[name][word])


def _word_lists(rng: random.Random, kinds: tuple[str, ...] = KINDS, mapping: str | None = None) -> list[list[str]]:
    """Return the lists of one document, with one word per kind and a full stop. Lists do not share word pairs.

    With a word map, all lists have its form and the order of kinds. Otherwise form and order are random per list.
    """
    pairs = {kind: rng.sample(PAIRS[kind], len(PAIRS[kind])) for kind in kinds}
    lists = []
    for number in range(_LISTS_PER_DOCUMENT):
        table = MAPS[mapping or rng.choice(tuple(MAPS))]
        words = [table[rng.choice(pairs[kind][number])] for kind in kinds]
        if mapping is None:
            rng.shuffle(words)
        lists.append([*words, "."])
    return lists
