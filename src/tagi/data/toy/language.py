"""Instructions of toy tasks: phrases and templates, of which some are held out from training."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from tagi.data.toy.lexicon import LANGUAGE
from tagi.data.toy.programs import Program
from tagi.errors import DataError

Inventory = Literal["train", "heldout"]

TEMPLATES: Mapping[Inventory, list[str]] = LANGUAGE["templates"]

PHRASES: Mapping[str, Mapping[str, Mapping[Inventory, list[str]]]] = LANGUAGE["phrases"]
"""Factor (a kind, the word map) -> value -> its phrases in training and those held out."""


def wording(program: Program, rng: random.Random, inventory: Inventory = "train") -> str:
    """Return one instruction for the program.

    `train` uses training templates and phrases only. `heldout` uses a held-out template with phrases of both kinds.
    """
    template = rng.choice(TEMPLATES[inventory])
    mentioned = rng.sample(program.kinds, len(program.kinds))  # the order of mention has no meaning
    return template.format(
        kinds=_listed([rng.choice(_choices("kind", kind, inventory)) for kind in mentioned]),
        map=rng.choice(_choices("map", program.mapping, inventory)),
    )


def wordings(program: Program, count: int, seed: int, inventory: Inventory = "train") -> tuple[str, ...]:
    """Return `count` distinct instructions for the program, determined by the seed. Raises `DataError` if too many."""
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


def _listed(phrases: Sequence[str]) -> str:
    """`a and b`, `a , b and c`."""
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]}"


def wording_words(inventory: Inventory = "train") -> frozenset[str]:
    """Return all words and punctuation marks of the inventory's instructions."""
    texts = [template.format(kinds=_listed(["", "", ""]), map="") for template in TEMPLATES[inventory]]
    for factor, values in PHRASES.items():
        for value in values:
            texts.extend(_choices(factor, value, inventory))
    return frozenset(word for text in texts for word in text.split())


def _choices(factor: str, value: str, inventory: Inventory) -> list[str]:
    phrases = PHRASES[factor][value]
    return phrases["train"] if inventory == "train" else phrases["train"] + phrases["heldout"]
