"""Does the instruction matter: the same inputs under the right instruction, other wordings, others' and none."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tagi.data.task import Task
from tagi.errors import DataError
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI


@dataclass(frozen=True, slots=True)
class Condition:
    """What a method is given in a task's place: `prepare(i)` makes the states of task i alone.

    `given` says so in words.
    """

    name: str
    given: str
    prepare: Callable[[int], Any]


INSTRUCTIONS = ("right", "paraphrase", "other", "none")
CHANNELS = ("right LoRA, other states", "other LoRA, right states", "LoRA alone", "states alone")


def conditions(
    method: Method, tasks: Sequence[Task], names: Iterable[str], *, truncate: bool = True
) -> list[Condition]:
    """The conditions of these names, in that order; one that the tasks have no words for, or the method no part, is
    left out.
    """
    known = {
        condition.name: condition
        for made in (instruction_conditions, channel_conditions)
        for condition in made(method, tasks, truncate=truncate)
    }
    return [known[name] for name in names if name in known]


def other_task(tasks: Sequence[Task]) -> list[int]:
    """For every task the index of another one, each used once: half the list further on."""
    if len(tasks) < 2:
        raise DataError(f"another task's instruction needs at least 2 tasks, got {len(tasks)}")
    return [(index + len(tasks) // 2) % len(tasks) for index in range(len(tasks))]


def instruction_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """`right`, `paraphrase` (where every task has one), `other` (of two tasks or more) and `none`."""

    def prepared(index: int, instruction: str) -> Any:
        return method.prepare([replace(tasks[index], instruction=instruction)], truncate=truncate)

    def right(index: int) -> Any:
        return prepared(index, tasks[index].instruction)

    made = [Condition("right", "the task's instruction", right)]
    if all(task.paraphrases for task in tasks):
        made.append(
            Condition(
                "paraphrase", "the same in other words", lambda index: prepared(index, tasks[index].paraphrases[0])
            )
        )
    if len(tasks) > 1:
        other = other_task(tasks)
        made.append(
            Condition(
                "other", "another task's instruction", lambda index: prepared(index, tasks[other[index]].instruction)
            )
        )
    made.append(Condition("none", "no instruction, no adapter", lambda index: method.without_instruction(right(index))))
    return made


def channel_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """The LoRA and the instruction states crossed and alone; nothing for a method without these channels."""
    if not isinstance(method, TAGI) or method.generator.settings.fusion == "none":
        return []

    def own(index: int) -> Any:
        return method.prepare([tasks[index]], truncate=truncate)

    alone = [
        Condition(
            "LoRA alone", "LoRA from the task's instruction, no states", lambda index: own(index).without_states()
        ),
        Condition(
            "states alone",
            "states from the task's instruction, no LoRA",
            lambda index: method.states_alone(own(index)),
        ),
    ]
    if len(tasks) < 2:
        return alone
    other = other_task(tasks)

    def crossed(states_of: int, lora_of: int) -> Any:
        both = method.prepare([tasks[states_of], tasks[lora_of]], truncate=truncate)
        return method.crossed(both, torch.tensor([1, 0])).select(torch.tensor([0]))

    return [
        Condition(
            "right LoRA, other states",
            "LoRA from the task's instruction, states from another's",
            lambda index: crossed(other[index], index),
        ),
        Condition(
            "other LoRA, right states",
            "LoRA from another task's instruction, states from the task's",
            lambda index: crossed(index, other[index]),
        ),
        *alone,
    ]
