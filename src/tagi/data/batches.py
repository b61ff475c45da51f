"""Which rows make up which micro-batch: a pure function of (seed, index), so a resumed run sees the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

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

    Tasks are drawn without replacement within a micro-batch: uniformly, or with `balance` "category" each by
    first drawing a category (of those with tasks left), so that large categories do not crowd out small ones.
    A wording is drawn uniformly from the instruction and its paraphrases, once per task. Item i depends on
    `seed` and i alone. Raises `DataError` for no task and for one without instances.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        length: int,
        tasks_per_batch: int,
        queries_per_task: int,
        seed: int,
        balance: Literal["natural", "category"] = "natural",
    ) -> None:
        empty = [task.name for task in tasks if not task.instances]
        if empty or not tasks:
            raise DataError(f"training needs tasks with instances, got {empty[0] + ' without' if empty else 'no task'}")
        self.tasks = tuple(tasks)
        self.length = length
        self.tasks_per_batch = tasks_per_batch
        self.queries_per_task = queries_per_task
        self.seed = seed
        self.balance = balance
        self._categories = _by_category(self.tasks)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Sample]:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = random.Random(f"task batches {self.seed} {index}")
        distinct = min(self.tasks_per_batch, len(self.tasks))
        chosen = rng.sample(self.tasks, distinct) if self.balance == "natural" else self._balanced(distinct, rng)
        rows = []
        for task in chosen:
            instruction = rng.choice((task.instruction, *task.paraphrases))
            for instance in rng.choices(task.instances, k=self.queries_per_task):
                rows.append(Sample(task, instruction, instance.input, rng.choice(instance.outputs)))
        return rows

    def _balanced(self, count: int, rng: random.Random) -> list[Task]:
        left = [list(tasks) for tasks in self._categories.values()]
        chosen = []
        for _ in range(count):
            pool = rng.choice(left)
            chosen.append(pool.pop(rng.randrange(len(pool))))
            if not pool:
                left = [other for other in left if other]
        return chosen


def hold_out(tasks: Sequence[Task], count: int, seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Training tasks and `count` validation tasks, drawn by `seed`; both in the order they came.

    One task of each category in turn, in random order: never a category's last task while another has two left.
    The order of `tasks` plays no part, their names do. (Templates of one P3 dataset share their examples, so
    that there validation is on other wordings rather than on other texts.)

    Raises `DataError` when no training task would remain.
    """
    if not 0 <= count < len(tasks):
        raise DataError(f"hold-out: expected at least 0 and fewer than the {len(tasks)} tasks, got {count}")
    rng = random.Random(f"hold out {seed}")
    pools = _by_category(sorted(tasks, key=lambda task: task.name))
    order = sorted(pools)
    for category in order:
        rng.shuffle(pools[category])
    rng.shuffle(order)
    held: list[Task] = []
    while len(held) < count:
        # A round: every category that can give a task and keep one does, and when none can, every one that has any.
        kept = 1 if max(map(len, pools.values())) > 1 else 0
        held += [pools[category].pop() for category in order if len(pools[category]) > kept]
    names = {task.name for task in held[:count]}
    return tuple(task for task in tasks if task.name not in names), tuple(task for task in tasks if task.name in names)


def _by_category(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    categories: dict[str, list[Task]] = {}
    for task in tasks:
        categories.setdefault(task.category, []).append(task)
    return categories


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
