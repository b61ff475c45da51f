"""Micro-batches of training rows: pure functions of seed and index, so that a resumed run sees the same ones."""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal, TypeVar

from tagi.data.task import Example, Instance, Task
from tagi.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One training row: a task in one of its wordings, an input and one accepted output.

    `shots` are the demonstrations of the row's episode, if it is of one. `examples` are the demonstrations that were
    drawn for the row, possibly none; with None nothing was drawn, and the row shows the task's own examples. `rendered`
    is as of `Instance`.
    """

    task: Task
    instruction: str
    input: str
    target: str
    shots: tuple[Example, ...] = ()
    examples: tuple[Example, ...] | None = None
    rendered: str | None = None

    @property
    def prompt(self) -> str:
        """What methods read that read no instruction."""
        return self.input if self.rendered is None else self.rendered

    @property
    def asked(self) -> Task:
        """The task in the row's wording, with the row's demonstrations if it has any."""
        return replace(
            self.task,
            instruction=self.instruction,
            shots=self.shots or self.task.shots,
            examples=self.task.examples if self.examples is None else self.examples,
        )


T = TypeVar("T")


@dataclass(eq=False)
class IndexedBatches(Sequence[list[T]], ABC):
    """Micro-batches, each a function of its index alone.

    Args:
        length: Number of micro-batches.
    """

    length: int = field(kw_only=True)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[T]:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.batch(index)

    @abstractmethod
    def batch(self, index: int) -> list[T]:
        """Return the micro-batch of an index from 0 to `length` - 1."""


@dataclass(eq=False)
class StreamBatches(IndexedBatches[T]):
    """Micro-batches of an endless stream.

    Args:
        read: Returns the micro-batch of an index, whichever were read before.
    """

    read: Callable[[int], Sequence[T]]

    def batch(self, index: int) -> list[T]:
        """Return the micro-batch of an index."""
        return list(self.read(index))


@dataclass(eq=False)
class TaskBatches(IndexedBatches[Sample]):
    """Micro-batches that mix tasks as in MetaICL. A micro-batch depends on `seed` and its index alone.

    Wordings and demonstrations are drawn separately: rows have the same tasks, inputs and targets with any of them.

    Args:
        tasks: The tasks, each with instances. Within a micro-batch they are drawn without replacement. A wording is
            drawn uniformly from the instruction and its paraphrases, once per task and micro-batch.
        tasks_per_batch: Tasks of a micro-batch.
        queries_per_task: Rows of each of its tasks.
        seed: Seed of all draws.
        balance: "natural" draws tasks uniformly; "category" draws a category first, of those with tasks left, so that
            large categories do not crowd out small ones.
        shots: With more than 0 a micro-batch holds an episode of each task: its rows share so many demonstrations, or
            as many as there are, drawn from the task's instances with other inputs than the rows'.
        wordings: Weights by name (of `Task.texts`), at least one of them positive, in place of the uniform draw. A task
            draws among the names that it has; without any of them it keeps its own instruction.
        demonstrations: Share of draws, one per task and micro-batch, that show some of the task's examples: a number
            from 1 to `positives` (or as many as there are), all equally likely, in random order. The other draws show
            none. With None every row shows the task's own examples.
        positives: Most examples that a draw shows.

    Raises:
        DataError: There are no tasks, a task has no instances (with `shots`: only one input), weights are negative or
            all 0, or the share is outside 0 to 1 or has no `positives`.
    """

    tasks: Sequence[Task]
    _: KW_ONLY
    tasks_per_batch: int
    queries_per_task: int
    seed: int
    balance: Literal["natural", "category"] = "natural"
    shots: int = 0
    wordings: Mapping[str, float] | None = None
    demonstrations: float | None = None
    positives: int = 0

    def __post_init__(self) -> None:
        self.tasks = tasks = tuple(self.tasks)
        wordings, demonstrations, positives = self.wordings, self.demonstrations, self.positives
        empty = [task.name for task in tasks if not task.instances]
        if empty or not tasks:
            raise DataError(f"training needs tasks with instances, got {empty[0] + ' without' if empty else 'no task'}")
        lonely = [task.name for task in tasks if len({instance.prompt for instance in task.instances}) < 2]
        if self.shots and lonely:
            raise DataError(
                f"{lonely[0]}: expected instances of at least 2 different inputs, some to ask and some to show, got 1"
            )
        if wordings is not None and (min(wordings.values(), default=0) < 0 or not any(wordings.values())):
            raise DataError(f"wordings: weights must be at least 0 and not all 0, got {dict(wordings)}")
        if demonstrations is not None and not 0 <= demonstrations <= 1:
            raise DataError(f"demonstrations: the share must be between 0 and 1, got {demonstrations}")
        if demonstrations and positives < 1:
            raise DataError(f"demonstrations: a share of {demonstrations} needs at least 1 positive, got {positives}")
        self._categories = _by_category(tasks)

    def batch(self, index: int) -> list[Sample]:
        """Return the rows of a micro-batch."""
        rng = random.Random(f"task batches {self.seed} {index}")
        distinct = min(self.tasks_per_batch, len(self.tasks))
        chosen = rng.sample(self.tasks, distinct) if self.balance == "natural" else self._balanced(distinct, rng)
        rng_of_words = random.Random(f"wordings and demonstrations {self.seed} {index}")
        rows = []
        for task in chosen:
            instruction = rng.choice((task.instruction, *task.paraphrases))
            if self.wordings is not None:
                instruction = _weighted_wording(task, self.wordings, rng_of_words)
            examples = self._drawn_examples(task, rng_of_words)
            queries = rng.choices(self._askable(task, rng), k=self.queries_per_task)
            targets = [rng.choice(instance.outputs) for instance in queries]
            shown = self._demonstrations(task, queries, rng)
            for instance, target in zip(queries, targets, strict=True):
                rows.append(Sample(task, instruction, instance.input, target, shown, examples, instance.rendered))
        return rows

    def _drawn_examples(self, task: Task, rng: random.Random) -> tuple[Example, ...] | None:
        """Return the examples that the task's rows show, or None for the task's own examples."""
        if self.demonstrations is None:
            return None
        most = min(self.positives, len(task.examples))
        # Both numbers are drawn in any case, so that a change of the share keeps the draws of later tasks.
        shows, seed = rng.random() < self.demonstrations, rng.random()
        if not shows or not most:
            return ()
        rng = random.Random(seed)
        return tuple(rng.sample(task.examples, rng.randint(1, most)))

    def _askable(self, task: Task, rng: random.Random) -> Sequence[Instance]:
        """Return the instances that may be asked: with shots all but those of one input, which is left to be shown."""
        if not self.shots:
            return task.instances
        shown = rng.choice(task.instances).prompt
        return [instance for instance in task.instances if instance.prompt != shown]

    def _demonstrations(self, task: Task, queries: Sequence[Instance], rng: random.Random) -> tuple[Example, ...]:
        if not self.shots:
            return ()
        asked = {instance.prompt for instance in queries}
        others = list({one.prompt: one for one in task.instances if one.prompt not in asked}.values())
        chosen = rng.sample(others, min(self.shots, len(others)))
        return tuple(Example(one.prompt, rng.choice(one.outputs)) for one in chosen)

    def _balanced(self, count: int, rng: random.Random) -> list[Task]:
        left = [list(tasks) for tasks in self._categories.values()]
        chosen = []
        for _ in range(count):
            pool = rng.choice(left)
            chosen.append(pool.pop(rng.randrange(len(pool))))
            if not pool:
                left = [other for other in left if other]
        return chosen


def _weighted_wording(task: Task, weights: Mapping[str, float], rng: random.Random) -> str:
    """Draw one of the task's texts by the weights of those that it has; its instruction if it has none of them."""
    known = [(text, weights[name]) for name, text in task.texts.items() if weights.get(name, 0) > 0]
    if not known:
        return task.instruction
    texts, shares = zip(*known, strict=True)
    return rng.choices(texts, shares)[0]


def draw_examples(name: str, instances: Iterable[Instance], seed: int) -> list[Example]:
    """Return labelled examples of the task `name` in a random order, each input once, of P3 as a rendered prompt.

    An example's place depends on the seed, the task's name and its own input alone, so that further examples do not
    change the order of the others.
    """

    def place(instance: Instance) -> bytes:
        return hashlib.blake2b(f"shots {seed}\0{name}\0{instance.prompt}".encode(), digest_size=16).digest()

    distinct = {instance.prompt: instance for instance in reversed(list(instances))}
    return [Example(one.prompt, one.outputs[0]) for one in sorted(distinct.values(), key=place)]


def hold_out(tasks: Sequence[Task], count: int, seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Return training tasks and `count` validation tasks, drawn by `seed`; both in their given order.

    Validation tasks are taken from each category in turn, in random order, but a category's last task only if no other
    has two left. The draw depends on the tasks' names and not on their order. (Templates of one P3 dataset share their
    examples, so that validation there is on other wordings rather than on other texts.)

    Raises `DataError` if no training task would remain.
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
        # A round takes a task from every category that has another; when none has, from every one that has any.
        least = 1 if max(map(len, pools.values())) > 1 else 0
        held += [pools[category].pop() for category in order if len(pools[category]) > least]
    names = {task.name for task in held[:count]}
    return tuple(task for task in tasks if task.name not in names), tuple(task for task in tasks if task.name in names)


def _by_category(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    categories: dict[str, list[Task]] = {}
    for task in tasks:
        categories.setdefault(task.category, []).append(task)
    return categories


def with_shuffled_inputs(tasks: Sequence[Task], seed: int) -> tuple[Task, ...]:
    """Return the tasks with every task's inputs shuffled among its instances: a control.

    Inputs and targets keep their frequencies, but an input says nothing about its target.
    """
    shuffled = []
    for task in tasks:
        inputs = [(instance.input, instance.rendered) for instance in task.instances]
        random.Random(f"shuffled inputs {seed} {task.name}").shuffle(inputs)
        instances = tuple(
            replace(instance, input=text, rendered=rendered)
            for instance, (text, rendered) in zip(task.instances, inputs, strict=True)
        )
        shuffled.append(replace(task, instances=instances))
    return tuple(shuffled)
