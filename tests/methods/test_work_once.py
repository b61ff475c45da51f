"""The instruction is read once per task, the input once per input: counted where tokens enter."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Stack

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.data.batches import Sample
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI
from tests.models import (
    ENCODER,
    INSTRUCTIONS,
    TASKS,
    tasks,
    text_settings,
    tiny_backbone,
    tiny_generator,
    words,
)

MANY = 100
INPUTS = [words(100 + at, 2 + at % 7) for at in range(MANY)]
CHOICES = [words(31 + at, 1 + at) for at in range(4)]
ROWS = torch.tensor([at * 7 % TASKS for at in range(MANY)])


class Work:
    """What entered any encoder (texts, positions with padding) and any linear layer (positions per weight).

    Counted on the classes: a merged view is a module tree of its own over the same tensors.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: Counter[tuple[int, ...]] = Counter()
        self.positions = 0
        self.linear: Counter[int] = Counter()
        self.banks = 0
        stack, linear = T5Stack.forward, nn.Linear.forward

        def encode(module: Any, *args: Any, **options: Any) -> Any:
            if not module.is_decoder:
                ids, mask = options["input_ids"], options["attention_mask"].bool()
                self.positions += ids.numel()
                self.texts.update(tuple(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True))
            return stack(module, *args, **options)

        def project(module: nn.Linear, x: Tensor) -> Tensor:
            self.linear[id(module.weight)] += x.shape[:-1].numel()
            return linear(module, x)

        monkeypatch.setattr(T5Stack, "forward", encode)
        monkeypatch.setattr(nn.Linear, "forward", project)

    def watch(self, generator: AdapterGenerator) -> None:
        generator.hypernetwork.register_forward_hook(self._count_bank)

    def _count_bank(self, *_: Any) -> None:
        self.banks += 1

    def fusion(self, generator: AdapterGenerator) -> set[int]:
        """Positions that fusion's keys and values were computed over, of every encoder layer."""
        assert generator.fusion is not None
        return {self.linear[id(getattr(layer, name).weight)] for layer in generator.fusion.layers for name in "kv"}

    def cross_keys(self, generator: AdapterGenerator) -> set[int]:
        """Positions that the decoder's cross-attention keys were computed over, of every decoder layer."""
        return {self.linear[id(attention.k.weight)] for attention in generator.backbone.cross_attentions}

    def cross_values(self, *attentions: Any) -> set[int]:
        """As `cross_keys`, of values: their weights are the backbone's or a merged view's."""
        return {
            sum(self.linear[id(one.v.weight)] for one in same_layer) for same_layer in zip(*attentions, strict=True)
        }


def test_a_task_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    work, generator = Work(monkeypatch), tiny_generator()
    work.watch(generator)
    adapter = generator.adapt(INSTRUCTIONS[2])
    assert isinstance(adapter, TaskAdapter)
    instruction = tuple(generator.text.instruction(INSTRUCTIONS[2]))
    assert work.texts == {instruction: 1}
    assert work.positions == len(instruction) == 14
    adapter.predict(INPUTS)
    adapter.predict(INPUTS, num_beams=3)
    adapter.score(INPUTS, CHOICES)
    inputs = Counter(tuple(generator.text.input(text)) for text in INPUTS)
    assert len(inputs) == MANY
    assert work.texts == {instruction: 1, **dict.fromkeys(inputs, 3)}
    assert work.banks == 1
    assert work.fusion(generator) == {len(instruction)}
    merged = adapter.runner().backbone.cross_attentions
    assert work.cross_keys(generator) == {work.positions}
    assert work.cross_values(generator.backbone.cross_attentions, merged) == {work.positions}
    assert work.positions - len(instruction) == 3 * sum(
        max(map(len, batch)) * len(batch) for batch in batches_by_length(list(inputs))
    )


def batches_by_length(texts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    ordered = sorted(texts, key=len)
    return [ordered[start : start + 32] for start in range(0, len(ordered), 32)]


def test_a_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    work, generator = Work(monkeypatch), tiny_generator()
    work.watch(generator)
    method = TAGI(generator)
    states = method.prepare(tasks())
    instructions = [tuple(generator.text.instruction(text)) for text in INSTRUCTIONS]
    assert work.texts == dict.fromkeys(instructions, 1)
    prepared = work.positions
    assert prepared == TASKS * 14
    assert work.fusion(generator) == work.cross_keys(generator) == {prepared}
    method.predict(states, ROWS, INPUTS, max_new_tokens=3)
    method.predict(states, ROWS, INPUTS, max_new_tokens=3, num_beams=3)
    method.score_choices(states, ROWS, INPUTS, [CHOICES] * MANY)
    inputs = [tuple(generator.text.input(text)) for text in INPUTS]
    assert work.texts == {**dict.fromkeys(instructions, 1), **dict.fromkeys(inputs, 3)}
    assert work.banks == 1
    assert work.fusion(generator) == {prepared}
    assert work.cross_keys(generator) == work.cross_values(generator.backbone.cross_attentions) == {work.positions}
    assert work.positions - prepared == 3 * MANY * max(map(len, inputs))


def test_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every distinct instruction of a batch is encoded, and its adapter generated, once."""
    work, generator = Work(monkeypatch), tiny_generator(tune="all")
    work.watch(generator)
    method = TAGI(generator)
    known = tasks()
    samples = [Sample(known[at % 2], INSTRUCTIONS[at % 2], text, CHOICES[1]) for at, text in enumerate(INPUTS[:9])]
    method(**method.collate(samples))["loss"].backward()
    instructions = [tuple(generator.text.instruction(text)) for text in INSTRUCTIONS[:2]]
    inputs = [tuple(generator.text.input(text)) for text in INPUTS[:9]]
    assert work.texts == dict.fromkeys([*instructions, *inputs], 1)
    assert work.banks == 1
    assert work.fusion(generator) == {2 * 10}
    assert len(generator.fusion.layers if generator.fusion else []) == ENCODER


def test_the_rival_reads_the_instruction_again_for_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    method = Concatenation(tiny_backbone(), text_settings(max_input_tokens=40))
    method.predict(method.prepare(tasks()), ROWS, INPUTS, max_new_tokens=2)
    instructions = [method.text.instruction(text)[:-1] for text in INSTRUCTIONS]
    wanted = [(*instructions[row], *method.text.input(text)) for row, text in zip(ROWS.tolist(), INPUTS, strict=True)]
    assert work.texts == Counter(wanted)
