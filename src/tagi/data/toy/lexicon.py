"""The words of the toy family: five kinds of things, and the word maps between words."""

from collections.abc import Mapping
from types import MappingProxyType

PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "animal": (("cat", "dog"), ("fox", "hen"), ("bear", "wolf")),
        "food": (("apple", "pear"), ("bread", "cheese"), ("soup", "rice")),
        "tool": (("hammer", "nail"), ("pen", "brush"), ("needle", "thread")),
        "place": (("hill", "valley"), ("river", "lake"), ("town", "forest")),
        "person": (("king", "queen"), ("baker", "miller"), ("nurse", "guard")),
    }
)
"""Kind -> pairs of partners. An input holds one word of each kind."""

KINDS: tuple[str, ...] = tuple(PAIRS)

KIND_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {kind: tuple(word for pair in pairs for word in pair) for kind, pairs in PAIRS.items()}
)

WORDS: tuple[str, ...] = tuple(word for words in KIND_WORDS.values() for word in words)

KIND_OF: Mapping[str, str] = MappingProxyType({word: kind for kind, words in KIND_WORDS.items() for word in words})


def _invented(onsets: str, vowels: str, codas: tuple[str, ...]) -> dict[str, str]:
    """A word of an invented language for every base word, spelled from its index alone."""
    return {
        word: onsets[i % len(onsets)] + vowels[i // len(onsets) % len(vowels)] + codas[i % len(codas)]
        for i, word in enumerate(WORDS)
    }


def _partners() -> dict[str, str]:
    return {a: b for pairs in PAIRS.values() for pair in pairs for a, b in (pair, pair[::-1])}


MAPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "copy": {word: word for word in WORDS},
        "plural": {word: word + "s" for word in WORDS},
        "partner": _partners(),
        "small": {word: word + "ling" for word in WORDS},
        "zorbish": _invented("zvmgkrtbx", "oiua", ("rb", "v", "zz", "k", "mp")),
        "kelvan": _invented("klndsfhpw", "eayo", ("lune", "hari", "dil", "sha", "nn", "vei", "qua")),
    }
)
"""Word map by name; each sends every base word to one word of the vocabulary."""

FACTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "kind": ("{x} is a kind of {y} .", "{x} is the name of a {y} ."),
        "plural": ("the plural of {x} is {y} .", "many of {x} are called {y} ."),
        "partner": ("the partner of {x} is {y} .", "the companion of {x} is called {y} ."),
        "small": ("the small form of {x} is {y} .", "the little version of {x} is called {y} ."),
        "zorbish": ("in zorbish {x} is called {y} .", "the zorbish word for {x} is {y} ."),
        "kelvan": ("in kelvan {x} is called {y} .", "the kelvan word for {x} is {y} ."),
    }
)
"""Sentences that state a word's kind or one entry of a word map."""

FACT_TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType({**MAPS, "kind": KIND_OF})


def lexicon_words() -> frozenset[str]:
    """Every word that an input or an output can hold."""
    return frozenset(WORDS).union(*(table.values() for table in MAPS.values()))
