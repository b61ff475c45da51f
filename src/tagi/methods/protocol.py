"""What training, evaluation and serving ask of any method, so that none of them knows which one it has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor, nn

from tagi.backbones.protocol import Reduction
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.flops.costs import Cost, Lengths

Batch = dict[str, Tensor]


def batch_of(text: TextEncoder, inputs: Sequence[list[int]], samples: Sequence[Sample]) -> Batch:
    """Inputs that are tokens already, padded, and the targets of the samples that they are of."""
    ids, mask = text.batch(inputs)
    return {
        "input_ids": ids,
        "input_mask": mask,
        "labels": text.labels([text.target(sample.target) for sample in samples]),
    }


class Trainable(nn.Module, ABC):
    """What the trainer needs: a batch from samples, named losses from a batch, trained tensors to keep."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """One micro-batch of samples as tensors: the keyword arguments of `forward`."""

    @abstractmethod
    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write what was trained; `extra` is kept as provenance where the format has a place for it."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


class Method(Trainable):
    """A way to do tasks from instructions.

    `forward(**batch)` holds all of a step's computation and returns named scalars, of which `loss` is
    minimised. `prepare` does a task's own work once; `predict` and `score_choices` then take inputs of any
    mixture of the prepared tasks: input i is of task `rows[i]`.
    """

    name: ClassVar[str]
    text: TextEncoder

    @property
    def reads_instruction(self) -> bool:
        """Whether an instruction's words reach the model."""
        return self.text.settings.reads == "instruction"

    @property
    def needs_demonstrations(self) -> bool:
        """Whether a task without demonstrations is refused."""
        return self.text.settings.reads == "demonstrations"

    @property
    def generated_per_task(self) -> int:
        """Numbers of the adapter that is made for a task; 0 of a method that makes none."""
        return 0

    @property
    def generator_model(self) -> GeneratorModel | None:
        """The generator of a method whose `prepare` returns `TaskStates` that it made; None for any other method."""
        return None

    @abstractmethod
    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Any:
        """What the method keeps of each task, in the order given."""

    @abstractmethod
    def without_instruction(self, states: Any) -> Any:
        """States of as many tasks in which nothing of any instruction is left: what the input alone gives."""

    @abstractmethod
    def predict(
        self,
        states: Any,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
        num_beams: int = 1,
        truncate: bool = False,
    ) -> list[str]:
        """One answer per input, the whole batch at once; none ends before `min_new_tokens`."""

    @abstractmethod
    def score_choices(
        self,
        states: Any,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        """Log-probability of every choice of every input, end of sequence included."""

    @abstractmethod
    def cost(self, lengths: Lengths) -> Cost:
        """FLOPs of answering a task's inputs, its own work included: from shapes alone, weights are not read."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> "Method":
        """Read a checkpoint. Raises `CheckpointError` if it is damaged, foreign or of another base model."""
