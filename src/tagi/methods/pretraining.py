"""Pretraining a hypernetwork on unlabelled text: one piece of a document stands for the instruction (eq. 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagi.backbones.shapes import Scalar
from tagi.data.pretraining import Document, cut
from tagi.methods.protocol import Batch, Method, Trainable
from tagi.methods.tagi import TAGI


class Pretraining(Trainable):
    """Any method that is trained on (instruction, input, target), on pieces of documents in their place.

    With three parts a, b, c the hypernetwork reads a and the backbone predicts c after b; with four A, B, C, D
    (HyperTuning) the hypernetwork reads A and D and the backbone predicts C after B. A document is cut where the seed
    and its number say; what it has beyond `max_tokens` is left out.
    """

    def __init__(self, method: Method, *, max_tokens: int, parts: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.method = method
        self.max_tokens = max_tokens
        self.parts = parts
        self.seed = seed

    def collate(self, samples: Sequence[Document]) -> Batch:
        """Every document is a task of its own."""
        text, tokenizer = self.method.text, self.method.text.tokenizer
        instructions, inputs, targets = [], [], []
        for document in samples:
            ids = text.document(document.text)
            whole = len(ids) <= self.max_tokens
            pieces = cut(ids[: self.max_tokens], self.parts, self.seed, document.index)
            end = [tokenizer.eos_token_id]
            closed = end if text.closes else []
            instructions.append([*pieces[0], *(pieces[3] if self.parts == 4 else []), *closed])
            inputs.append([*pieces[1], *closed])
            targets.append([*pieces[2], *(end if whole and self.parts == 3 else [])])
        instruction_ids, instruction_mask = self.method.text.batch_instructions(instructions)
        input_ids, input_mask = self.method.text.batch(inputs)
        return {
            "instruction_ids": instruction_ids,
            "instruction_mask": instruction_mask,
            "rows": torch.arange(len(samples)),
            "input_ids": input_ids,
            "input_mask": input_mask,
            "labels": self.method.text.labels(targets),
        }

    def forward(self, **batch: Tensor) -> dict[str, Scalar]:
        """The method's own loss, which without a teacher is cross-entropy of the target piece."""
        terms: dict[str, Scalar] = self.method(**batch)
        return terms

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the method's checkpoint."""
        self.method.save(folder, extra)


def generating(model: Trainable) -> TAGI | None:
    """The method with a generator that is trained: the model itself, or what it pretrains; None if there is none."""
    method = model.method if isinstance(model, Pretraining) else model
    return method if isinstance(method, TAGI) else None
