"""The task model that every reader yields and every method consumes."""

from dataclasses import dataclass

TASK_METRICS = ("choice", "exact", "exact_case", "json", "number", "rouge_l")
"""What a task may name as its metric."""


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration: an input and its answer, as text."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One input to answer: accepted `outputs` (at least one) and, for classification, the `choices`."""

    id: str
    input: str
    outputs: tuple[str, ...]
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction with what it applies to.

    `category` names the group of tasks that shares one teacher; `examples` are demonstrations, never among
    `instances`; `paraphrases` are other wordings of `instruction`. `shots` are labelled examples that were drawn for
    it: what methods read that learn in context, and others are tuned on; never among `instances` either.
    `metric` is one of `TASK_METRICS` and says how an answer to this task is scored; None leaves it to the evaluation.
    """

    name: str
    category: str
    instruction: str
    instances: tuple[Instance, ...]
    examples: tuple[Example, ...] = ()
    paraphrases: tuple[str, ...] = ()
    shots: tuple[Example, ...] = ()
    metric: str | None = None
