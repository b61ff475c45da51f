"""Lengths of tasks' texts in tokens, from which FLOPs are computed."""

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
        text: Turns texts into tokens.
        task: Its instruction, with demonstrations if the settings of `text` say so, is measured; so are its shots and
            all of its instances, of which means are returned. Several outputs of an instance count with their mean.
        examples: Number of inputs to be answered, however many are measured.
        input_encoder: Turns an input into tokens, by default `text.input`. A generator with `instruction_cache` has
            other tokens around an input (`GeneratorModel.input_encoder`).

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
    """The task with the median length of instruction and input in one text, a mean over its instances."""
    prompts = [task_lengths(text, task).prompt for task in tasks]
    return tasks[prompts.index(median_low(prompts))]
