"""Lists all instructions of the toy family, and reads them back into programs."""

import re
from collections.abc import Iterator
from itertools import permutations, product

from tagi.data.toy.language import PHRASES, TEMPLATES, Inventory
from tagi.data.toy.lexicon import KINDS
from tagi.data.toy.programs import Program


def _value_by_phrase(factor: str, inventory: Inventory) -> dict[str, str]:
    return {
        phrase: value
        for value, own in PHRASES[factor].items()
        for phrase in (own["train"] if inventory == "train" else own["train"] + own["heldout"])
    }


def all_wordings(program: Program, inventory: Inventory = "train") -> Iterator[str]:
    """Every instruction of the inventory for the program."""
    phrases = {
        (factor, value): own["train"] if inventory == "train" else own["train"] + own["heldout"]
        for factor, values in PHRASES.items()
        for value, own in values.items()
    }
    for template in TEMPLATES[inventory]:
        for mentioned in permutations(program.kinds):
            for kinds in product(*(phrases["kind", kind] for kind in mentioned)):
                for mapping in phrases["map", program.mapping]:
                    yield template.format(kinds=f"{' , '.join(kinds[:-1])} and {kinds[-1]}", map=mapping)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{kinds\}", "(?P<kinds>.+)").replace(r"\{map\}", "(?P<map>.+)"))


INVENTORIES: tuple[Inventory, ...] = ("train", "heldout")
_PATTERNS = {name: [_pattern(template) for template in TEMPLATES[name]] for name in INVENTORIES}
_KINDS = {name: _value_by_phrase("kind", name) for name in INVENTORIES}
_MAPS = {name: _value_by_phrase("map", name) for name in INVENTORIES}


def programs_asked_for(text: str, inventory: Inventory = "train") -> set[Program]:
    """What the text asks for as an instruction of the inventory; empty when it is none."""
    found = set()
    for pattern in _PATTERNS[inventory]:
        match = pattern.fullmatch(text)
        mapping = match and _MAPS[inventory].get(match["map"])
        kinds = _kinds_in(match["kinds"], inventory) if match else set()
        if mapping and len(kinds) in (2, 3):
            found.add(Program(tuple(kind for kind in KINDS if kind in kinds), mapping))
    return found


def _kinds_in(listed: str, inventory: Inventory) -> set[str]:
    """The kinds of `a and b` or `a , b and c`; none when that is not what it is."""
    *others, last = re.split(" , | and ", listed)
    kinds = {_KINDS[inventory].get(phrase, "") for phrase in (*others, last)}
    well_formed = listed == f"{' , '.join(others)} and {last}" and len(kinds) == len(others) + 1
    return kinds if well_formed and "" not in kinds else set()
