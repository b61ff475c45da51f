"""Answers and scores for a batch of inputs of one or several tasks, the instruction's work already done."""

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
    """A backbone with one task's LoRA merged into it, or with a different adapter for each row of a batch.

    With `merged`, `backbone` is a view with target module weights of its own (the generator's stays as it is) and
    `states` holds one task. Otherwise adapters are attached, and `states` holds one task per row, or a single one that
    all rows share.
    """

    backbone: Backbone
    fusion: Fusion | None
    states: TaskStates
    merged: bool

    def hooks(self, repeats: int = 1) -> list[Mapping[nn.Module, Attached]]:
        """Return what to attach when every row stands `repeats` times side by side (beams, choices)."""
        states = self.states
        attached: list[Mapping[nn.Module, Attached]] = []
        if not self.merged:
            rows = None
            if states.tasks > 1:
                rows = torch.arange(states.tasks, device=states.mask.device).repeat_interleave(repeats)
            attached.append(self.backbone.hooks(states.bank, rows))
        fuses = repeats == 1 or not self.backbone.encoder_decoder  # T5 fuses what reads inputs, not what answers
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
        """Read inputs, after the instruction if its own states are kept, and the joint mask: what `decode` wants."""
        before = None if self.states.cross is None else (self.states.cross, self.states.mask)
        with Attachment(*self.hooks()).active():
            return self.backbone.read_inputs(ids, mask, before)

    def decode(self, read: Any, memory: MemoryMask, **decoding: Unpack[Decoding]) -> AnswerIds:
        """Return answers as token ids from what `read` returned."""
        with Attachment(*self.hooks(decoding.get("num_beams", 1))).active():
            return self.backbone.generate(read, memory, **decoding)

    def scores(self, read: Any, memory: MemoryMask, labels: ChoiceLabels, reduction: Reduction = "sum") -> ChoiceScores:
        """Return the log-probability of every choice of every row from what `read` returned."""
        with Attachment(*self.hooks(labels.shape[1])).active():
            return self.backbone.scores(read, memory, labels, reduction)


@torch.no_grad()
def merged_runner(generator: GeneratorModel, states: TaskStates) -> Runner:
    """A runner for a single task, without dropout: LoRA merged into separate weights, at no cost per input.

    Only LoRA can be merged: any other module is attached.
    """
    backbone, bank = generator.backbone, states.bank
    merged = isinstance(bank, LoraBank)
    model = merge(backbone.model, bank) if isinstance(bank, LoraBank) else view_with_weights(backbone.model, {})
    fusion = None if generator.fusion is None else view_with_weights(generator.fusion, {})
    return Runner(backbone.viewed(model), fusion, states, merged=merged)


def rows_runner(generator: GeneratorModel, states: TaskStates, rows: TaskRows) -> Runner:
    """A runner for a batch in which row i is of task `rows[i]`; a batch of one task shares its adapter."""
    distinct = rows.unique()
    chosen = states.select(distinct if len(distinct) == 1 else rows)
    return Runner(generator.backbone, generator.fusion, chosen, merged=False)


@torch.no_grad()
def answer(runner: Runner, ids: TokenIds, mask: TokenMask, **decoding: Unpack[Decoding]) -> AnswerIds:
    """Read inputs and return answers as token ids."""
    return runner.decode(*runner.read(ids, mask), **decoding)


@torch.no_grad()
def score(
    runner: Runner, ids: TokenIds, mask: TokenMask, labels: ChoiceLabels, reduction: Reduction = "sum"
) -> ChoiceScores:
    """Read inputs and return the log-probability of every choice, end of sequence included."""
    return runner.scores(*runner.read(ids, mask), labels, reduction)
