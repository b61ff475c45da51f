"""How long tasks' texts are, in tokens as methods read them: what costs are computed from."""

from collections.abc import Callable, Sequence
from statistics import fmean, median_low

from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import DataError
from tagi.methods.flops.costs import Lengths


def task_lengths(
    text: TextEncoder, task: Task, examples: int = 100, *, asks: Callable[..., list[int]] | None = None
) -> Lengths:
    """Tokens of what is read of a task, its instruction with its demonstrations or these alone; of one of its shots as
    methods read them that learn in context, on average; and means over its instances.

    Of the input, of the outputs (an instance with several counts with their mean), and of instruction and input in one
    text. Special tokens count, and texts over their limits are cut, as in evaluation. `examples` inputs are then to be
    answered, however many were measured. `asks` turns an input into tokens, by default `text.input`: a generator with
    `instruction_cache` asks in another way (`Generator.asks`). Raises `DataError` for a task without instances.
    """
    asks = asks or text.input
    if not task.instances:
        raise DataError(f"{task.name}: expected instances to measure, got none")
    instruction, shown = task.instruction, task.examples
    inputs = [instance.input for instance in task.instances]
    return Lengths(
        instruction=len(text.of_task(task, truncate=True)),
        input=fmean(len(asks(one, truncate=True)) for one in inputs),
        output=fmean(fmean(len(text.target(one)) for one in instance.outputs) for instance in task.instances),
        examples=examples,
        concatenated=fmean(len(text.concatenated(instruction, shown, one, truncate=True)) for one in inputs),
        shots=len(task.shots),
        demonstration=fmean(len(text.demonstration(shot)) for shot in task.shots) if task.shots else 0,
    )


def task_of_median_length(tasks: Sequence[Task], text: TextEncoder) -> Task:
    """The task whose instruction and input are in the middle of all tasks', by the mean over its instances."""
    together = [task_lengths(text, task).prompt for task in tasks]
    return tasks[together.index(median_low(together))]
