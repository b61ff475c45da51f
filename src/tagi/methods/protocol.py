"""The interface of a method, by which training, evaluation and serving use any of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from tagi.backbones.protocol import Decoding, Reduction
from tagi.backbones.shapes import AnswerIds, ChoiceLabels, ChoiceScores, MemoryMask, TaskRows
from tagi.data.batches import Sample
from tagi.data.task import Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.flops import Cost, Lengths

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
    """What can be trained: samples become a batch, a batch gives named losses, trained tensors are saved."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """One micro-batch of samples as tensors: the keyword arguments of `forward`."""

    @abstractmethod
    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write what was trained; `extra` is kept as provenance where the format has a place for it."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def copy_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite trained tensors of a model that is in one piece by those of the same names."""
        trained = self.trained_tensors()
        for name, tensor in tensors.items():
            trained[name].copy_(tensor)


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
        """Whether the model reads instructions."""
        return self.text.settings.reads == "instruction"

    def input_of(self, one: Instance | Sample) -> str:
        """Return what is read of an instance: without an instruction to read that is the whole rendered prompt."""
        return one.input if self.reads_instruction else one.prompt

    @property
    def needs_demonstrations(self) -> bool:
        """Whether a task without demonstrations is refused."""
        return self.text.settings.reads == "demonstrations"

    @property
    def generated_per_task(self) -> int:
        """Parameters of the adapter that is generated for a task; 0 for a method that generates none."""
        return 0

    @property
    def generator_model(self) -> GeneratorModel | None:
        """The generator of a method whose `prepare` returns `TaskStates` that it made; None for any other method."""
        return None

    @abstractmethod
    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Any:
        """Return what the method keeps of each task, in the order given."""

    @abstractmethod
    def without_instruction(self, states: Any) -> Any:
        """Return states of as many tasks without any instruction: what the input alone gives."""

    @torch.no_grad()
    def predict(
        self,
        states: Any,
        rows: TaskRows,
        inputs: Sequence[str],
        *,
        truncate: bool = False,
        **decoding: Unpack[Decoding],
    ) -> list[str]:
        """Answer a batch that may mix tasks.

        Args:
            states: What `prepare` returned.
            rows: The task of every input.
            inputs: The inputs.
            truncate: Whether inputs over the limit are truncated. If not, they are an `InputError`.
            **decoding: How answers are generated.
        """
        return self.text.decode(self._answers(*self._read(states, rows, inputs, truncate), **decoding))

    @torch.no_grad()
    def score_choices(
        self,
        states: Any,
        rows: TaskRows,
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        """Return the log-probability of every choice of every input, end of sequence included.

        Args:
            states: What `prepare` returned.
            rows: The task of every input.
            inputs: The inputs, each of which is read once.
            choices: Every input's choices; their number may differ.
            reduction: The sum over a choice's tokens, or their mean.
            truncate: Whether inputs over the limit are truncated. If not, they are an `InputError`.
        """
        read, mask = self._read(states, rows, inputs, truncate)
        scores = self._scores(read, mask, self.text.choice_labels(choices).to(mask.device), reduction)
        return [row[: len(own)].tolist() for row, own in zip(scores, choices, strict=True)]

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """Return what answers and scores are computed from, and the mask of its tokens."""
        raise NotImplementedError

    def _answers(self, read: Any, mask: MemoryMask, **decoding: Unpack[Decoding]) -> AnswerIds:
        """Return the tokens of one answer per input from what `_read` returned."""
        raise NotImplementedError

    def _scores(self, read: Any, mask: MemoryMask, labels: ChoiceLabels, reduction: Reduction) -> ChoiceScores:
        """Return the log-probabilities of every input's choices from what `_read` returned."""
        raise NotImplementedError

    @abstractmethod
    def cost(self, lengths: Lengths) -> Cost:
        """FLOPs of answering a task's inputs, the work on its instruction included; computed from shapes alone."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> "Method":
        """Read a checkpoint. Raises `CheckpointError` if it is damaged, foreign or of another base model."""
