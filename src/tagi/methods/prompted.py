"""Base of methods that read the instruction and the input in one text.

If the text settings read nothing of a task, only the input is used: a control without instructions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, Unpack, cast

from torch import Tensor

from tagi.backbones import shapes
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone, Decoding, Reduction
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError
from tagi.formats.checkpoint import base_of, identity_of, read_config, read_tensors, write_checkpoint
from tagi.methods.flops import Cost, Lengths, Shapes, prompted_cost
from tagi.methods.lora import inject_lora
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.protocol import Batch, Method, batch_of
from tagi.settings.generator import LoraShape
from tagi.settings.text import TextSettings

B = TypeVar("B", bound=Backbone)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Tasks whose texts are part of every prompt; None means no instruction."""

    tasks: tuple[Task | None, ...]


class Prompted(Method, Generic[B]):
    """Instruction and input in one text, processed for every input.

    Trains the whole backbone, with `lora` only a PEFT LoRA on its target modules, or with `frozen` nothing. Subclasses
    define the supported backbones and the collation of their batches.
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

    def _logits(self, ids: shapes.TokenIds, mask: shapes.TokenMask, labels: shapes.Labels) -> shapes.Logits:
        """Return teacher-forced logits of the labels after their prompts."""
        return self.backbone.forced_logits(ids, mask, labels)

    def _answers(self, read: Any, mask: shapes.MemoryMask, **decoding: Unpack[Decoding]) -> shapes.AnswerIds:
        return self.backbone.generate(read, mask, **decoding)

    def _scores(
        self, read: Any, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction
    ) -> shapes.ChoiceScores:
        return self.backbone.scores(read, mask, labels, reduction)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate one row per sample."""
        texts = [self._prompt(sample.asked, self.input_of(sample), truncate=True) for sample in samples]
        return batch_of(self.text, texts, samples)

    def forward(
        self, input_ids: shapes.TokenIds, input_mask: shapes.TokenMask, labels: shapes.Labels
    ) -> dict[str, shapes.Scalar]:
        """Compute the cross-entropy of the target."""
        return self._terms(self._logits(input_ids, input_mask, labels), labels)

    def _terms(self, logits: shapes.Logits, labels: shapes.Labels) -> dict[str, shapes.Scalar]:
        prediction = prediction_loss(logits, labels)
        return {"loss": prediction, "prediction": prediction.detach()}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Store the tasks' texts. Raises `InputError` for an instruction over the limit unless `truncate`."""
        for task in tasks if self.reads_instruction else ():
            self.text.instruction(task.instruction, task.examples, truncate=truncate)
        return Prompts(tuple(tasks))

    def without_instruction(self, states: Prompts) -> Prompts:
        """Return states without instruction."""
        return Prompts((None,) * len(states.tasks))

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        return self.backbone.read_inputs(*self._tokens(states, rows, inputs, truncate))

    def _tokens(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Tensor, Tensor]:
        """Return the tokens of the prompts, padded, and their mask."""
        pairs = zip(rows.tolist(), inputs, strict=True)
        ids, mask = self.text.batch([self._prompt(states.tasks[row], text, truncate=truncate) for row, text in pairs])
        return ids.to(self.backbone.device), mask.to(self.backbone.device)

    def _prompt(self, task: Task | None, text: str, *, truncate: bool) -> list[int]:
        """Return the token ids of the prompt for an input; without a task, of the input only."""
        if task is None:
            return self.text.input(text, truncate=truncate)
        return self.text.concatenated(task.instruction, task.examples, text, truncate=truncate)

    @cached_property
    def shapes(self) -> Shapes:
        """The backbone's shapes. Raises `ConfigError` if its FLOPs cannot be computed."""
        return Shapes.of(self.backbone)

    @property
    def lora_rank(self) -> int:
        """Rank of the trained LoRA, 0 without one."""
        return 0 if self.lora is None else self.lora.rank

    def cost(self, lengths: Lengths) -> Cost:
        """Compute FLOPs with the whole prompt processed per input. A LoRA is not merged.

        Raises `ConfigError` if the FLOPs of the backbone cannot be computed.
        """
        return prompted_cost(self.shapes, self._read_of(lengths), rank=self.lora_rank)

    def _read_of(self, lengths: Lengths) -> Lengths:
        """Return the lengths of a task's texts."""
        if self.text.settings.reads != "nothing":
            return lengths
        return replace(lengths, instruction=0, concatenated=lengths.whole_input)

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the method's part of a checkpoint's configuration: base model and settings."""
        base = self.backbone.identity
        return {**identity_of(self.name, base), **self.settings(), "provenance": {}}

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments for JSON."""
        return {
            "text": self.text.settings.as_dict(),
            "lora": None if self.lora is None else self.lora.as_dict(),
            "frozen": self.frozen,
        }

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the trained tensors, and name and revision of the base model."""
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
        """Load a checkpoint of this method."""
        config = read_config(folder)
        if config["method"] != cls.name:
            raise CheckpointError(f"{folder}: expected method {cls.name!r}, got {config['method']!r}")
        method = cls.from_config(config, folder)
        method.copy_trained(read_tensors(folder, method.trained_tensors()))
        return method

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> "Prompted[B]":
        """Construct the method from a checkpoint's configuration, without the trained tensors."""
        base, lora = base_of(config), config.get("lora")
        backbone = cast(B, load_backbone(base.name, cls.family, revision=base.revision, relative_to=folder))
        method = cls(
            backbone,
            TextSettings.from_dict(config["text"]),
            None if lora is None else LoraShape.from_dict(lora),
            frozen=bool(config.get("frozen", False)),  # not in older checkpoints
            **cls.options(config),
        )
        return method.eval()

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return further constructor arguments from a configuration."""
        return {}
