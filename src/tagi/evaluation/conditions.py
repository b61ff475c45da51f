"""Does the instruction matter: the same inputs under the right instruction, other wordings, others' and none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from tagi.data.task import Task
from tagi.errors import DataError
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI

Prepare = Callable[[], Any]

DESCRIPTIONS = {
    "right": "the task's instruction",
    "paraphrase": "the same in other words",
    "other": "another task's instruction",
    "none": "no instruction, no adapter",
    "right LoRA, other states": "LoRA from the task's instruction, states from another's",
    "other LoRA, right states": "LoRA from another task's instruction, states from the task's",
    "LoRA alone": "LoRA from the task's instruction, no states",
    "states alone": "states from the task's instruction, no LoRA",
}
"""Condition -> what the method is given."""


def other_task(tasks: Sequence[Task]) -> list[int]:
    """For every task the index of another one, each used once: half the list further on."""
    if len(tasks) < 2:
        raise DataError(f"another task's instruction needs at least 2 tasks, got {len(tasks)}")
    return [(index + len(tasks) // 2) % len(tasks) for index in range(len(tasks))]


def instruction_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> dict[str, Prepare]:
    """States under `right`, `paraphrase` (where every task has one), `other` and `none`, each made when asked for."""

    def prepared(instructions: Sequence[str]) -> Any:
        worded = [replace(task, instruction=text) for task, text in zip(tasks, instructions, strict=True)]
        return method.prepare(worded, truncate=truncate)

    own = [task.instruction for task in tasks]
    conditions: dict[str, Prepare] = {"right": lambda: prepared(own)}
    if all(task.paraphrases for task in tasks):
        conditions["paraphrase"] = lambda: prepared([task.paraphrases[0] for task in tasks])
    conditions["other"] = lambda: prepared([own[index] for index in other_task(tasks)])
    conditions["none"] = lambda: method.without_instruction(prepared(own))
    return conditions


def channel_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> dict[str, Prepare]:
    """The LoRA and the instruction states crossed and alone; nothing for a method without these channels."""
    if not isinstance(method, TAGI):
        return {}
    if not (method.generator.settings.fuses or method.generator.settings.concatenates):
        return {}
    states = method.prepare(tasks, truncate=truncate)
    other = torch.tensor(other_task(tasks))
    return {
        "right LoRA, other states": lambda: method.crossed(states, other.argsort()).select(other),
        "other LoRA, right states": lambda: method.crossed(states, other),
        "LoRA alone": states.without_states,
        "states alone": lambda: method.states_alone(states),
    }
