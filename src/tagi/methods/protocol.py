"""The interface of methods, which training, evaluation and serving use."""

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
    """Tokenized, padded inputs with the targets of their samples."""
    ids, mask = text.batch(inputs)
    return {
        "input_ids": ids,
        "input_mask": mask,
        "labels": text.labels([text.target(sample.target) for sample in samples]),
    }


class Trainable(nn.Module, ABC):
    """Interface for training: collating samples, computing named losses, saving trained tensors."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """Collate a micro-batch of samples into the keyword arguments of `forward`."""

    @abstractmethod
    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint. `extra` is stored as provenance if the format supports it."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return all trained tensors by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def copy_trained(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite trained tensors of an unsharded model by name."""
        trained = self.trained_tensors()
        for name, tensor in tensors.items():
            trained[name].copy_(tensor)


class Method(Trainable):
    """Base class of methods.

    `forward(**batch)` does all of a step's computation and returns named scalars, of which `loss` is minimised.
    `prepare` does the work per task once. `predict` and `score_choices` then take inputs of any mixture of the prepared
    tasks: input i belongs to task `rows[i]`.
    """

    name: ClassVar[str]
    text: TextEncoder

    @property
    def reads_instruction(self) -> bool:
        """Whether the model reads instructions."""
        return self.text.settings.reads == "instruction"

    def input_of(self, one: Instance | Sample) -> str:
        """Return the text of an instance: its input, or the rendered prompt for methods without instructions."""
        return one.input if self.reads_instruction else one.prompt

    @property
    def needs_demonstrations(self) -> bool:
        """Whether every task needs demonstrations."""
        return self.text.settings.reads == "demonstrations"

    @property
    def generated_per_task(self) -> int:
        """Number of generated parameters per task; 0 if the method generates none."""
        return 0

    @property
    def generator_model(self) -> GeneratorModel | None:
        """The generator, if `prepare` returns `TaskStates`, else None."""
        return None

    @abstractmethod
    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Any:
        """Compute the states of tasks, in the given order."""

    @abstractmethod
    def without_instruction(self, states: Any) -> Any:
        """Return states of the same number of tasks without instruction."""

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
            states: The result of `prepare`.
            rows: The task of every input.
            inputs: The inputs.
            truncate: Truncate inputs over the limit. Otherwise they raise `InputError`.
            **decoding: Decoding settings.
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
        """Compute the log-probability of every choice of every input, including the end of sequence.

        Args:
            states: The result of `prepare`.
            rows: The task of every input.
            inputs: The inputs. Each is processed once.
            choices: Choices per input; their number may differ.
            reduction: "sum" or "mean" over a choice's tokens.
            truncate: Truncate inputs over the limit. Otherwise they raise `InputError`.
        """
        read, mask = self._read(states, rows, inputs, truncate)
        scores = self._scores(read, mask, self.text.choice_labels(choices).to(mask.device), reduction)
        return [row[: len(own)].tolist() for row, own in zip(scores, choices, strict=True)]

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """Encode inputs; return the result and the mask of its tokens."""
        raise NotImplementedError

    def _answers(self, read: Any, mask: MemoryMask, **decoding: Unpack[Decoding]) -> AnswerIds:
        """Generate the tokens of one answer per input from the result of `_read`."""
        raise NotImplementedError

    def _scores(self, read: Any, mask: MemoryMask, labels: ChoiceLabels, reduction: Reduction) -> ChoiceScores:
        """Compute the log-probabilities of every input's choices from the result of `_read`."""
        raise NotImplementedError

    @abstractmethod
    def cost(self, lengths: Lengths) -> Cost:
        """Compute the FLOPs of answering a task's inputs, including its instruction, from shapes."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> "Method":
        """Load a checkpoint. Raises `CheckpointError` if it is damaged, of another format or base model."""
