"""Programs: which kinds of thing to name, in which order, in which form; which of them exist and which are held out."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tagi.data.toy.lexicon import KIND_OF, KINDS, MAPS
from tagi.errors import DataError

INPUT_WORDS = len(KINDS)
"""Words in an input: one of each kind, in any order."""

UNSEEN_PROGRAMS = 24


@dataclass(frozen=True, slots=True, order=True)
class Program:
    """What a task does to a list of words: name its word of one kind, then that of another, both through a word map."""

    first: str
    second: str
    mapping: str

    @property
    def name(self) -> str:
        """The name of the task that asks for this program."""
        return f"toy-{self.first}-{self.second}-{self.mapping}"

    def apply(self, words: Sequence[str]) -> list[str]:
        """The answer for one base word of each kind; `DataError` for anything else."""
        by_kind = {KIND_OF.get(word, ""): word for word in words}
        if len(words) != INPUT_WORDS or set(by_kind) != set(KINDS):
            raise DataError(f"a toy input is {INPUT_WORDS} words, one of each kind, got {' '.join(words)!r}")
        table = MAPS[self.mapping]
        return [table[by_kind[self.first]], table[by_kind[self.second]]]


@cache
def all_programs() -> tuple[Program, ...]:
    """Every program, sorted: two different kinds in order, and a word map."""
    return tuple(
        sorted(
            Program(first, second, mapping)
            for first in KINDS
            for second in KINDS
            for mapping in MAPS
            if first != second
        )
    )


@cache
def unseen_programs(holdout: int = 0) -> tuple[Program, ...]:
    """The `UNSEEN_PROGRAMS` programs that training never sees; `holdout` numbers the possible choices.

    Balanced: four per map, about five per kind in either place; at most two per (first, second) and one per
    (kind in its place, map), so that every pair of values of an unseen program occurs in training.
    """
    rng = random.Random(f"toy holdout {holdout}")
    while True:  # random greedy choices succeed after a few tries
        candidates = list(all_programs())
        rng.shuffle(candidates)
        chosen: list[Program] = []
        count: Counter[tuple[str, ...]] = Counter()
        for program in candidates:
            limits = _limits(program)
            if all(count[key] < limit for key, limit in limits.items()):
                chosen.append(program)
                count.update(limits.keys())
        if len(chosen) == UNSEEN_PROGRAMS:
            return tuple(sorted(chosen))


def _limits(program: Program) -> dict[tuple[str, ...], int]:
    """How many unseen programs may share each value and each pair of values with this one."""
    first, second, mapping = program.first, program.second, program.mapping
    return {
        ("first", first): -(-UNSEEN_PROGRAMS // len(KINDS)),
        ("second", second): -(-UNSEEN_PROGRAMS // len(KINDS)),
        ("map", mapping): UNSEEN_PROGRAMS // len(MAPS),
        ("kinds", first, second): 2,
        ("first map", first, mapping): 1,
        ("second map", second, mapping): 1,
    }


@cache
def train_programs(holdout: int = 0) -> tuple[Program, ...]:
    """The programs that training sees: all but `unseen_programs(holdout)`."""
    unseen = set(unseen_programs(holdout))
    return tuple(program for program in all_programs() if program not in unseen)


def program_of(task_name: str) -> Program:
    """The program a toy task asks for; `DataError` when the name is not a toy task's."""
    for program in all_programs():
        if program.name == task_name:
            return program
    raise DataError(f"expected the name of a toy task such as {all_programs()[0].name!r}, got {task_name!r}")
