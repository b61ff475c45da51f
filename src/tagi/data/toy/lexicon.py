"""The words of the toy family: five kinds, and the word maps."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

LANGUAGE: Mapping[str, Any] = json.loads(
    (resources.files("tagi") / "data" / "toy" / "language.json").read_text(encoding="utf-8")
)
"""Pairs of words, and the sentences, templates and phrases that documents and instructions are made of."""

PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    kind: tuple((one, other) for one, other in pairs) for kind, pairs in LANGUAGE["pairs"].items()
}
"""Kind -> pairs of partners. An input holds one word of each kind."""

KINDS: tuple[str, ...] = tuple(PAIRS)

KIND_WORDS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(word for pair in pairs for word in pair) for kind, pairs in PAIRS.items()
}

WORDS: tuple[str, ...] = tuple(word for words in KIND_WORDS.values() for word in words)

KIND_OF: Mapping[str, str] = {word: kind for kind, words in KIND_WORDS.items() for word in words}


def _invented(onsets: str, vowels: str, codas: tuple[str, ...]) -> dict[str, str]:
    """Return an invented word for every base word. Its spelling depends only on the index."""
    return {
        word: onsets[i % len(onsets)] + vowels[i // len(onsets) % len(vowels)] + codas[i % len(codas)]
        for i, word in enumerate(WORDS)
    }


MAPS: Mapping[str, Mapping[str, str]] = {
    "copy": {word: word for word in WORDS},
    "plural": {word: word + "s" for word in WORDS},
    "partner": {a: b for pairs in PAIRS.values() for pair in pairs for a, b in (pair, pair[::-1])},
    "small": {word: word + "ling" for word in WORDS},
    "zorbish": _invented("zvmgkrtbx", "oiua", ("rb", "v", "zz", "k", "mp")),
    "kelvan": _invented("klndsfhpw", "eayo", ("lune", "hari", "dil", "sha", "nn", "vei", "qua")),
}
"""Word map by name; each sends every base word to one word of the vocabulary."""

FACTS: Mapping[str, tuple[str, ...]] = {name: tuple(texts) for name, texts in LANGUAGE["facts"].items()}
"""Sentences that state a word's kind or one entry of a word map."""

FACT_TABLES: Mapping[str, Mapping[str, str]] = {**MAPS, "kind": KIND_OF}


def lexicon_words() -> frozenset[str]:
    """Return all words of inputs and outputs."""
    return frozenset(WORDS).union(*(table.values() for table in MAPS.values()))
