"""What methods share that read the instruction and the input in one text: all but the model's own work.

With text settings that read nothing of a task, the input stands alone: the control that tells what instructions add.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone, Reduction
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder, TextSettings
from tagi.errors import CheckpointError
from tagi.formats.checkpoint import base_of, identity_of, read_config, read_tensors, write_checkpoint
from tagi.methods.flops import Cost, Lengths, Shapes, prompted_cost
from tagi.methods.lora import LoraShape, inject_lora
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.protocol import Batch, Method, batch_of

B = TypeVar("B", bound=Backbone)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What these methods keep of tasks: their words, to be read again with every input, or None for none."""

    tasks: tuple[Task | None, ...]


class Prompted(Method, Generic[B]):
    """Instruction and input in one text, read anew for every input.

    All of the backbone is trained, with `lora` a PEFT LoRA on its sites alone, or if `frozen` nothing. A subclass names
    the backbones it can use and how text becomes their batches, and has them compute.
    """

    family: ClassVar[type[Backbone]]
    encoder: ClassVar[type[TextEncoder]]
    backbone: B

    def __init__(self, backbone: B, text: TextSettings, lora: LoraShape | None = None, *, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.lora = lora
        self.frozen = frozen
        if lora is not None:
            inject_lora(backbone, lora)
        if frozen:
            backbone.requires_grad_(False)
        self.text = self.encoder(backbone.tokenizer, text)

    @abstractmethod
    def _logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        """Teacher-forced logits of the labels after their prompts."""

    @abstractmethod
    def _answers(
        self,
        read: Any,
        mask: Bool[Tensor, "row memory"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None,
        num_beams: int,
    ) -> Int[Tensor, "row answer"]:
        """Tokens of one answer per input from what `_read` gave, none of which ends before `min_new_tokens`."""

    @abstractmethod
    def _scores(
        self,
        read: Any,
        mask: Bool[Tensor, "row memory"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction,
    ) -> Float[Tensor, "row choice"]:
        """Log-probabilities of every input's choices from what `_read` gave: the input is read once."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """One row per sample."""
        texts = [self._prompt(sample.asked, sample.input, truncate=True) for sample in samples]
        return batch_of(self.text, texts, samples)

    def forward(
        self,
        input_ids: Int[Tensor, "row token"],
        input_mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row target"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the target alone."""
        return self._terms(self._logits(input_ids, input_mask, labels), labels)

    def _terms(
        self, logits: Float[Tensor, "row target vocabulary"], labels: Int[Tensor, "row target"]
    ) -> dict[str, Float[Tensor, ""]]:
        prediction = prediction_loss(logits, labels)
        return {"loss": prediction, "prediction": prediction.detach()}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Nothing but the words; an instruction over the limit is refused unless `truncate`."""
        for task in tasks if self.reads_instruction else ():
            self.text.instruction(task.instruction, task.examples, truncate=truncate)
        return Prompts(tuple(tasks))

    def without_instruction(self, states: Prompts) -> Prompts:
        """The input alone."""
        return Prompts((None,) * len(states.tasks))

    @torch.no_grad()
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
        """Answers of a batch that may mix tasks."""
        read, mask = self._read(states, rows, inputs, truncate)
        answers = self._answers(
            read, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams
        )
        return self.text.decode(answers)

    @torch.no_grad()
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
        """Scores of a batch that may mix tasks and numbers of choices; every input is read once."""
        read, mask = self._read(states, rows, inputs, truncate)
        labels = self.text.choice_labels(choices).to(mask.device)
        scores = self._scores(read, mask, labels, reduction)
        return [row[: len(own)].tolist() for row, own in zip(scores, choices, strict=True)]

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """What answers and scores are computed from, and which of its tokens count: here the prompts' tokens."""
        asked = zip(rows.tolist(), inputs, strict=True)
        ids, mask = self.text.batch([self._prompt(states.tasks[row], text, truncate=truncate) for row, text in asked])
        return ids.to(self.backbone.device), mask.to(self.backbone.device)

    def _prompt(self, task: Task | None, text: str, *, truncate: bool) -> list[int]:
        """Token ids of what is read for an input of the task; without a task that is the input alone."""
        if task is None or self.text.settings.reads == "nothing":
            return self.text.input(text, truncate=truncate)
        return self.text.concatenated(task.instruction, task.examples, text, truncate=truncate)

    @cached_property
    def shapes(self) -> Shapes:
        """The backbone's shapes. Raises `ConfigError` for a backbone whose FLOPs cannot be computed."""
        return Shapes.of(self.backbone)

    @property
    def lora_rank(self) -> int:
        """Rank of the trained LoRA, 0 without one."""
        return 0 if self.lora is None else self.lora.rank

    def cost(self, lengths: Lengths) -> Cost:
        """FLOPs with the whole prompt read for every input; a LoRA is not merged.

        Raises `ConfigError` for a backbone whose FLOPs cannot be computed.
        """
        return prompted_cost(self.shapes, self._read_of(lengths), rank=self.lora_rank)

    def _read_of(self, lengths: Lengths) -> Lengths:
        """The lengths of what is read."""
        if self.text.settings.reads != "nothing":
            return lengths
        return replace(lengths, instruction=0, concatenated=lengths.input)

    def checkpoint_config(self) -> dict[str, Any]:
        """What a checkpoint's configuration says of the method: base model and settings."""
        base = self.backbone.identity
        return {**identity_of(self.name, base), **self.settings(), "provenance": {}}

    def settings(self) -> dict[str, Any]:
        """What the method was made with, for JSON."""
        return {
            "text": self.text.settings.as_dict(),
            "lora": None if self.lora is None else self.lora.as_dict(),
            "frozen": self.frozen,
        }

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the trained tensors; the base model by name and revision."""
        write_checkpoint(
            folder,
            method=self.name,
            base=self.backbone.identity,
            settings=self.settings(),
            tensors=self.trained_tensors(),
            extra=extra,
        )

    @classmethod
    def load(cls, folder: Path) -> "Prompted[B]":
        """Read a checkpoint of this method."""
        config = read_config(folder)
        if config["method"] != cls.name:
            raise CheckpointError(f"{folder}: expected method {cls.name!r}, got {config['method']!r}")
        method = cls.from_config(config, folder)
        expected = method.trained_tensors()
        with torch.no_grad():
            for name, tensor in read_tensors(folder, expected).items():
                expected[name].copy_(tensor)
        return method

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> "Prompted[B]":
        """The method on its base model, as a checkpoint's configuration in `folder` says, without what was trained."""
        base, lora = base_of(config), config.get("lora")
        backbone = cast(B, load_backbone(base.name, cls.family, revision=base.revision, relative_to=folder))
        method = cls(
            backbone,
            TextSettings.from_dict(config["text"]),
            None if lora is None else LoraShape.from_dict(lora),
            frozen=bool(config.get("frozen", False)),  # older checkpoints do not say
            **cls.options(config),
        )
        return method.eval()

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments of the constructor that a configuration holds."""
        return {}
