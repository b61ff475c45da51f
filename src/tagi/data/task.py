"""The task model that every reader yields and every method consumes."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

DEFINITION = "definition"
"""Name of a task's own instruction among its wordings."""

Metric = Literal["choice", "exact", "exact_case", "json", "number", "rouge_l", "rouge_l_unicode"]
TASK_METRICS: tuple[Metric, ...] = get_args(Metric)
"""Metrics that a task may name."""
HEADLINES = {"right": "right answers", "rouge_l": "ROUGE-L", "rouge_l_unicode": "ROUGE-L, Unicode words"}
"""Means that tasks count for: the share of right answers, by every metric but ROUGE-L. Their names in tables."""
OwnSplit = Literal["train", "test"]
"""What a user's own task may be for."""


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration: an input and its answer, as text."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One input to answer: accepted `outputs` (at least one) and, for classification, the `choices`.

    `rendered` is the whole prompt where `input` holds its fields alone, without the template's text. Then methods that
    read no instruction read it in the input's place.
    """

    id: str
    input: str
    outputs: tuple[str, ...]
    choices: tuple[str, ...] | None = None
    rendered: str | None = None

    @property
    def prompt(self) -> str:
        """What methods read that read no instruction."""
        return self.input if self.rendered is None else self.rendered


def as_prompted(task: "Task") -> "Task":
    """Return the task with rendered prompts as its inputs, the same ones whatever methods read of them."""
    if all(instance.rendered is None for instance in task.instances):
        return task
    whole = tuple(replace(instance, input=instance.prompt, rendered=None) for instance in task.instances)
    return replace(task, instances=whole)


@dataclass(frozen=True, slots=True)
class Wording:
    """An instruction in other words, under a name such as "terse" that many tasks share."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction with what it applies to.

    `category` names the group of tasks that shares one teacher; `examples` are demonstrations, never among
    `instances`; `paraphrases` are other wordings of `instruction`. `shots` are labelled examples that were drawn for
    it: what methods read that learn in context, and others are tuned on; never among `instances` either.

    `wordings` are other wordings that have names. They are used only where a name is asked for: `data.wordings` of a
    recipe, `tagi evaluate --wording`, and the condition `paraphrase`.

    `metric` is one of `TASK_METRICS` and says how an answer to this task is scored; None leaves it to the evaluation.
    `split` says whether a user's own task is for training or for testing; None leaves it to the recipe.
    """

    name: str
    category: str
    instruction: str
    instances: tuple[Instance, ...]
    examples: tuple[Example, ...] = ()
    paraphrases: tuple[str, ...] = ()
    shots: tuple[Example, ...] = ()
    wordings: tuple[Wording, ...] = ()
    metric: Metric | None = None
    split: OwnSplit | None = None

    @property
    def texts(self) -> dict[str, str]:
        """All wordings of the instruction by name, the task's own first, as "definition".

        `paraphrases` have no names of their own: they are named "1", "2" and so on.
        """
        numbered = {str(number): text for number, text in enumerate(self.paraphrases, start=1)}
        return {DEFINITION: self.instruction, **numbered, **{one.name: one.text for one in self.wordings}}
