"""Programs: selections of kinds with a word map, and which of them are held out."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from tagi.data.toy.lexicon import KIND_OF, KINDS, MAPS
from tagi.errors import DataError

INPUT_WORDS = len(KINDS)
"""Words in an input: one of each kind, in any order."""

SELECTIONS: tuple[tuple[str, ...], ...] = (*combinations(KINDS, 2), *combinations(KINDS, 3))
"""Which kinds a program may name: two or three, always in the order of `KINDS`."""

UNSEEN_PROGRAMS = 24


@dataclass(frozen=True, slots=True, order=True)
class Program:
    """The function of a task: select the words of some kinds, in the order of `KINDS`, and apply a word map."""

    kinds: tuple[str, ...]
    mapping: str

    @property
    def name(self) -> str:
        """The name of the task that asks for this program."""
        return f"toy-{'-'.join(self.kinds)}-{self.mapping}"

    def apply(self, words: Sequence[str]) -> list[str]:
        """Return the answer for one base word of each kind. Raises `DataError` for anything else."""
        by_kind = {KIND_OF.get(word, ""): word for word in words}
        if len(words) != INPUT_WORDS or set(by_kind) != set(KINDS):
            raise DataError(f"a toy input is {INPUT_WORDS} words, one of each kind, got {' '.join(words)!r}")
        table = MAPS[self.mapping]
        return [table[by_kind[kind]] for kind in self.kinds]


@cache
def all_programs() -> tuple[Program, ...]:
    """Every program, sorted: a selection of kinds and a word map."""
    return tuple(sorted(Program(kinds, mapping) for kinds in SELECTIONS for mapping in MAPS))


@cache
def unseen_programs(holdout: int = 0) -> tuple[Program, ...]:
    """Return the `UNSEEN_PROGRAMS` programs that are not in training. `holdout` selects one of the possible choices.

    Balanced: four per map, twelve with two kinds and twelve with three; at most two per selection, so that every
    selection and every map of an unseen program occurs in training, and at most three per kind and map.
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
    return {
        ("selection", *program.kinds): 2,
        ("size", str(len(program.kinds))): UNSEEN_PROGRAMS // 2,
        ("map", program.mapping): UNSEEN_PROGRAMS // len(MAPS),
        **{("kind map", kind, program.mapping): 3 for kind in program.kinds},
    }


@cache
def train_programs(holdout: int = 0) -> tuple[Program, ...]:
    """Return the training programs: all except `unseen_programs(holdout)`."""
    unseen = set(unseen_programs(holdout))
    return tuple(program for program in all_programs() if program not in unseen)


def program_of(task_name: str) -> Program:
    """Return the program of a toy task. Raises `DataError` if the name is not that of a toy task."""
    for program in all_programs():
        if program.name == task_name:
            return program
    raise DataError(f"expected the name of a toy task such as {all_programs()[0].name!r}, got {task_name!r}")
