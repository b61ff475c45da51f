"""What stands in an instruction's place to see whether what it says matters: other tasks', its words shuffled, noise.

Every choice is a function of the seed and of names and words, never of the order of the tasks.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tagi.data.task import Task

Substitutes = dict[int, Task]
"""Index of a task -> what its states are made from instead; tasks without such a thing are absent."""


def of_same_category(tasks: Sequence[Task], seed: int) -> Substitutes:
    """Another task of the category, with another instruction, where there is one."""
    return _other_tasks(tasks, f"{seed} same category", lambda own, other: own.category == other.category)


def of_other_category(tasks: Sequence[Task], seed: int) -> Substitutes:
    """A task of another category, with another instruction, where there is one."""
    return _other_tasks(tasks, f"{seed} other category", lambda own, other: own.category != other.category)


def shuffled(tasks: Sequence[Task], seed: int) -> Substitutes:
    """The instruction's own words in another order, without demonstrations; absent where there is no other order."""
    found = {}
    for index, task in enumerate(tasks):
        words = task.instruction.split()
        if len(set(words)) > 1:
            rng, order = random.Random(f"sensitivity {seed} shuffled {task.name}"), list(words)
            while order == words:
                rng.shuffle(order)
            found[index] = replace(task, instruction=" ".join(order), examples=())
    return found


def random_words(tasks: Sequence[Task], seed: int) -> Substitutes:
    """As many words as the instruction has, each drawn from all words of all tasks' instructions as often as they
    stand there, without demonstrations; empty for a single task, whose own words these would be.
    """
    if len(tasks) < 2:
        return {}
    pool = sorted(word for task in tasks for word in task.instruction.split())
    found = {}
    for index, task in enumerate(tasks):
        rng = random.Random(f"sensitivity {seed} random {task.name}")
        text = " ".join(rng.choices(pool, k=len(task.instruction.split())))
        found[index] = replace(task, instruction=text, examples=())
    return found


def _other_tasks(tasks: Sequence[Task], purpose: str, fits: Callable[[Task, Task], bool]) -> Substitutes:
    """Of the tasks that fit, the one whose name and the task's own hash lowest: it stays when others come or go."""
    found = {}
    for index, own in enumerate(tasks):
        others = [other for other in tasks if other.instruction.strip() != own.instruction.strip() and fits(own, other)]
        if others:
            found[index] = min(others, key=lambda other: _digest(purpose, own.name, other.name))
    return found


def _digest(*names: str) -> bytes:
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()
