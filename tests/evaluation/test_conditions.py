"""Conditions give what they say, one task at a time."""

from dataclasses import replace

import pytest
import torch

from tagi.errors import DataError
from tagi.evaluation.conditions import CHANNELS, INSTRUCTIONS, conditions, other_task
from tagi.methods import TAGI
from tests.evaluation.echo import Echo, tasks
from tests.models import tasks as tiny_tasks
from tests.models import tiny_generator


def test_every_instruction_condition() -> None:
    made = {
        condition.name: [condition.prepare(index) for index in range(3)]
        for condition in conditions(Echo(), tasks(), INSTRUCTIONS)
    }
    assert made == {
        "right": [["do a"], ["do b"], ["do c"]],
        "paraphrase": [["please a"], ["please b"], ["please c"]],
        "other": [["do b"], ["do c"], ["do a"]],
        "none": [["-"], ["-"], ["-"]],
    }


def test_what_tasks_have_no_words_for_is_left_out() -> None:
    lonely = [replace(tasks()[0], paraphrases=())]
    assert [condition.name for condition in conditions(Echo(), lonely, INSTRUCTIONS)] == ["right", "none"]


def test_only_what_is_asked_for_in_its_order() -> None:
    assert [condition.name for condition in conditions(Echo(), tasks(), ("none", "right"))] == ["none", "right"]


def test_another_task_is_never_the_same() -> None:
    for count in (2, 5, 24):
        others = other_task(tasks()[:1] * count)
        assert sorted(others) == list(range(count))
        assert all(index != other for index, other in enumerate(others))
    with pytest.raises(DataError, match="at least 2"):
        other_task(tasks()[:1])


def test_channels_are_crossed() -> None:
    method = TAGI(tiny_generator())
    whole = method.prepare(tiny_tasks())
    made = {condition.name: condition for condition in conditions(method, tiny_tasks(), CHANNELS)}
    assert tuple(made) == CHANNELS
    site = method.generator.backbone.sites[0].path

    def delta(states: object) -> torch.Tensor:
        return states.bank.delta(site)  # type: ignore[attr-defined]

    for index, other in enumerate(other_task(tiny_tasks())):
        own = whole.select(torch.tensor([index]))
        elses = whole.select(torch.tensor([other]))
        crossed = made["right LoRA, other states"].prepare(index)
        torch.testing.assert_close(delta(crossed), delta(own))
        torch.testing.assert_close(crossed.states[crossed.mask], elses.states[elses.mask])
        crossed = made["other LoRA, right states"].prepare(index)
        torch.testing.assert_close(delta(crossed), delta(elses))
        torch.testing.assert_close(crossed.states[crossed.mask], own.states[own.mask])
        alone = made["LoRA alone"].prepare(index)
        assert (alone.fusion, alone.cross) == (None, None)
        torch.testing.assert_close(delta(alone), delta(own))
        assert delta(made["states alone"].prepare(index)).abs().max() == 0


def test_no_channels_without_states_to_cross() -> None:
    assert conditions(TAGI(tiny_generator(fusion="none")), tiny_tasks(), CHANNELS) == []
    assert conditions(Echo(), tasks(), CHANNELS) == []
