"""Task states: selecting, joining, taking channels away."""

import torch

from tagi.api.generator import AdapterGenerator
from tagi.backbones.protocol import KeysValues
from tagi.hypernetwork.states import TaskStates
from tests.models import DECODER, ENCODER, INSTRUCTIONS, TASKS, same, tiny_generator

LENGTHS = (10, 5, 14)


def prepared(generator: AdapterGenerator, *which: int) -> TaskStates:
    texts = [generator.text.instruction(INSTRUCTIONS[task]) for task in which]
    return generator.prepare(*generator.text.batch(texts))


def tensors(states: TaskStates) -> list[torch.Tensor]:
    layers: list[KeysValues | None] = [states.fusion, states.cross]
    pairs = [*states.bank.factors.values(), *(pair for part in layers if part is not None for pair in part)]
    return [states.states, *(tensor for pair in pairs for tensor in pair)]


def test_shapes() -> None:
    states = prepared(tiny_generator(), 0, 1, 2)
    assert states.tasks == states.bank.tasks == TASKS
    assert states.mask.sum(1).tolist() == list(LENGTHS)
    assert states.fusion is not None
    assert states.cross is not None
    assert (len(states.fusion), len(states.cross)) == (ENCODER, DECODER)
    assert not any(tensor.requires_grad for tensor in tensors(states))


def test_what_a_generator_does_not_use_is_not_made() -> None:
    for fusion, fuses, concatenates in (
        ("both", True, True),
        ("attention", True, False),
        ("concatenation", False, True),
        ("none", False, False),
    ):
        states = prepared(tiny_generator(fusion=fusion), 0, 1)
        assert (states.fusion is not None, states.cross is not None) == (fuses, concatenates)


def test_all_of_them_move_to_a_device() -> None:
    for fusion in ("both", "none"):
        states = prepared(tiny_generator(fusion=fusion), 0, 1)
        moved = states.to("meta")
        assert (moved.fusion is None, moved.cross is None) == (states.fusion is None, states.cross is None)
        assert [tensor.shape for tensor in tensors(moved)] == [tensor.shape for tensor in tensors(states)]
        assert {tensor.device.type for tensor in [moved.mask, *tensors(moved)]} == {"meta"}


def test_one_task_selected_is_what_it_is_alone() -> None:
    generator = tiny_generator().double()
    together = prepared(generator, 0, 1, 2)
    for task, length in enumerate(LENGTHS):
        found, alone = together.select(torch.tensor([task])), prepared(generator, task)
        assert found.mask.tolist() == [[True] * length]
        for one, other in zip(tensors(found), tensors(alone), strict=True):
            same(one, other)


def test_rows_may_repeat_and_common_padding_goes() -> None:
    states = prepared(tiny_generator(), 0, 1, 2)
    found = states.select(torch.tensor([1, 0, 1]))
    assert found.mask.sum(1).tolist() == [5, 10, 5]
    assert found.states.shape[1] == 10
    assert torch.equal(found.states[0, :5], states.states[1, :5])
    assert torch.equal(
        found.bank.delta("decoder.block.0.layer.1.EncDecAttention.v", 1),
        states.bank.delta("decoder.block.0.layer.1.EncDecAttention.v", 0),
    )
    assert found.fusion is not None
    assert states.fusion is not None
    assert torch.equal(found.fusion[2][1][1], states.fusion[2][1][0, :, :10])
    assert states.select(torch.tensor([], dtype=torch.long)).tasks == 0


def test_channels_can_be_taken_away() -> None:
    states = prepared(tiny_generator(), 0, 1)
    alone = states.without_states()
    assert alone.fusion is alone.cross is None
    assert alone.bank is states.bank
    silent = states.without_lora()
    assert silent.fusion is states.fusion
    assert silent.cross is states.cross
    assert not any(b.any() for _, b in silent.bank.factors.values())
    assert any(b.any() for _, b in states.bank.factors.values())
