"""Substitutes for instructions: other wordings, other tasks' instructions, shuffled and random words.

Random choices depend on the seed, names and words, but not on the order of the tasks.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tagi.data.task import Task
from tagi.errors import DataError

Substitutes = dict[int, Task]
"""Index of a task -> the task that its states are made from instead; tasks without a substitute are absent."""


def paraphrased(tasks: Sequence[Task], _seed: int) -> Substitutes:
    """Return every task with another wording as instruction; nothing unless all tasks have one.

    The wording is "plain", or the first named one, or the first of `paraphrases`. Texts equal to the instruction are
    skipped.
    """
    found = {}
    for index, task in enumerate(tasks):
        named = {wording.name: wording.text for wording in task.wordings}
        texts = [*([named["plain"]] if "plain" in named else []), *named.values(), *task.paraphrases]
        text = next((text for text in texts if text != task.instruction), None)
        if text is None:
            return {}
        found[index] = replace(task, instruction=text)
    return found


def other_tasks(tasks: Sequence[Task], _seed: int) -> Substitutes:
    """Return `other_task` of every task; nothing for a single task."""
    return {index: tasks[at] for index, at in enumerate(other_task(tasks))} if len(tasks) > 1 else {}


def other_task(tasks: Sequence[Task]) -> list[int]:
    """Return for every task the index of another one: the task half the list further on. Each task is used once.

    Raises `DataError` for a single task.
    """
    if len(tasks) < 2:
        raise DataError(f"another task's instruction needs at least 2 tasks, got {len(tasks)}")
    return [(index + len(tasks) // 2) % len(tasks) for index in range(len(tasks))]


def of_same_category(tasks: Sequence[Task], seed: int) -> Substitutes:
    """Return for every task another task of its category with a different instruction, if there is one."""
    return _other_tasks(tasks, f"{seed} same category", lambda own, other: own.category == other.category)


def of_other_category(tasks: Sequence[Task], seed: int) -> Substitutes:
    """Return for every task a task of another category with a different instruction, if there is one."""
    return _other_tasks(tasks, f"{seed} other category", lambda own, other: own.category != other.category)


def shuffled(tasks: Sequence[Task], seed: int) -> Substitutes:
    """Return every task with its instruction's words in another order, if there is one, and no demonstrations."""
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
    """Return every task with as many random words as its instruction has; nothing for a single task.

    Words are drawn from all tasks' instructions, in proportion to their frequency. There are no demonstrations.
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
    """Return for every task the eligible one with the lowest hash of both names: stable when other tasks are added."""
    found = {}
    for index, own in enumerate(tasks):
        others = [other for other in tasks if other.instruction.strip() != own.instruction.strip() and fits(own, other)]
        if others:
            found[index] = min(others, key=lambda other: _digest(purpose, own.name, other.name))
    return found


def _digest(*names: str) -> bytes:
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()


SUBSTITUTES: dict[str, tuple[str, Callable[[Sequence[Task], int], Substitutes]]] = {
    "right": ("the task's instruction", lambda tasks, _seed: dict(enumerate(tasks))),
    "paraphrase": ("the same in other words", paraphrased),
    "other": ("another task's instruction", other_tasks),
    "same category": ("another task's, of the same category", of_same_category),
    "other category": ("another task's, of another category", of_other_category),
    "shuffled": ("the instruction's words in another order", shuffled),
    "random": ("as many words, from all instructions", random_words),
}
"""Description and construction of the substitutes by condition."""
