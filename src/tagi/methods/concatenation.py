"""The backbone with the instruction concatenated to every input.

Untrained it is No FT, fully fine-tuned Tk-Instruct.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.backbones import Reduction, T5Backbone, load_backbone, score_cached
from tagi.backbones.checkpoint import base_of, read_config, read_tensors, write_checkpoint
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.data.text import TextEncoder, TextSettings
from tagi.errors import CheckpointError
from tagi.methods.costs import Cost, Lengths
from tagi.methods.lora import LoraShape, inject_lora
from tagi.methods.losses import prediction_loss
from tagi.methods.protocol import Batch, Method
from tagi.methods.t5_costs import T5Shapes, concatenation_cost


@dataclass(frozen=True, slots=True)
class Prompts:
    """What this method keeps of tasks: their words, to be read again with every input, or None for none."""

    tasks: tuple[Task | None, ...]


class Concatenation(Method):
    """Instruction and input in one text, read anew for every input.

    All of the backbone is trained, or with `lora` a PEFT LoRA on its sites alone.
    """

    name = "concatenation"

    def __init__(self, backbone: T5Backbone, text: TextSettings, lora: LoraShape | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.lora = lora
        if lora is not None:
            inject_lora(backbone, lora)
        self.text = TextEncoder(backbone.tokenizer, text)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """One row per sample."""
        texts = [
            self.text.concatenated(sample.instruction, sample.task.examples, sample.input, truncate=True)
            for sample in samples
        ]
        ids, mask = self.text.batch(texts)
        labels = self.text.labels([self.text.target(sample.target) for sample in samples])
        return {"input_ids": ids, "input_mask": mask, "labels": labels}

    def forward(
        self,
        input_ids: Int[Tensor, "row token"],
        input_mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row target"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the target."""
        states = self.backbone.encode(input_ids, input_mask)
        prediction = prediction_loss(self.backbone.logits(states, input_mask, labels), labels)
        return {"loss": prediction, "prediction": prediction.detach()}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Nothing but the words; an instruction over the limit is refused unless `truncate`."""
        for task in tasks:
            self.text.instruction(task.instruction, task.examples, truncate=truncate)
        return Prompts(tuple(tasks))

    def without_instruction(self, states: Prompts) -> Prompts:
        """The input alone."""
        return Prompts((None,) * len(states.tasks))

    @torch.no_grad()
    def predict(
        self,
        states: Prompts,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        truncate: bool = False,
    ) -> list[str]:
        """Answers of a batch that may mix tasks."""
        ids, mask = self._read(states, rows, inputs, truncate)
        cross = self.backbone.cross_keys_values(self.backbone.encode(ids, mask))
        answers = self.backbone.generate(cross, mask, max_new_tokens=max_new_tokens, num_beams=num_beams)
        return self.text.decode(answers)

    @torch.no_grad()
    def score_choices(
        self,
        states: Prompts,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        """Scores of a batch that may mix tasks and numbers of choices; every input is encoded once."""
        ids, mask = self._read(states, rows, inputs, truncate)
        labels = self.text.choice_labels(choices).to(ids.device)
        cross = self.backbone.cross_keys_values(self.backbone.encode(ids, mask))
        scores = score_cached(self.backbone, cross, mask, labels, reduction)
        return [row[: len(own)].tolist() for row, own in zip(scores, choices, strict=True)]

    def _read(self, states: Prompts, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Tensor, Tensor]:
        sequences = []
        for row, text in zip(rows.tolist(), inputs, strict=True):
            task = states.tasks[row]
            if task is None:
                sequences.append(self.text.input(text, truncate=truncate))
            else:
                sequences.append(self.text.concatenated(task.instruction, task.examples, text, truncate=truncate))
        ids, mask = self.text.batch(sequences)
        return ids.to(self.backbone.device), mask.to(self.backbone.device)

    def cost(self, lengths: Lengths) -> Cost:
        """Instruction and input read together for every example; a LoRA is not merged."""
        shapes = T5Shapes.of(self.backbone.model.config)
        return concatenation_cost(shapes, lengths, None if self.lora is None else self.lora.rank)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the trained tensors; the base model by name and revision."""
        write_checkpoint(
            folder,
            method=self.name,
            base=self.backbone.identity,
            settings={
                "text": self.text.settings.as_dict(),
                "lora": None if self.lora is None else self.lora.as_dict(),
            },
            tensors=self.trained_tensors(),
            extra=extra,
        )

    @classmethod
    def load(cls, folder: Path) -> "Concatenation":
        """Read a checkpoint of this method."""
        config = read_config(folder)
        if config["method"] != cls.name:
            raise CheckpointError(f"{folder}: expected method {cls.name!r}, got {config['method']!r}")
        base = base_of(config)
        backbone = load_backbone(base.name, revision=base.revision, relative_to=folder)
        lora = config.get("lora")
        method = cls(
            backbone, TextSettings.from_dict(config["text"]), None if lora is None else LoraShape.from_dict(lora)
        )
        expected = method.trained_tensors()
        with torch.no_grad():
            for name, tensor in read_tensors(folder, expected).items():
                expected[name].copy_(tensor)
        return method.eval()
