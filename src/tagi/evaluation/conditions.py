"""Conditions of an evaluation: what the adapter is generated from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from tagi.adapters.bank import LoraBank, as_lora
from tagi.data.task import Task
from tagi.errors import InputError
from tagi.evaluation.adapter_distances import generated_updates
from tagi.evaluation.substitutes import SUBSTITUTES, other_task
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates
from tagi.methods.protocol import Method

STOCK = "stock"
"""The unchanged base model with the task's instruction in its prompt."""
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
CHANNELS = ("right LoRA, other states", "other LoRA, right states", "LoRA alone", "other LoRA alone", "states alone")
RESIDUALS = ("zero residual", "mean residual", "other residual")
"""The task's instruction in the prompt, under the shared LoRA with another residual."""

Prepare = Callable[[int], Any]
"""Returns the states of a single task by its index."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition.

    Args:
        name: One of the names above.
        given: Description for records.
        prepare: Returns the states for a task's inputs.
        tasks: Indices of the tasks that have this condition, None for all.
        method: Another method that answers, if any.
    """

    name: str
    given: str
    prepare: Prepare
    tasks: tuple[int, ...] | None = None
    method: Method | None = None

    def covered(self, tasks: Sequence[Task]) -> list[int]:
        """Return the indices of the tasks that the condition covers, in order."""
        return list(range(len(tasks)) if self.tasks is None else self.tasks)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the requested condition names, deduplicated and in canonical order.

    Raises `InputError`, which lists all names, for an unknown one.
    """
    groups = (INSTRUCTIONS[0], STOCK, *INSTRUCTIONS, *SENSITIVITY, *CHANNELS, *RESIDUALS)
    wanted, every = set(names), tuple(dict.fromkeys(groups))
    if unknown := sorted(wanted.difference(every)):
        raise InputError(f"--condition: expected one of {'; '.join(every)}, got {unknown[0]!r}")
    return tuple(name for name in every if name in wanted)


def conditions(
    method: Method,
    tasks: Sequence[Task],
    names: Sequence[str],
    *,
    seed: int = 0,
    stock: Callable[[], Method | None] = lambda: None,
) -> list[Condition]:
    """Return the conditions of these names, in that order.

    Args:
        method: The method to evaluate.
        tasks: The tasks.
        names: Names of conditions.
        seed: Seed of random substitutes.
        stock: Returns the unchanged base model, if it is known.

    Conditions are left out if the tasks lack a text (`paraphrase` without another wording of every task) or the method
    lacks a part (`mean adapter` without generated adapters, `paraphrase` for a method that reads demonstrations only).
    Shuffled and random words come without demonstrations, which would reveal the task. Methods that need demonstrations
    therefore have neither condition. A method that reads the input only has only the condition `right`.
    """
    own, made = partial(_prepare, method, tasks), dict[str, Condition]()
    if STOCK in names and (base := stock()) is not None:
        told = "the stock model, with the task's instruction in its prompt"
        made[STOCK] = Condition(STOCK, told, partial(_prepare, base, tasks), method=base)
    if not (method.reads_instruction or method.needs_demonstrations):
        return [Condition("right", "the input alone", own), *made.values()]
    lacking = [] if method.reads_instruction else ["paraphrase"]
    lacking += ["shuffled", "random"] if method.needs_demonstrations else []
    made["none"] = Condition("none", "no instruction, no adapter", lambda i: method.without_instruction(own(i)))
    if method.generator_model is not None:
        made |= _GeneratorConditions(method, method.generator_model, tasks).named()
    for name, (given, draw) in SUBSTITUTES.items():
        if name in names and name not in lacking and (substitutes := draw(tasks, seed)):
            covered = None if len(substitutes) == len(tasks) else tuple(substitutes)
            made[name] = Condition(name, given, partial(_prepare, method, substitutes), covered)
    return [made[name] for name in names if name in made]


def _prepare(method: Method, tasks: Sequence[Task] | Mapping[int, Task], index: int) -> Any:
    return method.prepare([tasks[index]], truncate=True)


@dataclass(frozen=True)
class _GeneratorConditions:
    """Conditions that change the adapter, only its LoRA or states, or the residual of a shared LoRA."""

    method: Method
    generator: GeneratorModel
    tasks: Sequence[Task]

    def named(self) -> dict[str, Condition]:
        """Return the conditions that the generator supports; with several tasks, also those that combine tasks."""
        generator, own, other = self.generator, self._own, self._other
        module, fusion = generator.settings.module, generator.settings.fusion
        several = len(self.tasks) > 1
        lora, others_lora = "LoRA from the task's instruction", "LoRA from another task's instruction"
        base, told = "the shared LoRA", "the task's instruction"
        rows: dict[str, tuple[str, Prepare]] = {
            "empty": ("an instruction without words", lambda _: empty_instruction_states(generator))
        }
        if several:
            mean = f"the tasks' mean {'LoRA' if module == 'lora' else module}, no states"
            rows["mean adapter"] = (mean, lambda _: self._mean_adapter)
        if module == "lora" and (fusion != "none" or generator.keeps_prefix):
            rows["LoRA alone"] = (f"{lora}, no states", lambda i: own(i).without_states())
            rows["states alone"] = ("states from the task's instruction, no LoRA", self._states_alone)
            if several:
                crossed = f"{lora}, states from another's", f"{others_lora}, states from the task's"
                rows["right LoRA, other states"] = (crossed[0], lambda i: self._mixed(other[i], i))
                rows["other LoRA, right states"] = (crossed[1], lambda i: self._mixed(i, other[i]))
                rows["other LoRA alone"] = (f"{others_lora}, no states", lambda i: own(other[i]).without_states())
        if generator.shared is not None:
            rows["zero residual"] = (f"{base} alone, {told}", self._without_residual)
            if several:
                mean, others = (
                    f"{base} with {whose} residual, {told}" for whose in ("the tasks' mean", "another task's")
                )
                rows["mean residual"] = (mean, lambda i: generator.states_from(own(i).read, self._mean_residual))
                rows["other residual"] = (others, lambda i: self._mixed(i, other[i]))
        return {name: Condition(name, *row) for name, row in rows.items()}

    def _own(self, *indices: int) -> TaskStates:
        states: TaskStates = self.method.prepare([self.tasks[index] for index in indices], truncate=True)
        return states

    @cached_property
    def _other(self) -> list[int]:
        return other_task(self.tasks) if len(self.tasks) > 1 else []

    @cached_property
    def _mean_adapter(self) -> TaskStates:
        """Return the adapter with the mean update of all tasks.

        It has no instruction states, which would reveal the task. Its counterpart with the task's own LoRA is `LoRA
        alone`.
        """
        bare = empty_instruction_states(self.generator).without_states()
        bank = generated_updates(self.method, self.tasks).mean()
        return replace(bare, bank=bank.map(lambda factor: factor.to(bare.mask.device)))

    def _without_residual(self, index: int) -> TaskStates:
        states = self._own(index)
        return self.generator.states_from(states.read, residual_bank(self.generator, "zero", [states]))

    @cached_property
    def _mean_residual(self) -> LoraBank:
        every = [self._own(index).without_states() for index in range(len(self.tasks))]
        return residual_bank(self.generator, "mean", every)

    def _mixed(self, states_of: int, lora_of: int) -> TaskStates:
        both = self._own(states_of, lora_of)
        return cross_lora(self.generator, both, torch.tensor([1, 0])).select(torch.tensor([0]))

    def _states_alone(self, index: int) -> TaskStates:
        states = self._own(index)
        return self.generator.states_from(states.read, states.bank.zero())


def empty_instruction_states(generator: GeneratorModel) -> TaskStates:
    """Return the states of one task with an empty instruction."""
    ids, mask = generator.text.batch_instructions([generator.text.empty_instruction()])
    device = generator.backbone.device
    return generator.prepare(ids.to(device), mask.to(device))


def cross_lora(generator: GeneratorModel, states: TaskStates, lora: Int[Tensor, " task"]) -> TaskStates:
    """Return every task's instruction states with the LoRA of task `lora[i]`.

    Raises `ValueError` for a bank that is not LoRA.
    """
    bank = as_lora(states.bank, "crossed channels").select(lora.to(states.mask.device))
    return generator.states_from(states.read, bank)


@torch.no_grad()
def residual_bank(generator: GeneratorModel, residual: str, of: Sequence[TaskStates]) -> LoraBank:
    """Return the shared LoRA with no residual ("zero") or with the mean update of several tasks ("mean"), as one task.

    Args:
        generator: A generator with a shared LoRA; `ValueError` for any other.
        residual: Which residual replaces a task's own.
        of: States of the tasks whose residuals are averaged.
    """
    length = max(one.mask.shape[1] for one in of)
    states = torch.cat([pad(one.states, (0, 0, 0, length - one.mask.shape[1])) for one in of])
    mask = torch.cat([pad(one.mask, (0, length - one.mask.shape[1])) for one in of])
    found = generator.generate_residual(states, mask)
    one = found.mean() if residual == "mean" else found.zero().select(torch.zeros_like(mask[:1, 0]).long())
    return generator.shared_with(one)
