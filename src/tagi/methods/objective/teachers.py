"""Teachers: frozen models that read instruction and input, and the LoRA teachers of categories."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import stack_banks
from tagi.backbones.modes import evaluating
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.backbones.shapes import Labels, Logits, Scalar
from tagi.data.batches import Sample
from tagi.errors import CheckpointError, ConfigError
from tagi.formats.peft import read_peft
from tagi.hypernetwork.build import text_encoder
from tagi.methods.objective.losses import distillation_loss
from tagi.methods.protocol import Batch
from tagi.settings.text import Reads, TextSettings

CATALOGUE = "catalogue.json"
"""File next to the teachers' folders, with category, steps and loss of each teacher."""


class Catalogue(nn.Module):
    """LoRA teachers of several categories as one bank: teacher i is that of `categories[i]`. Never trained.

    Args:
        categories: Category of each teacher.
        bank: Factors of the teachers.
        seed: Seed of their initial A; None if the catalogue does not have it.
        reads: What they read of a task.
    """

    def __init__(
        self, categories: Sequence[str], bank: LoraBank, seed: int | None = None, reads: Reads = "instruction"
    ) -> None:
        super().__init__()
        if bank.tasks != len(categories):
            raise ValueError(f"{len(categories)} categories for a bank of {bank.tasks}")
        self.categories = tuple(categories)
        self.seed = seed
        self.reads = reads
        self._index = {category: at for at, category in enumerate(categories)}
        self._shapes = bank.map(lambda tensor: tensor.to("meta"))
        for name, tensor in bank.tensors().items():  # not in checkpoints: they have their own folders
            self.register_buffer(name.replace(".", "/"), tensor.detach(), persistent=False)

    @property
    def bank(self) -> LoraBank:
        """All teachers' factors, on the device of the module."""
        return self._shapes.like({name: self.get_buffer(name.replace(".", "/")) for name in self._shapes.tensors()})

    def index(self, category: str) -> int:
        """Return the index of a category's teacher, or -1."""
        return self._index.get(category, -1)


def catalogue_revision(folder: Path) -> str:
    """Return a digest over a catalogue and its teachers. Raises `ConfigError` if there is none."""
    digest = hashlib.sha256()
    if not (folder / CATALOGUE).is_file():
        raise ConfigError(f"{folder}: expected LoRA teachers with a {CATALOGUE}, got none")
    for path in sorted([folder / CATALOGUE, *folder.glob("*/adapter_model.safetensors")]):
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def read_catalogue(folder: Path, base: BaseModel, *, rank: int, scale: float) -> Catalogue:
    """Read the teachers that a training run left in `folder`.

    Raises `CheckpointError` if their training is not finished, if one is missing or damaged, or was made for another
    base model, rank or alpha / rank: parameters can be aligned only between equal shapes.
    """
    path = folder / CATALOGUE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made_for = BaseModel(**content["base_model"])
        entries = [(str(entry["category"]), folder / entry["path"]) for entry in content["teachers"]]
        planned, seed = int(content["planned"]), content.get("lora", {}).get("seed")
        reads = content.get("reads", "instruction")  # not in older catalogues
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected a catalogue of LoRA teachers, got: {error}") from error
    if len(entries) != planned:
        raise CheckpointError(
            f"{path}: expected all {planned} teachers, got {len(entries)}: go on training them with --resume"
        )
    if made_for.revision != base.revision:
        raise CheckpointError(f"{path}: expected teachers for base model {base}, got {made_for}")
    banks = []
    for _, teacher in entries:
        bank = read_peft(teacher)
        if (bank.rank, bank.scale) != (rank, scale):
            raise CheckpointError(
                f"{teacher}: expected rank {rank} and alpha / rank {scale:g} (the generator's), "
                f"got {bank.rank} and {bank.scale:g}"
            )
        banks.append(bank)
    if not banks:
        raise CheckpointError(f"{path}: expected teachers, got none")
    return Catalogue([category for category, _ in entries], stack_banks(banks), seed, reads)


class Teacher(nn.Module, ABC):
    """A frozen model for distillation."""

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate the samples for the teacher, in their order."""

    @abstractmethod
    def logits(self, batch: Batch, labels: Labels) -> Logits:
        """Compute teacher-forced logits of a collated batch, without gradient."""

    def distillation(self, batch: Batch, logits: Tensor, labels: Tensor, temperature: float) -> Scalar:
        """Compute L_kl of a student's logits (eq. 5) on a collated batch.

        If one vocabulary is padded to a larger size, the additional entries are ignored.
        """
        own = self.logits(batch, labels)
        size = min(own.shape[-1], logits.shape[-1])
        return distillation_loss(logits[..., :size], own[..., :size], labels, temperature)

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return everything that the teacher's distributions depend on, for the cache."""


class ConcatenatedTeacher(Teacher):
    """A backbone that reads `(a; b)`, or on P3 the rendered prompt, according to its text settings.

    With a catalogue each row uses the LoRA teacher of its category (eq. 5). Without one the backbone itself, the
    meta-trained model, is the teacher.
    """

    def __init__(
        self, backbone: Backbone, text: TextSettings, catalogue: Catalogue | None = None, revision: str = ""
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.text = text_encoder(backbone, text)
        self.catalogue = catalogue
        self.revision = revision or backbone.identity.revision

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate one row per sample, with the index of its teacher in `rows` if there is a catalogue.

        Raises `CheckpointError` for a category without a teacher.
        """
        told = self.text.settings.reads == "instruction"
        texts = [
            self.text.concatenated(
                sample.instruction, sample.asked.examples, sample.input if told else sample.prompt, truncate=True
            )
            for sample in samples
        ]
        ids, mask = self.text.batch(texts)
        batch = {"input_ids": ids, "input_mask": mask}
        if self.catalogue is not None:
            rows = [self.catalogue.index(sample.task.category) for sample in samples]
            if min(rows) < 0:
                missing = samples[rows.index(-1)].task.category
                raise CheckpointError(f"expected a LoRA teacher of category {missing!r}, got none in the catalogue")
            batch["rows"] = torch.tensor(rows)
        return batch

    @torch.no_grad()
    def logits(self, batch: Batch, labels: Labels) -> Logits:
        """Compute logits of P_teacher(. | a; b), without dropout and the student's attachment."""
        hooks, mask = [], batch["input_mask"]
        if self.catalogue is not None:
            # Copy factors only for the categories in the batch.
            present, inverse = torch.unique(batch["rows"], return_inverse=True)
            hooks.append(self.backbone.hooks(self.catalogue.bank.select(present), inverse))
        with Attachment(*hooks).active(), evaluating(self.backbone):
            return self.backbone.forced_logits(batch["input_ids"], mask, labels)

    def identity(self) -> dict[str, Any]:
        """Backbone, text limits and categories."""
        categories = None if self.catalogue is None else list(self.catalogue.categories)
        return {"revision": self.revision, "text": self.text.settings.as_dict(), "categories": categories}


def freeze(module: nn.Module) -> nn.Module:
    """Return the module in evaluation mode with frozen parameters."""
    return module.requires_grad_(False).eval()
