"""Pretraining a hypernetwork on unlabelled text, with a part of the document as instruction (eq. 3)."""

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
    """Trains a method on parts of documents in place of instruction, input and target.

    With three parts a, b, c the hypernetwork reads a and the backbone predicts c after b. With four parts A, B, C, D
    (HyperTuning) the hypernetwork reads A and D and the backbone predicts C after B. The split points depend on the
    seed and the document's index. Documents are truncated to `max_tokens`.
    """

    def __init__(self, method: Method, *, max_tokens: int, parts: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.method = method
        self.max_tokens = max_tokens
        self.parts = parts
        self.seed = seed

    def collate(self, samples: Sequence[Document]) -> Batch:
        """Collate documents, each as a separate task."""
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
        """Compute the method's loss, which without a teacher is the cross-entropy of the target part."""
        terms: dict[str, Scalar] = self.method(**batch)
        return terms

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the method's checkpoint."""
        self.method.save(folder, extra)


def generating(model: Trainable) -> TAGI | None:
    """Return the method with a generator: the model itself, or the one that it pretrains, or None."""
    method = model.method if isinstance(model, Pretraining) else model
    return method if isinstance(method, TAGI) else None
