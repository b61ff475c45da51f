"""LoRA training that starts from a generated adapter, for tasks with labelled examples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank, as_lora
from tagi.backbones.grouping import grouped_logits
from tagi.backbones.shapes import Labels, Logits, Scalar, TokenIds, TokenMask
from tagi.data.batches import Sample
from tagi.files import new_folder
from tagi.formats.task_adapter import write_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.protocol import Batch, Trainable, batch_of

A = TypeVar("A", bound=AdaptedTask)


class Refined(Trainable, Generic[A]):
    """Trains the LoRA of one task adapter.

    Backbone, hypernetwork, fusion and instruction states are frozen, without dropout. Raises `ValueError` for an
    adapter that is not LoRA.
    """

    def __init__(self, adapter: A) -> None:
        super().__init__()
        self.adapter = adapter
        self._thawed = [parameter for parameter in adapter.generator.parameters() if parameter.requires_grad]
        self._modes = {part: part.training for part in adapter.generator.modules()}
        self.generator = adapter.generator.requires_grad_(False)
        self._start = as_lora(adapter.bank, "refinement")
        tensors = self._start.tensors()
        self._names = tuple(tensors)
        self.factors = nn.ParameterList(tensor.detach().clone() for tensor in tensors.values())

    def train(self, mode: bool = True) -> "Refined[A]":
        """Answers are trained as they are given: nothing of the generator is in training."""
        super().train(mode)
        self.generator.eval()
        return self

    @property
    def bank(self) -> LoraBank:
        """The factors as they are now."""
        return self._start.like(dict(zip(self._names, self.factors, strict=True)))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Inputs as the adapter asks them, and targets; the task is the adapter's."""
        input_encoder = self.generator.input_encoder(alone=self.adapter.states.alone)
        return batch_of(
            self.generator.text, [input_encoder(sample.input, truncate=True) for sample in samples], samples
        )

    def forward(self, input_ids: TokenIds, input_mask: TokenMask, labels: Labels) -> dict[str, Scalar]:
        """Cross-entropy of the targets."""
        states = self.adapter.states
        if self.generator.settings.adapts_prefix and not states.bare:
            logits = self._after_one_reading(input_ids, input_mask, labels)
        else:
            rows = torch.zeros(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
            alone = torch.ones_like(rows, dtype=torch.bool) if states.bare else None
            logits = self.generator.logits(states.read, self.bank, rows, input_ids, input_mask, labels, alone)
        prediction = prediction_loss(logits, labels)
        return {"loss": prediction, "prediction": prediction.detach()}

    def _after_one_reading(self, input_ids: TokenIds, input_mask: TokenMask, labels: Labels) -> Logits:
        """Logits of inputs that go on from one reading of their instruction under the LoRA that is trained."""
        backbone = self.generator.backbone
        with Attachment(backbone.hooks(self.bank)).active():
            before = self.generator.read_again(self.adapter.states.read)

            def compute(group: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
                return backbone.forced_logits(ids, mask, labels, before.select(torch.zeros_like(group)))

            return grouped_logits(input_ids, input_mask, labels, compute)

    def release(self) -> None:
        """Give the generator back as it was: which of its parameters are trained is part of what it is."""
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        for part, mode in self._modes.items():
            part.training = mode

    def refined(self, record: Mapping[str, Any]) -> A:
        """The adapter with the factors as they are now; `record` says how they came about.

        Keys and values over the instruction that depend on the factors are computed under these. An adapter that had
        none of the instruction's stays so.
        """
        before = self.adapter
        bank = self.bank.map(lambda tensor: tensor.detach().clone())
        if before.states.bare:
            states = replace(before.states, bank=bank)
        else:
            states = self.generator.states_from(before.states.read, bank)
        return type(before)(self.generator, states, before.instruction, before.examples, refined=record)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the adapter's folder; nothing is trained after that."""
        self.release()
        made = self.refined(extra or {})
        with new_folder(folder, overwrite=True) as temporary:
            write_adapter(temporary, made.generator, made.states, made.instruction, made.examples, refined=made.refined)
