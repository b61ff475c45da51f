"""The finetuning objective (eq. 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tagi.adapters.bank import as_lora
from tagi.adapters.protocol import Bank
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.methods.objective.losses import (
    factor_alignment,
    product_alignment,
)
from tagi.methods.objective.teacher_cache import TeacherCache
from tagi.methods.objective.teachers import Catalogue, Teacher
from tagi.methods.protocol import Batch
from tagi.settings.losses import LossSettings

_TEACHER = "teacher_"


class Objective(nn.Module):
    """Weights, the teacher of L_kl (or a cache of its distributions), and the LoRA teachers of L_ins.

    `aligned` are the categories whose tasks are aligned; None means all with a teacher. With the default weights only
    cross-entropy is used.
    """

    def __init__(
        self,
        weights: LossSettings | None = None,
        *,
        teacher: Teacher | TeacherCache | None = None,
        catalogue: Catalogue | None = None,
        aligned: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights or LossSettings()
        if self.weights.kl and teacher is None:
            raise ValueError("L_kl has a weight and no teacher")
        if self.weights.ins and catalogue is None:
            raise ValueError("L_ins has a weight and no LoRA teachers")
        self.teacher = teacher
        self.catalogue = catalogue
        self.aligned = None if aligned is None else frozenset(aligned)

    def collate(self, samples: Sequence[Sample], tasks: Sequence[Task]) -> Batch:
        """Collate the inputs of the terms for a batch with the distinct instructions of `tasks`, in that order."""
        batch: Batch = {}
        if self.weights.kl and self.teacher is not None:
            batch |= {_TEACHER + name: tensor for name, tensor in self.teacher.collate(samples).items()}
        if self.weights.ins and self.catalogue is not None:
            batch["categories"] = torch.tensor([self._index(task) for task in tasks])
        return batch

    def _index(self, task: Task) -> int:
        assert self.catalogue is not None
        if self.aligned is not None and task.category not in self.aligned:
            return -1
        return self.catalogue.index(task.category)

    def aligned_tasks(self, tasks: Sequence[Task]) -> int:
        """Return the number of tasks that L_ins aligns with a LoRA teacher."""
        return 0 if self.catalogue is None else sum(self._index(task) >= 0 for task in tasks)

    def distillation(self, logits: Tensor, labels: Tensor, given: Batch) -> Tensor:
        """Compute L_kl (eq. 5) with the teacher or its cached distributions."""
        assert self.teacher is not None
        read = {name.removeprefix(_TEACHER): value for name, value in given.items() if name.startswith(_TEACHER)}
        return self.teacher.distillation(read, logits, labels, self.weights.temperature)

    def alignment(self, bank: Bank, categories: Tensor, start: Bank | None = None) -> Tensor:
        """Compute L_ins (eq. 4) over the batch's tasks with a teacher; 0 if there is none.

        Args:
            bank: The generated bank.
            categories: Index of every task's teacher in the catalogue, -1 for none.
            start: The bank of the untrained generator, for normalization; None for no normalization.

        Raises `ValueError` for a bank that is not LoRA: teachers are.
        """
        assert self.catalogue is not None
        lora = as_lora(bank, "L_ins")
        present = categories >= 0
        if not bool(present.any()):
            return next(iter(lora.factors.values()))[0].new_zeros(())
        generated, wanted = lora.select(present.nonzero().squeeze(1)), self.catalogue.bank.select(categories[present])
        distance = factor_alignment if self.weights.alignment == "factors" else product_alignment
        if start is None:
            return distance(generated, wanted)
        return distance(generated, wanted, as_lora(start, "L_ins").select(torch.zeros_like(categories[present])))
