"""Token counts of tasks' texts, from which FLOPs are computed."""

from collections.abc import Callable, Sequence
from statistics import fmean, median_low

from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import DataError
from tagi.methods.flops import Lengths


def task_lengths(
    text: TextEncoder, task: Task, examples: int = 100, *, input_encoder: Callable[..., list[int]] | None = None
) -> Lengths:
    """Measure a task's texts, as methods read them: with special tokens, and truncated to their limits.

    Args:
        text: Text encoder.
        task: The task. Its instruction is measured, with demonstrations if the settings of `text` include them, and so
            are its shots and instances. Lengths of instances are averaged; an instance with several outputs counts with
            the mean of their lengths.
        examples: Number of inputs to answer, stored in the result. It does not limit how many instances are measured.
        input_encoder: Encodes an input; by default `text.input`. A generator with `instruction_cache` has different
            tokens around an input (`GeneratorModel.input_encoder`).

    Raises `DataError` for a task without instances.
    """
    input_encoder = input_encoder or text.input
    if not task.instances:
        raise DataError(f"{task.name}: expected instances to measure, got none")
    instruction, shown = task.instruction, task.examples
    told = text.settings.reads == "instruction"
    inputs = [instance.input if told else instance.prompt for instance in task.instances]
    apart = any(instance.rendered is not None for instance in task.instances)
    whole = fmean(len(text.input(instance.prompt, truncate=True)) for instance in task.instances) if apart else None
    return Lengths(
        instruction=len(text.of_task(task, truncate=True)),
        input=fmean(len(input_encoder(one, truncate=True)) for one in inputs),
        output=fmean(fmean(len(text.target(one)) for one in instance.outputs) for instance in task.instances),
        examples=examples,
        concatenated=fmean(len(text.concatenated(instruction, shown, one, truncate=True)) for one in inputs),
        shots=len(task.shots),
        demonstration=fmean(len(text.demonstration(shot)) for shot in task.shots) if task.shots else 0,
        rendered=whole,
    )


def task_of_median_length(tasks: Sequence[Task], text: TextEncoder) -> Task:
    """Return the task whose length, instruction and input in one text averaged over instances, is the median."""
    prompts = [task_lengths(text, task).prompt for task in tasks]
    return tasks[prompts.index(median_low(prompts))]
