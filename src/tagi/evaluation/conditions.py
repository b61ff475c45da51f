"""Does the instruction matter: the same inputs under the right instruction, other wordings, others' and none."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch

from tagi.adapters.bank import LoraBank
from tagi.data.task import Task
from tagi.errors import DataError, InputError
from tagi.evaluation.adapter_distances import generated_updates
from tagi.evaluation.wrong_instructions import Substitutes, of_other_category, of_same_category, random_words, shuffled
from tagi.hypernetwork.states import TaskStates
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI


@dataclass(frozen=True, slots=True)
class Condition:
    """What a method is given in a task's place: `prepare(i)` makes the states of task i alone.

    `given` says so in words. `tasks` are the indices of the tasks for which there is such a thing, None for all.
    """

    name: str
    given: str
    prepare: Callable[[int], Any]
    tasks: tuple[int, ...] | None = None

    def covered(self, tasks: Sequence[Task]) -> list[int]:
        """The indices of the tasks that it covers, in order."""
        return list(range(len(tasks)) if self.tasks is None else self.tasks)


INSTRUCTIONS = ("right", "paraphrase", "other", "none")
SENSITIVITY = (
    "right",
    "paraphrase",
    "same category",
    "other category",
    "shuffled",
    "random",
    "empty",
    "mean adapter",
    "none",
)
CHANNELS = (
    "right LoRA, other states",
    "other LoRA, right states",
    "LoRA alone",
    "other LoRA alone",
    "states alone",
)


RESIDUALS = ("zero residual", "mean residual", "other residual")
"""The task's instruction in the prompt, under the shared LoRA with another residual than the task's own."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, in one order whatever theirs; an `InputError` that lists all for one that is none."""
    wanted, every = set(names), tuple(dict.fromkeys((*INSTRUCTIONS, *SENSITIVITY, *CHANNELS, *RESIDUALS)))
    if unknown := sorted(wanted.difference(every)):
        raise InputError(f"--condition: expected one of {'; '.join(every)}, got {unknown[0]!r}")
    return tuple(name for name in every if name in wanted)


def conditions(
    method: Method, tasks: Sequence[Task], names: Iterable[str], *, truncate: bool = True, seed: int = 0
) -> list[Condition]:
    """The conditions of these names, in that order; one that the tasks have no words for, or the method no part, is
    left out. `seed` draws what is drawn.
    """
    wanted = list(names)
    if not (method.reads_instruction or method.needs_demonstrations):  # nothing of a task could be another's
        return [Condition("right", "the input alone", lambda index: method.prepare([tasks[index]], truncate=truncate))]
    made = instruction_conditions(method, tasks, truncate=truncate)
    if not set(wanted) <= set(INSTRUCTIONS):  # substitutes compare every task with every other: only where asked for
        made += wrong_instruction_conditions(method, tasks, seed, truncate=truncate)
        made += adapter_conditions(method, tasks, truncate=truncate)
        made += channel_conditions(method, tasks, truncate=truncate)
        made += residual_conditions(method, tasks, truncate=truncate)
    by_name = {condition.name: condition for condition in made}
    return [by_name[name] for name in wanted if name in by_name]


def other_task(tasks: Sequence[Task]) -> list[int]:
    """For every task the index of another one, each used once: half the list further on."""
    if len(tasks) < 2:
        raise DataError(f"another task's instruction needs at least 2 tasks, got {len(tasks)}")
    return [(index + len(tasks) // 2) % len(tasks) for index in range(len(tasks))]


def instruction_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """`right`, `paraphrase` (where every task has one), `other` (of two tasks or more) and `none`.

    A method that reads demonstrations alone has no `paraphrase`: other words would change nothing.
    """

    def right(index: int) -> Any:
        return method.prepare([tasks[index]], truncate=truncate)

    reworded_tasks = [replace(task, instruction=text) for task in tasks if (text := _paraphrase(task)) is not None]

    def reworded(index: int) -> Any:
        return method.prepare([reworded_tasks[index]], truncate=truncate)

    made = [Condition("right", "the task's instruction", right)]
    if method.reads_instruction and len(reworded_tasks) == len(tasks):
        made.append(Condition("paraphrase", "the same in other words", reworded))
    if len(tasks) > 1:
        other = other_task(tasks)
        made.append(Condition("other", "another task's instruction", lambda index: right(other[index])))
    made.append(Condition("none", "no instruction, no adapter", lambda index: method.without_instruction(right(index))))
    return made


def _paraphrase(task: Task) -> str | None:
    """The text that stands for the instruction in the condition `paraphrase`, None if the task has no other wording.

    Of named wordings "plain", or else the first; without them the first of `paraphrases`. A text that the task's
    instruction has already is passed over.
    """
    named = {wording.name: wording.text for wording in task.wordings}
    preferred = [named["plain"]] if "plain" in named else []
    texts = [*preferred, *named.values(), *task.paraphrases]
    return next((text for text in texts if text != task.instruction), None)


def wrong_instruction_conditions(
    method: Method, tasks: Sequence[Task], seed: int, *, truncate: bool = True
) -> list[Condition]:
    """`same category`, `other category`, `shuffled` and `random`; each covers the tasks for which there is one.

    Another task's instruction comes with that task's demonstrations, shuffled and random words with none: the task's
    own would tell what it is. So a method that cannot do without has neither of the two.
    """

    def made_from(name: str, given: str, substitutes: Substitutes) -> list[Condition]:
        def prepare(index: int) -> Any:
            return method.prepare([substitutes[index]], truncate=truncate)

        all_tasks = len(substitutes) == len(tasks)
        return [Condition(name, given, prepare, None if all_tasks else tuple(substitutes))] if substitutes else []

    others = [
        *made_from("same category", "another task's, of the same category", of_same_category(tasks, seed)),
        *made_from("other category", "another task's, of another category", of_other_category(tasks, seed)),
    ]
    if method.needs_demonstrations:
        return others
    return [
        *others,
        *made_from("shuffled", "the instruction's words in another order", shuffled(tasks, seed)),
        *made_from("random", "as many words, from all instructions", random_words(tasks, seed)),
    ]


def adapter_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """`empty` and, of two tasks or more, `mean adapter`; nothing for a method that generates no adapters.

    The mean adapter is the LoRA whose update is the mean of all tasks', the same for every task, without instruction
    states: with the task's own states it would be told the task, and the score would not be the mean LoRA's. Its
    counterpart with the task's own LoRA is `LoRA alone`. Of another module it is what its bank calls the mean.
    """
    if not isinstance(method, TAGI):
        return []

    @cache
    def mean() -> TaskStates:
        bank = generated_updates(method, tasks, truncate=truncate).mean()
        bare = method.wordless().without_states()
        return replace(bare, bank=bank.map(lambda factor: factor.to(bare.mask.device)))

    module = method.generator.settings.module
    noun = "LoRA" if module == "lora" else module
    made = [Condition("empty", "an instruction without words", lambda index: method.wordless())]
    if len(tasks) > 1:
        made.append(Condition("mean adapter", f"the tasks' mean {noun}, no states", lambda index: mean()))
    return made


def channel_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """The LoRA and the instruction states crossed and alone; nothing for a method without these channels."""
    if not isinstance(method, TAGI):
        return []
    settings = method.generator.settings
    beside = settings.fusion != "none" or method.generator.keeps_prefix
    if not beside or settings.module != "lora":
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
        Condition(
            "other LoRA alone",
            "LoRA from another task's instruction, no states",
            lambda index: own(other[index]).without_states(),
        ),
    ]


def residual_conditions(method: Method, tasks: Sequence[Task], *, truncate: bool = True) -> list[Condition]:
    """What the generated residual adds: the shared LoRA with none, with the tasks' mean and with another task's.

    In all of them the task's own instruction is read under the LoRA of the condition. Nothing for a method without a
    shared LoRA.
    """
    if not isinstance(method, TAGI) or method.generator.shared is None:
        return []

    def own(index: int) -> TaskStates:
        return method.prepare([tasks[index]], truncate=truncate)

    @cache
    def shared(residual: Literal["zero", "mean"]) -> LoraBank:
        indices = range(len(tasks)) if residual == "mean" else range(1)
        return method.residual_bank(residual, [own(index).without_states() for index in indices])

    zero = Condition(
        "zero residual",
        "the shared LoRA alone, the task's instruction",
        lambda index: method.under(own(index), shared("zero")),
    )
    if len(tasks) < 2:
        return [zero]
    other = other_task(tasks)

    def exchanged(index: int) -> TaskStates:
        both = method.prepare([tasks[index], tasks[other[index]]], truncate=truncate)
        return method.crossed(both, torch.tensor([1, 0])).select(torch.tensor([0]))

    return [
        zero,
        Condition(
            "mean residual",
            "the shared LoRA with the tasks' mean residual, the task's instruction",
            lambda index: method.under(own(index), shared("mean")),
        ),
        Condition("other residual", "the shared LoRA with another task's residual, the task's instruction", exchanged),
    ]
