"""FiD-ICL as teacher: it reads demonstrations, while the student reads the instruction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tagi.adapters.attach import detached
from tagi.backbones.modes import evaluating
from tagi.backbones.shapes import Labels, Logits
from tagi.data.batches import Sample, draw_examples
from tagi.data.task import Example
from tagi.errors import DataError
from tagi.methods.fid import FidICL
from tagi.methods.objective.teachers import Teacher
from tagi.methods.protocol import Batch


class FidTeacher(Teacher):
    """Reads `count` demonstrations of the sample's task and its input.

    The demonstrations are the task's first ones in a random order given by `seed`, without the sample itself. They are
    fixed for a sample and nearly the same for all samples of a task, so that a batch encodes them once.
    """

    def __init__(self, method: FidICL, *, count: int, seed: int = 0) -> None:
        super().__init__()
        self.method = method
        self.count = count
        self.seed = seed
        self._first: dict[str, list[Example]] = {}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples for FiD-ICL. Raises `DataError` for a task with a single input."""
        batch = self.method.collate([replace(sample, shots=self._shots(sample)) for sample in samples])
        del batch["labels"]
        return batch

    @torch.no_grad()
    def logits(self, batch: Batch, labels: Labels) -> Logits:
        """Compute logits of P_teacher(. | demonstrations; b), without dropout and the student's attachment."""
        with detached(), evaluating(self.method):
            return self.method.logits(labels=labels, **batch)

    def identity(self) -> Mapping[str, Any]:
        """Model, text limits and demonstrations."""
        return {
            "revision": self.method.backbone.identity.revision,
            "method": self.method.name,
            "text": self.method.text.settings.as_dict(),
            "shots": {"count": self.count, "seed": self.seed},
        }

    def _shots(self, sample: Sample) -> tuple[Example, ...]:
        task = sample.task
        if task.name not in self._first:  # one more, since the sample itself may be among them
            self._first[task.name] = draw_examples(task.name, task.instances, self.seed)[: self.count + 1]
        others = [one for one in self._first[task.name] if one.input != sample.prompt]
        if not others:
            raise DataError(f"{task.name}: expected other inputs to show FiD-ICL beside one, got none")
        return tuple(others[: self.count])
