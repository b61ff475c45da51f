"""Which rows make up which micro-batch: a pure function of (seed, index), so a resumed run sees the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tagi.data.task import Task
from tagi.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One training row: a task in one of its wordings, an input and one accepted output."""

    task: Task
    instruction: str
    input: str
    target: str


class TaskBatches(Sequence[list[Sample]]):
    """Micro-batches that mix tasks, MetaICL-style: `tasks_per_batch` tasks, then `queries_per_task` of each.

    Tasks are drawn without replacement within a micro-batch, a wording uniformly from the instruction and its
    paraphrases, once per task. Item i depends on `seed` and i alone.
    """

    def __init__(
        self, tasks: Sequence[Task], *, length: int, tasks_per_batch: int, queries_per_task: int, seed: int
    ) -> None:
        empty = [task.name for task in tasks if not task.instances]
        if empty or not tasks:
            raise DataError(f"training needs tasks with instances, got {empty[0] + ' without' if empty else 'no task'}")
        self.tasks = tuple(tasks)
        self.length = length
        self.tasks_per_batch = tasks_per_batch
        self.queries_per_task = queries_per_task
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Sample]:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = random.Random(f"task batches {self.seed} {index}")
        distinct = min(self.tasks_per_batch, len(self.tasks))
        chosen = rng.sample(self.tasks, distinct)
        rows = []
        for task in chosen:
            instruction = rng.choice((task.instruction, *task.paraphrases))
            for instance in rng.choices(task.instances, k=self.queries_per_task):
                rows.append(Sample(task, instruction, instance.input, rng.choice(instance.outputs)))
        return rows


def with_shuffled_inputs(tasks: Sequence[Task], seed: int) -> tuple[Task, ...]:
    """The same tasks, every task's inputs shuffled among its instances: a control.

    Inputs and targets stay as common as they were, but no target can be told from its input.
    """
    shuffled = []
    for task in tasks:
        inputs = [instance.input for instance in task.instances]
        random.Random(f"shuffled inputs {seed} {task.name}").shuffle(inputs)
        instances = tuple(replace(instance, input=text) for instance, text in zip(task.instances, inputs, strict=True))
        shuffled.append(replace(task, instances=instances))
    return tuple(shuffled)
