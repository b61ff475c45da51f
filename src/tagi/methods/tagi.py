"""TAGI: a generator trained to read instructions, and asked through task states computed once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.adapters import as_lora
from tagi.backbones import CausalBackbone, Reduction
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.hypernetwork import (
    Generator,
    TaskStates,
    answer,
    load_generator,
    rows_runner,
    save_generator,
    score,
)
from tagi.methods.causal_costs import causal_tagi_cost
from tagi.methods.costs import Cost, Lengths
from tagi.methods.losses import contrast_loss, prediction_loss, row_losses
from tagi.methods.objective import Objective
from tagi.methods.protocol import Batch, Method, batch_of
from tagi.methods.t5_costs import T5Shapes, tagi_cost


class TAGI(Method):
    """Instruction -> LoRA, or another module, and instruction states; input alone -> answer.

    Hypter, HyperTuning and HINT are configurations of it: what is generated, from what, and how states are fused.
    Raises `ValueError` for an objective with L_ins on what is not LoRA.
    """

    name = "tagi"

    def __init__(self, generator: Generator, objective: Objective | None = None) -> None:
        super().__init__()
        self.generator = generator
        self.objective = objective or Objective()
        if self.objective.weights.ins and generator.settings.module != "lora":
            raise ValueError(f"L_ins: expected a generator of LoRA, got {generator.settings.module}")
        self.text = generator.text

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Each distinct instruction of the batch stands once; `rows` says which row has which."""
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
        return {
            "instruction_ids": instruction_ids,
            "instruction_mask": instruction_mask,
            "rows": torch.tensor(rows),
            **batch_of(self.text, [self.text.input(sample.input, truncate=True) for sample in samples], samples),
            **self.objective.collate(samples, tasks),
        }

    def forward(
        self,
        instruction_ids: Int[Tensor, "task token"],
        instruction_mask: Bool[Tensor, "task token"],
        rows: Int[Tensor, " row"],
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Int[Tensor, "row target"],
        **given: Tensor,
    ) -> dict[str, Float[Tensor, ""]]:
        """The finetuning loss (eq. 6) and its terms, each before its weight.

        `given` is what the objective's terms need, as its `collate` makes it.
        """
        weights, inputs = self.objective.weights, (input_ids, input_mask, labels)
        read = self.generator.read_instructions(instruction_ids, instruction_mask)
        bank = self.generator.generate_bank(read.states, read.mask)
        logits = self.generator.logits(read, bank, rows, *inputs)
        terms = {"prediction": prediction_loss(logits, labels)}
        if weights.kl:
            terms["kl"] = self.objective.distillation(logits, labels, given)
        if weights.ins:
            terms["ins"] = self.objective.alignment(bank, given["categories"])
        if weights.contrast and instruction_mask.shape[0] > 1:
            other = (rows + 1) % instruction_mask.shape[0]
            wrong = self.generator.logits(read, bank, other, *inputs)
            terms["contrast"] = contrast_loss(
                row_losses(logits, labels), row_losses(wrong, labels), weights.contrast_margin
            )
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> TaskStates:
        """All tasks' instructions in one pass."""
        return self._prepared([self.text.of_task(task, truncate=truncate) for task in tasks])

    @property
    def generated_per_task(self) -> int:
        """Numbers that the hypernetwork writes for a task."""
        return sum(target.parameters for target in self.generator.targets)

    def wordless(self) -> TaskStates:
        """States of one task whose instruction says nothing, to measure what an instruction's words do."""
        return self._prepared([self.text.wordless_instruction()])

    def _prepared(self, sequences: Sequence[list[int]]) -> TaskStates:
        ids, mask = self.text.batch_instructions(sequences)
        device = self.generator.backbone.device
        return self.generator.prepare(ids.to(device), mask.to(device))

    def without_instruction(self, states: TaskStates) -> TaskStates:
        """The bare backbone: nothing generated, no fusion, no instruction states."""
        return states.without_lora().without_states()

    def crossed(self, states: TaskStates, lora: Int[Tensor, " task"]) -> TaskStates:
        """Every task's instruction states with the LoRA of task `lora[i]`: which channel carries the task?

        Raises `ValueError` for what is not LoRA.
        """
        bank = as_lora(states.bank, "crossed channels").select(lora.to(states.mask.device))
        return self.generator.states_from(states.read, bank)

    def states_alone(self, states: TaskStates) -> TaskStates:
        """Fusion and instruction states as the bare backbone projects them, nothing generated anywhere."""
        return self.generator.states_from(states.read, states.bank.zero())

    def predict(
        self,
        states: TaskStates,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
        num_beams: int = 1,
        truncate: bool = False,
    ) -> list[str]:
        """Answers of a batch that may mix tasks."""
        runner, ids, mask = self._ready(states, rows, inputs, truncate)
        answers = answer(
            runner, ids, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams
        )
        return self.text.decode(answers)

    def score_choices(
        self,
        states: TaskStates,
        rows: Int[Tensor, " row"],
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        """Scores of a batch that may mix tasks and numbers of choices."""
        runner, ids, mask = self._ready(states, rows, inputs, truncate)
        labels = self.text.choice_labels(choices).to(ids.device)
        scores = score(runner, ids, mask, labels, reduction)
        return [row[: len(own)].tolist() for row, own in zip(scores, choices, strict=True)]

    def _ready(
        self, states: TaskStates, rows: Tensor, inputs: Sequence[str], truncate: bool
    ) -> tuple[Any, Tensor, Tensor]:
        device = self.generator.backbone.device
        ids, mask = self.text.batch([self.text.input(text, truncate=truncate) for text in inputs])
        return rows_runner(self.generator, states, rows.to(device)), ids.to(device), mask.to(device)

    def cost(self, lengths: Lengths, *, merged: bool = True) -> Cost:
        """The instruction's work once, then the input alone; LoRA `merged`, as in `TaskAdapter`, or as in `predict`."""
        backbone, settings = self.generator.backbone, self.generator.settings
        if isinstance(backbone, CausalBackbone):
            return causal_tagi_cost(self.generator, lengths, merged=merged)
        return tagi_cost(T5Shapes.of(backbone.model.config), backbone.sites, settings, lengths, merged=merged)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the generator."""
        save_generator(self.generator, folder, extra)

    @classmethod
    def load(cls, folder: Path) -> "TAGI":
        """Read a generator."""
        return cls(load_generator(folder)).eval()
