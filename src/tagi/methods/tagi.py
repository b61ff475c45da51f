"""TAGI: training of a generator, and inference with task states."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tagi.backbones import shapes
from tagi.backbones.protocol import Decoding, Instructions, Reduction
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.formats.generator import load_generator, save_generator
from tagi.hypernetwork.inference import rows_runner
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates
from tagi.hypernetwork.states_memory import StatesMemory
from tagi.methods.flops import Cost, Lengths, Shapes, tagi_cost
from tagi.methods.objective.losses import contrast_loss, distillation_loss, prediction_loss, row_losses
from tagi.methods.objective.objective import Objective
from tagi.methods.protocol import Batch, Method, batch_of


class TAGI(Method):
    """Generates a LoRA (or other module) and instruction states per task; inputs are then answered without instruction.

    Hypter, HyperTuning and HINT are configurations of this class. Raises `ValueError` for an objective with L_ins if
    the module is not LoRA, and for pairs of rows together with `state_dropout`.
    """

    name = "tagi"

    def __init__(self, generator: GeneratorModel, objective: Objective | None = None) -> None:
        super().__init__()
        self.generator = generator
        self.objective = objective or Objective()
        if self.objective.weights.ins and generator.settings.module != "lora":
            raise ValueError(f"L_ins: expected a generator of LoRA, got {generator.settings.module}")
        if self.objective.weights.pairs and generator.settings.state_dropout:
            raise ValueError("expected generator.state_dropout = 0 with rows in pairs, which are prompted and alone")
        self.text = generator.text
        self.memory = StatesMemory()

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate a batch, with each distinct instruction once; `rows` maps rows to instructions.

        With pairs of rows, all samples with instruction come first, then all samples with the adapter alone.
        """
        distinct: dict[tuple[str, str, tuple[Example, ...], tuple[Example, ...] | None], int] = {}
        rows: list[int] = []
        instructions, tasks = [], []
        for sample in samples:
            key = (sample.task.name, sample.instruction, sample.shots, sample.examples)
            if key not in distinct:
                distinct[key] = len(distinct)
                tasks.append(sample.task)
                instructions.append(self.text.of_task(sample.asked, truncate=True))
            rows.append(distinct[key])
        instruction_ids, instruction_mask = self.text.batch_instructions(instructions)
        given = [self.generator.input_encoder()(self.input_of(sample), truncate=True) for sample in samples]
        doubled, pairs = list(samples), {}
        if self.objective.weights.pairs:
            given += [self.generator.input_encoder(alone=True)(sample.input, truncate=True) for sample in samples]
            doubled, rows = doubled * 2, rows * 2
            pairs = {"alone": torch.arange(len(doubled)) >= len(samples)}
        return {
            "instruction_ids": instruction_ids,
            "instruction_mask": instruction_mask,
            "rows": torch.tensor(rows),
            **batch_of(self.text, given, doubled),
            **pairs,
            **self.objective.collate(samples, tasks),
        }

    def forward(
        self,
        instruction_ids: shapes.InstructionIds,
        instruction_mask: shapes.InstructionMask,
        rows: shapes.TaskRows,
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: shapes.Labels,
        **given: Tensor,
    ) -> dict[str, shapes.Scalar]:
        """Compute the finetuning loss (eq. 6) and its unweighted terms.

        `given` is the result of the objective's `collate`. With pairs of rows, all terms except `alone` and `alone_kl`
        are computed on the rows with instruction.
        """
        weights, alone = self.objective.weights, given.get("alone")
        read = self._read_instructions(instruction_ids, instruction_mask)
        bank = self.generator.generate_bank(read.states, read.mask)
        logits = self.generator.logits(read, bank, rows, input_ids, input_mask, labels, alone)
        terms: dict[str, Tensor] = {}
        if alone is not None:
            half = len(labels) // 2
            apart = logits[half:]
            logits, labels, rows, input_ids, input_mask = (
                part[:half] for part in (logits, labels, rows, input_ids, input_mask)
            )
            if weights.alone:
                terms["alone"] = prediction_loss(apart, labels)
            if weights.alone_kl:
                terms["alone_kl"] = distillation_loss(apart, logits, labels)
        inputs = (input_ids, input_mask, labels)
        terms["prediction"] = prediction_loss(logits, labels)
        if weights.kl:
            terms["kl"] = self.objective.distillation(logits, labels, given)
        if weights.ins:
            start = self.generator.start_bank() if weights.ins_normalized else None
            terms["ins"] = self.objective.alignment(bank, given["categories"], start)
        if weights.contrast and instruction_mask.shape[0] > 1:
            other = (rows + 1) % instruction_mask.shape[0]
            wrong = self.generator.logits(read, bank, other, *inputs)
            terms["contrast"] = contrast_loss(
                row_losses(logits, labels), row_losses(wrong, labels), weights.contrast_margin
            )
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _read_instructions(self, ids: Tensor, mask: Tensor) -> Instructions:
        """Encode instructions. In training, states of a frozen encoder are cached."""
        remembers = self.training and self.remembers
        return self.memory.read(self.generator, ids, mask) if remembers else self.generator.read_instructions(ids, mask)

    @property
    def remembers(self) -> bool:
        """Whether training caches instruction states, because the encoder is frozen."""
        generator = self.generator
        return generator.settings.instruction_cache in ("none", "adapted") and not generator.reader_trained

    def measure(self, batches: Iterable[Batch]) -> None:
        """Measure the statistics for standardising instruction states on collated batches."""
        device = self.generator.backbone.device

        def remembered(ids: Tensor, mask: Tensor) -> Tensor:
            return self.memory.read(self.generator, ids, mask).states

        read = ((batch["instruction_ids"].to(device), batch["instruction_mask"].to(device)) for batch in batches)
        self.generator.measure(read, remembered if self.remembers else None)

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> TaskStates:
        """Compute the states of all tasks in one pass over their instructions."""
        ids, mask = self.text.batch_instructions([self.text.of_task(task, truncate=truncate) for task in tasks])
        device = self.generator.backbone.device
        return self.generator.prepare(ids.to(device), mask.to(device))

    @property
    def generated_per_task(self) -> int:
        """Number of generated parameters per task."""
        return sum(target.parameters for target in self.generator.targets)

    @property
    def generator_model(self) -> GeneratorModel:
        """The generator."""
        return self.generator

    def without_instruction(self, states: TaskStates) -> TaskStates:
        """Return states of the unchanged backbone, without adapter, fusion and prefix."""
        return states.without_lora().without_states()

    def _read(self, states: TaskStates, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        device = self.generator.backbone.device
        input_encoder = self.generator.input_encoder(alone=states.alone)
        ids, mask = self.text.batch([input_encoder(text, truncate=truncate) for text in inputs])
        runner = rows_runner(self.generator, states, rows.to(device))
        read, memory = runner.read(ids.to(device), mask.to(device))
        return (runner, read), memory

    def _answers(self, read: Any, mask: shapes.MemoryMask, **decoding: Unpack[Decoding]) -> shapes.AnswerIds:
        runner, inputs = read
        answers: Tensor = runner.decode(inputs, mask, **decoding)
        return answers

    def _scores(
        self, read: Any, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction
    ) -> shapes.ChoiceScores:
        runner, inputs = read
        scores: Tensor = runner.scores(inputs, mask, labels, reduction)
        return scores

    @cached_property
    def shapes(self) -> Shapes:
        """The backbone's shapes. Raises `ConfigError` if its FLOPs cannot be computed."""
        return Shapes.of(self.generator.backbone)

    def cost(self, lengths: Lengths, *, merged: bool = True, alone: bool = False) -> Cost:
        """Compute FLOPs with the instruction processed once per task.

        Args:
            lengths: Tokens of instruction, input and output. The length of an input includes the tokens of the format
                around it, which may differ with and without instruction.
            merged: Whether the LoRA is merged into the weights, as in `TaskAdapter`, or not, as in `predict`.
            alone: Whether inputs are answered with the adapter alone, without KV prefix.

        Raises `ConfigError` if the FLOPs of the backbone cannot be computed.
        """
        generator = self.generator
        if not self.reads_instruction:
            lengths = replace(lengths, input=lengths.whole_input)
        return tagi_cost(self.shapes, generator.targets, generator.settings, lengths, merged=merged, alone=alone)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the generator."""
        save_generator(self.generator, folder, extra)

    @classmethod
    def load(cls, folder: Path) -> "TAGI":
        """Read a generator."""
        return cls(load_generator(folder)).eval()
