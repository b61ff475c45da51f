"""Instructions in words: phrases per factor value, templates, and the inventory that training never uses."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from types import MappingProxyType
from typing import Literal

from tagi.data.toy.programs import Program
from tagi.errors import DataError

Inventory = Literal["train", "heldout"]

TEMPLATES: Mapping[Inventory, tuple[str, ...]] = MappingProxyType(
    {
        "train": (
            "take {kinds} and {map} .",
            "{map} , for {kinds} .",
            "look for {kinds} . {map} .",
            "please {map} , using {kinds} .",
            "find {kinds} , then {map} .",
            "{map} . use only {kinds} .",
        ),
        "heldout": (
            "please take {kinds} , then {map} .",
            "{map} , using only {kinds} .",
            "look for {kinds} and {map} .",
        ),
    }
)

_Phrases = tuple[tuple[str, ...], tuple[str, ...]]  # in training, held out


def _kind_phrases(kind: str, *others: str) -> _Phrases:
    return (f"the {kind}", f"the word for the {kind}", *others), (f"the name of the {kind}",)


def _language_phrases(name: str) -> _Phrases:
    return (
        (
            f"translate each into {name}",
            f"say each in {name}",
            f"use the {name} names",
            f"write the {name} word of each",
            f"give their names in {name}",
        ),
        (f"write each in {name}", f"give the {name} names", f"say the {name} word of each"),
    )


PHRASES: Mapping[str, Mapping[str, _Phrases]] = MappingProxyType(
    {
        "kind": {
            "animal": _kind_phrases("animal", "the one that is an animal"),
            "food": _kind_phrases("food", "the one that is a food"),
            "tool": _kind_phrases("tool", "the one that is a tool"),
            "place": _kind_phrases("place", "the one that is a place"),
            "person": _kind_phrases("person", "the one that is a person"),
        },
        "map": {
            "copy": (
                (
                    "copy each word as it is",
                    "do not change any word",
                    "write each word unchanged",
                    "repeat each word as it is",
                    "leave each word unchanged",
                ),
                ("copy each word unchanged", "write each word as it is", "do not change each word"),
            ),
            "plural": (
                (
                    "make each one plural",
                    "write the plural of each",
                    "turn each into its plural form",
                    "give the plural forms",
                    "use the form for many",
                ),
                ("give the plural of each", "write the form for many", "use the plural forms"),
            ),
            "partner": (
                (
                    "replace each by its partner",
                    "write the partner of each",
                    "swap each for its partner",
                    "give the companion of each",
                    "name the companion of each",
                ),
                ("give the partner of each", "replace each by its companion", "name the partner of each"),
            ),
            "small": (
                (
                    "make each one small",
                    "turn each into its small form",
                    "write the little form of each",
                    "use the small forms",
                    "give the little version of each",
                ),
                ("give the small forms", "write the small version of each", "make each one little"),
            ),
            "zorbish": _language_phrases("zorbish"),
            "kelvan": _language_phrases("kelvan"),
        },
    }
)
"""Factor (a kind, the word map) -> value -> its phrases in training and those held out."""


def wording(program: Program, rng: random.Random, inventory: Inventory = "train") -> str:
    """One instruction for the program.

    `train` uses the training templates and phrases alone; `heldout` uses a template that training never uses,
    with phrases of both inventories.
    """
    template = rng.choice(TEMPLATES[inventory])
    mentioned = rng.sample(program.kinds, len(program.kinds))  # the order of mention says nothing
    return template.format(
        kinds=_listed([rng.choice(_choices("kind", kind, inventory)) for kind in mentioned]),
        map=rng.choice(_choices("map", program.mapping, inventory)),
    )


def wordings(program: Program, count: int, seed: int, inventory: Inventory = "train") -> tuple[str, ...]:
    """`count` different instructions for the program, the same for the same seed; `DataError` if too many."""
    available = _number_of_wordings(program, inventory)
    if not 0 <= count <= available:
        raise DataError(f"expected 0 to {available} wordings of {program.name}, got {count}")
    rng = random.Random(f"toy wordings {seed} {inventory} {program.name}")
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(wording(program, rng, inventory))
    return tuple(found)


def _number_of_wordings(program: Program, inventory: Inventory) -> int:
    values = [*(("kind", kind) for kind in program.kinds), ("map", program.mapping)]
    choices = [len(_choices(factor, value, inventory)) for factor, value in values]
    orders = math.factorial(len(program.kinds))
    return math.prod(choices, start=orders * len(TEMPLATES[inventory]))


def all_wordings(program: Program, inventory: Inventory = "train") -> Iterator[str]:
    """Every instruction of the inventory for the program."""
    for template in TEMPLATES[inventory]:
        for mentioned in permutations(program.kinds):
            for kinds in product(*(_choices("kind", kind, inventory) for kind in mentioned)):
                for mapping in _choices("map", program.mapping, inventory):
                    yield template.format(kinds=_listed(kinds), map=mapping)


def _listed(phrases: Sequence[str]) -> str:
    """`a and b`, `a , b and c`."""
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]}"


def wording_words(inventory: Inventory = "train") -> frozenset[str]:
    """Every word and mark that instructions of the inventory are made of."""
    texts = [template.format(kinds=_listed(["", "", ""]), map="") for template in TEMPLATES[inventory]]
    for factor, values in PHRASES.items():
        for value in values:
            texts.extend(_choices(factor, value, inventory))
    return frozenset(word for text in texts for word in text.split())


def _choices(factor: str, value: str, inventory: Inventory) -> tuple[str, ...]:
    train, heldout = PHRASES[factor][value]
    return train if inventory == "train" else train + heldout
