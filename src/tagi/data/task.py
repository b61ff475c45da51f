"""Tasks, as readers return them and methods take them."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

DEFINITION = "definition"
"""Name of a task's own instruction among its wordings."""

Metric = Literal["choice", "exact", "exact_case", "json", "number", "rouge_l", "rouge_l_unicode"]
TASK_METRICS: tuple[Metric, ...] = get_args(Metric)
"""Values of `Task.metric`."""
HEADLINES = {"right": "right answers", "rouge_l": "ROUGE-L", "rouge_l_unicode": "ROUGE-L, Unicode words"}
"""Titles of the aggregate scores: share of right answers (all metrics except ROUGE-L), and ROUGE-L."""
OwnSplit = Literal["train", "test"]
"""Values of `Task.split`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration or labelled example.

    Args:
        input: The input text.
        output: Its answer.
    """

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One input of a task.

    Args:
        id: Identifier, unique in the task.
        input: The input text.
        outputs: Accepted answers, at least one.
        choices: The possible answers of a classification task.
        rendered: The full prompt, if `input` holds only its fields without the template's text (P3). Methods that read
            no instruction read it instead of `input`.
    """

    id: str
    input: str
    outputs: tuple[str, ...]
    choices: tuple[str, ...] | None = None
    rendered: str | None = None

    @property
    def prompt(self) -> str:
        """The text for methods that read no instruction: `rendered` if set, else `input`."""
        return self.input if self.rendered is None else self.rendered


def as_prompted(task: "Task") -> "Task":
    """Return the task with rendered prompts as inputs."""
    if all(instance.rendered is None for instance in task.instances):
        return task
    whole = tuple(replace(instance, input=instance.prompt, rendered=None) for instance in task.instances)
    return replace(task, instances=whole)


@dataclass(frozen=True, slots=True)
class Wording:
    """Another wording of an instruction, with a name such as "terse" that many tasks share."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task: an instruction and the inputs it applies to.

    Args:
        name: Name of the task.
        category: Group of tasks that shares one LoRA teacher.
        instruction: Text that describes the task.
        instances: Inputs with their accepted answers.
        examples: Demonstrations, which are not among `instances`.
        paraphrases: Other wordings of the instruction.
        shots: Labelled examples, not among `instances`, for in-context methods and for models of a single task.
        wordings: Other wordings that have names. Used only where a name is given: by `data.wordings` in a recipe, by
            `tagi evaluate --wording`, and by the condition `paraphrase`.
        metric: How answers are scored, one of `TASK_METRICS`. None leaves it to the evaluation.
        split: Whether one of the user's own tasks is for training or for testing. None leaves it to the recipe.
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
        """All wordings of the instruction by name. The first is "definition", the instruction itself.

        `paraphrases` are named "1", "2" and so on.
        """
        numbered = {str(number): text for number, text in enumerate(self.paraphrases, start=1)}
        return {DEFINITION: self.instruction, **numbered, **{one.name: one.text for one in self.wordings}}
