"""Calls that overlap or nest leave one another alone, recomputation included, and leave nothing on modules."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment, detached
from tagi.api.generator import AdapterGenerator
from tagi.data.text.encoder import TextEncoder
from tagi.hypernetwork.inference import rows_runner, score
from tests.models import (
    CHOICES,
    INPUTS,
    INSTRUCTIONS,
    ROW_TASKS,
    random_bank,
    rounding,
    text_settings,
    tiny_backbone,
    tiny_generator,
    tokenizer,
    traces,
)

TEXT = TextEncoder(tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
INSTRUCTION_IDS, INSTRUCTION_MASK = TEXT.batch([TEXT.instruction(text) for text in INSTRUCTIONS])
LABELS = TEXT.labels([TEXT.target(row[-1]) for row in CHOICES])
ROWS_OF = torch.tensor(ROW_TASKS)
BATCH = (INSTRUCTION_IDS, INSTRUCTION_MASK, ROWS_OF, IDS, MASK, LABELS)


def hooks(generator: AdapterGenerator) -> list[Any]:
    return [hook for module in generator.modules() for hook in module._forward_hooks.values()]


def gradients(generator: AdapterGenerator, checkpointed: bool) -> Iterator[tuple[str, Tensor]]:
    if checkpointed:
        generator.backbone.checkpoint_gradients()
    generator.train()
    torch.manual_seed(0)
    before = hooks(generator)
    logits, _ = generator(*BATCH)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten()).backward()
    assert hooks(generator) == before
    for name, parameter in generator.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad


@pytest.mark.parametrize("tune", ["none", "all"])
def test_gradient_checkpointing_recomputes_with_the_same_adapters(tune: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = torch.nn.functional.relu

    def counted(*args: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return real(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "relu", counted)
    plain = dict(gradients(tiny_generator(tune=tune), checkpointed=False))
    once = calls
    generator = tiny_generator(tune=tune)
    found = dict(gradients(generator, checkpointed=True))
    # The decoder's layers twice; the encoder's twice for the inputs, and for the instructions if they learn.
    assert calls - once == once + (2 + 3 + (3 if tune == "all" else 0))
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in plain.items())


def forward(generator: AdapterGenerator) -> Tensor:
    with torch.no_grad():
        logits, _ = generator(*BATCH)
    return logits


def test_nothing_is_left_on_modules() -> None:
    generator = tiny_generator()
    before = list(traces(generator))
    forward(generator)
    states = generator.prepare(INSTRUCTION_IDS, INSTRUCTION_MASK)
    score(rows_runner(generator, states, ROWS_OF), IDS, MASK, LABELS.unsqueeze(1))
    generator.adapt(INSTRUCTIONS)
    assert list(traces(generator)) == before
    unknown = torch.full_like(IDS, 10_000)
    with pytest.raises(IndexError):  # inside the encoder, with everything attached
        generator(*BATCH[:3], unknown, *BATCH[4:])
    with pytest.raises(IndexError):
        score(rows_runner(generator, states, ROWS_OF), unknown, MASK, LABELS.unsqueeze(1))
    assert list(traces(generator)) == before


def test_a_teacher_inside_its_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding an instruction, or running the bare backbone, inside a call disturbs neither."""
    generator = tiny_generator()
    backbone = generator.backbone
    bank = random_bank(backbone.target_modules)
    bare = backbone.encode(IDS, MASK)
    instructions = generator.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK)
    student = Attachment(bank.hooks(backbone.target_layers, ROWS_OF))
    teacher = random_bank(backbone.target_modules, tasks=1, seed=8)
    with Attachment(teacher.hooks(backbone.target_layers)).active():
        taught = backbone.encode(IDS, MASK)
    with student.active():
        adapted = backbone.encode(IDS, MASK)
        assert torch.equal(generator.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK), instructions)
        with detached():
            assert torch.equal(backbone.encode(IDS, MASK), bare)
        with Attachment(teacher.hooks(backbone.target_layers)).active():
            assert torch.equal(backbone.encode(IDS, MASK), taught)
        assert torch.equal(backbone.encode(IDS, MASK), adapted)
    assert rounding(adapted, bare) > 0.01 < rounding(adapted, taught)

    expected, inside = forward(generator), []
    real = backbone.model.decoder.forward

    def teaching(*args: Any, **options: Any) -> Any:
        with detached():
            inside.append(backbone.encode(IDS, MASK))
        return real(*args, **options)

    monkeypatch.setattr(backbone.model.decoder, "forward", teaching)
    assert torch.equal(forward(generator), expected)
    assert torch.equal(inside[0], bare)


def test_two_threads_with_two_banks_on_one_backbone() -> None:
    backbone = tiny_backbone()
    banks = [random_bank(backbone.target_modules, seed=seed) for seed in (1, 2)]
    meet = threading.Barrier(2, timeout=60)
    faults: list[object] = []

    def logits(bank: Any) -> Tensor:
        with torch.no_grad(), Attachment(bank.hooks(backbone.target_layers, ROWS_OF)).active():
            return backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)

    alone = [logits(bank) for bank in banks]
    assert rounding(alone[0], alone[1]) > 0.01
    standing: list[int] = []
    shared = backbone.target_layers[backbone.target_modules[0].path]

    def work(which: int) -> None:
        try:
            for _ in range(15):
                with torch.no_grad(), Attachment(banks[which].hooks(backbone.target_layers, ROWS_OF)).active():
                    meet.wait()
                    standing.append(len(shared._forward_hooks))
                    found = backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)
                    meet.wait()
                if not torch.equal(found, alone[which]):
                    faults.append(which)
        except BaseException as error:
            meet.abort()
            faults.append(error)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []
    assert standing == [2] * 2 * 15  # both attachments, every time
    assert not any(module._forward_hooks for module in backbone.modules())
