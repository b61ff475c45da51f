"""Micro-batches of training rows: pure functions of seed and index, so that a resumed run gets the same ones."""

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
    """A training row: a task in one of its wordings, an input and one accepted output.

    `shots` are the demonstrations of the row's episode, if it belongs to one. `examples` are the demonstrations that
    were drawn for the row, possibly none. If `examples` is None, nothing was drawn, and the row has the task's own
    examples. `rendered` is as in `Instance`.
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
        """The text for methods that read no instruction."""
        return self.input if self.rendered is None else self.rendered

    @property
    def asked(self) -> Task:
        """The task in the row's wording, with the row's demonstrations if any were drawn."""
        return replace(
            self.task,
            instruction=self.instruction,
            shots=self.shots or self.task.shots,
            examples=self.task.examples if self.examples is None else self.examples,
        )


T = TypeVar("T")


@dataclass(eq=False)
class IndexedBatches(Sequence[list[T]], ABC):
    """Micro-batches that depend only on their index.

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
        read: Returns the micro-batch of an index, independent of earlier calls.
    """

    read: Callable[[int], Sequence[T]]

    def batch(self, index: int) -> list[T]:
        """Return the micro-batch of an index."""
        return list(self.read(index))


@dataclass(eq=False)
class TaskBatches(IndexedBatches[Sample]):
    """Micro-batches that mix tasks, as in MetaICL. A micro-batch depends only on `seed` and its index.

    Wordings and demonstrations are drawn independently of tasks, inputs and targets, and do not change these.

    Args:
        tasks: The tasks, each with instances. Within a micro-batch they are drawn without replacement. A wording is
            drawn uniformly from the instruction and its paraphrases, once per task and micro-batch.
        tasks_per_batch: Number of tasks in a micro-batch.
        queries_per_task: Number of rows per task.
        seed: Random seed.
        balance: "natural" draws tasks uniformly. "category" first draws a category among those with tasks left, so that
            large categories do not dominate.
        shots: Number of demonstrations per episode. With more than 0, the rows of a task form an episode: they share
            this number of demonstrations (or as many as there are), drawn from instances with other inputs.
        wordings: Weights by name (of `Task.texts`), at least one of them positive, in place of the uniform draw. A task
            draws among the names that it has; without any of them it keeps its own instruction.
        demonstrations: Probability, per task and micro-batch, that rows have some of the task's examples as
            demonstrations: 1 to `positives` of them (or as many as there are), uniformly, in random order. Otherwise
                they
            have none. With None, every row has the task's own examples.
        positives: Maximum number of drawn examples.

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
        """Return the examples of the task's rows, or None for the task's own examples."""
        if self.demonstrations is None:
            return None
        most = min(self.positives, len(task.examples))
        # Always draw both numbers, so that another probability does not change the draws of later tasks.
        shows, seed = rng.random() < self.demonstrations, rng.random()
        if not shows or not most:
            return ()
        rng = random.Random(seed)
        return tuple(rng.sample(task.examples, rng.randint(1, most)))

    def _askable(self, task: Task, rng: random.Random) -> Sequence[Instance]:
        """Return the instances that may become rows; with shots, all except those of one input, kept for shots."""
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
    """Draw one of the task's texts by weight. If the task has none of the weighted names, return its instruction."""
    known = [(text, weights[name]) for name, text in task.texts.items() if weights.get(name, 0) > 0]
    if not known:
        return task.instruction
    texts, shares = zip(*known, strict=True)
    return rng.choices(texts, shares)[0]


def draw_examples(name: str, instances: Iterable[Instance], seed: int) -> list[Example]:
    """Return labelled examples of the task `name` in random order, one per input; for P3, as rendered prompts.

    The order depends only on the seed, the task's name and each input, so additional examples do not change the order
    of the others.
    """

    def place(instance: Instance) -> bytes:
        return hashlib.blake2b(f"shots {seed}\0{name}\0{instance.prompt}".encode(), digest_size=16).digest()

    distinct = {instance.prompt: instance for instance in reversed(list(instances))}
    return [Example(one.prompt, one.outputs[0]) for one in sorted(distinct.values(), key=place)]


def hold_out(tasks: Sequence[Task], count: int, seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Return training tasks and `count` validation tasks, drawn by `seed`; both in their given order.

    Validation tasks are taken from each category in turn, in random order. A category's last task is taken only if no
    category has two left. The draw depends on the tasks' names, not on their order. (Templates of a P3 dataset share
    their examples, so validation on P3 measures other wordings rather than other texts.)

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
        # A round takes a task from every category with at least two left, or else from every category with any left.
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
    """Return the tasks with every task's inputs shuffled among its instances, for a control experiment.

    Inputs and targets keep their frequencies, but inputs contain no information about targets.
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
