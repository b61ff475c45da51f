"""Answers and scores for a batch of inputs, given task states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn

from tagi.adapters.attach import Attached, Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge, view_with_weights
from tagi.backbones.protocol import Backbone, Decoding, Reduction
from tagi.backbones.shapes import AnswerIds, ChoiceLabels, ChoiceScores, MemoryMask, TaskRows, TokenIds, TokenMask
from tagi.hypernetwork.fusion import Fusion
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates


@dataclass(frozen=True)
class Runner:
    """A backbone with one task's LoRA merged, or with one adapter per row of a batch attached.

    With `merged`, `backbone` is a view with its own weights of the target modules, and `states` holds one task.
    Otherwise adapters are attached during each call, and `states` holds one task per row, or one task for all rows.
    """

    backbone: Backbone
    fusion: Fusion | None
    states: TaskStates
    merged: bool

    def hooks(self, repeats: int = 1) -> list[Mapping[nn.Module, Attached]]:
        """Return the attachment for rows that are repeated `repeats` times (for beams or choices)."""
        states = self.states
        attached: list[Mapping[nn.Module, Attached]] = []
        if not self.merged:
            rows = None
            if states.tasks > 1:
                rows = torch.arange(states.tasks, device=states.mask.device).repeat_interleave(repeats)
            attached.append(self.backbone.hooks(states.bank, rows))
        fuses = repeats == 1 or not self.backbone.encoder_decoder  # T5 has fusion in the encoder only
        if self.fusion is not None and states.fusion is not None and fuses:
            keys_values, mask = states.fusion, states.mask
            if repeats > 1 and states.tasks > 1:
                keys_values = [
                    (k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)) for k, v in keys_values
                ]
                mask = mask.repeat_interleave(repeats, 0)
            attached.append(self.fusion.hooks(self.backbone, keys_values, mask))
        return attached

    def read(self, ids: TokenIds, mask: TokenMask) -> tuple[Any, MemoryMask]:
        """Encode inputs, after the instruction if its states are stored. Returns the input of `decode`."""
        before = None if self.states.cross is None else (self.states.cross, self.states.mask)
        with Attachment(*self.hooks()).active():
            return self.backbone.read_inputs(ids, mask, before)

    def decode(self, read: Any, memory: MemoryMask, **decoding: Unpack[Decoding]) -> AnswerIds:
        """Generate answers as token ids from the result of `read`."""
        with Attachment(*self.hooks(decoding.get("num_beams", 1))).active():
            return self.backbone.generate(read, memory, **decoding)

    def scores(self, read: Any, memory: MemoryMask, labels: ChoiceLabels, reduction: Reduction = "sum") -> ChoiceScores:
        """Compute the log-probability of every choice of every row from the result of `read`."""
        with Attachment(*self.hooks(labels.shape[1])).active():
            return self.backbone.scores(read, memory, labels, reduction)


@torch.no_grad()
def merged_runner(generator: GeneratorModel, states: TaskStates) -> Runner:
    """Return a runner for a single task, in evaluation mode, with the LoRA merged into a copy of the weights.

    Modules other than LoRA are attached instead.
    """
    backbone, bank = generator.backbone, states.bank
    merged = isinstance(bank, LoraBank)
    model = merge(backbone.model, bank) if isinstance(bank, LoraBank) else view_with_weights(backbone.model, {})
    fusion = None if generator.fusion is None else view_with_weights(generator.fusion, {})
    return Runner(backbone.viewed(model), fusion, states, merged=merged)


def rows_runner(generator: GeneratorModel, states: TaskStates, rows: TaskRows) -> Runner:
    """Return a runner for a batch in which row i belongs to task `rows[i]`."""
    distinct = rows.unique()
    chosen = states.select(distinct if len(distinct) == 1 else rows)
    return Runner(generator.backbone, generator.fusion, chosen, merged=False)


@torch.no_grad()
def answer(runner: Runner, ids: TokenIds, mask: TokenMask, **decoding: Unpack[Decoding]) -> AnswerIds:
    """Generate answers to inputs as token ids."""
    return runner.decode(*runner.read(ids, mask), **decoding)


@torch.no_grad()
def score(
    runner: Runner, ids: TokenIds, mask: TokenMask, labels: ChoiceLabels, reduction: Reduction = "sum"
) -> ChoiceScores:
    """Compute the log-probability of every choice for every input, including the end of sequence."""
    return runner.scores(*runner.read(ids, mask), labels, reduction)
