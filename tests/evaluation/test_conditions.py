"""Conditions give what they say, one task at a time."""

from dataclasses import replace

import pytest
import torch

from tagi.data.task import Example, Wording
from tagi.errors import DataError, InputError
from tagi.evaluation.conditions import CHANNELS, INSTRUCTIONS, SENSITIVITY, Condition, conditions
from tagi.evaluation.substitutes import other_task
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI
from tests.evaluation.echo import Echo, tasks
from tests.models import MODULES, text_settings, tiny_backbone, tiny_generator
from tests.models import tasks as tiny_tasks


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


def test_a_paraphrase_is_the_plain_wording_if_there_is_one() -> None:
    a, b, c = tasks()
    own = [
        replace(a, wordings=(Wording("terse", "brief a"), Wording("plain", "plainly a"))),
        replace(b, wordings=(Wording("terse", "brief b"), Wording("short", "short b")), paraphrases=()),
        c,
    ]
    (made,) = conditions(Echo(), own, ("paraphrase",))
    assert [made.prepare(at) for at in range(3)] == [["plainly a"], ["brief b"], ["please c"]]
    own[0] = replace(own[0], instruction="plainly a")  # as with `--wording plain`
    (made,) = conditions(Echo(), own, ("paraphrase",))
    assert made.prepare(0) == ["brief a"]
    own[2] = replace(c, instruction="please c")
    assert conditions(Echo(), own, ("paraphrase",)) == []


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
    module = method.generator.backbone.target_modules[0].path

    def delta(states: object) -> torch.Tensor:
        return states.bank.delta(module)  # type: ignore[attr-defined]

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
        alone = made["other LoRA alone"].prepare(index)
        assert (alone.fusion, alone.cross) == (None, None)
        torch.testing.assert_close(delta(alone), delta(elses))
        assert delta(made["states alone"].prepare(index)).abs().max() == 0


def test_no_channels_without_states_to_cross() -> None:
    assert conditions(TAGI(tiny_generator(fusion="none")), tiny_tasks(), CHANNELS) == []
    assert conditions(Echo(), tasks(), CHANNELS) == []


def given(condition: Condition) -> dict[str, str]:
    return {tasks()[index].name: condition.prepare(index)[0] for index in condition.covered(tasks())}


def test_every_wrong_instruction() -> None:
    made = {condition.name: given(condition) for condition in conditions(Echo(), tasks(), SENSITIVITY)}
    assert list(made) == ["right", "paraphrase", "same category", "other category", "shuffled", "random", "none"]
    assert made["same category"] == {"a": "do c", "c": "do a"}  # b is alone in its category
    assert made["other category"]["a"] == made["other category"]["c"] == "do b"
    assert made["other category"]["b"] in ("do a", "do c")
    assert made["shuffled"] == {"a": "a do", "b": "b do", "c": "c do"}
    for name, words in made["random"].items():
        assert len(words.split()) == 2, name
        assert set(words.split()) <= {"do", "a", "b", "c"}


@pytest.mark.parametrize("name", ["same category", "other category", "shuffled", "random"])
def test_what_is_drawn_depends_on_the_seed(name: str) -> None:
    own = [
        replace(task, name=f"{task.name}{at}", instruction=f"do {task.name} {at}")
        for task in tasks()
        for at in range(3)
    ]

    def drawn(seed: int) -> list[str]:
        (condition,) = conditions(Echo(), own, (name,), seed=seed)
        return [condition.prepare(index)[0] for index in condition.covered(own)]

    assert drawn(4) == drawn(4)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 2


def test_demonstrations_go_with_their_instruction() -> None:
    class Shown(Echo):
        def prepare(self, tasks, *, truncate=False):  # type: ignore[no-untyped-def]
            return [" ".join(example.input for example in task.examples) for task in tasks]

    own = [replace(task, examples=(Example(task.name, "out"),)) for task in tasks()]
    made = {one.name: one.prepare(0)[0] for one in conditions(Shown(), own, (*INSTRUCTIONS, *SENSITIVITY))}
    assert made == {
        "right": "a",
        "paraphrase": "a",
        "other": "b",
        "none": "-",
        "same category": "c",
        "other category": "b",
        "shuffled": "",
        "random": "",
    }


def test_no_adapters_no_conditions_of_them() -> None:
    reader = Concatenation(tiny_backbone(), text_settings())
    named = [condition.name for condition in conditions(reader, tiny_tasks(), SENSITIVITY)]
    assert named == ["right", "same category", "shuffled", "random", "none"]
    assert [one.name for one in conditions(TAGI(tiny_generator()), tiny_tasks()[:1], SENSITIVITY)] == [
        "right",
        "shuffled",
        "empty",
        "none",
    ]


@pytest.mark.parametrize("fusion", ["both", "none"])
def test_the_mean_adapter_is_the_mean_of_the_updates(fusion: str) -> None:
    method = TAGI(tiny_generator(fusion=fusion))
    banks = [method.prepare([task]).bank for task in tiny_tasks()]
    (made,) = conditions(method, tiny_tasks(), ("mean adapter",))
    for index in range(3):
        states = made.prepare(index)
        assert (states.tasks, states.fusion, states.cross) == (1, None, None)
        for module in banks[0].factors:
            mean = torch.stack([bank.delta(module).double() for bank in banks]).mean(0)
            torch.testing.assert_close(states.bank.delta(module).double(), mean, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(mean, banks[index].delta(module).double(), rtol=1e-2)
    inputs = [instance.input for instance in tiny_tasks()[0].instances[:2]]
    assert len(method.predict(states, torch.tensor([0, 0]), inputs, max_new_tokens=3)) == 2


def test_an_empty_instruction_is_the_end_alone() -> None:
    method = TAGI(tiny_generator())
    (made,) = conditions(method, tiny_tasks(), ("empty",))
    states = made.prepare(1)
    assert states.mask.tolist() == [[True]]
    end = torch.tensor([[method.text.tokenizer.eos_token_id]])
    torch.testing.assert_close(states.states, method.generator.encode_instructions(end, end > 0))
    assert states.bank.delta(method.generator.backbone.target_modules[0].path).abs().max() > 0
    with pytest.raises(InputError, match="got an empty text"):
        method.prepare([replace(tiny_tasks()[0], instruction=" ")])


@pytest.mark.parametrize("name", MODULES)
def test_conditions_of_what_is_not_lora(name: str) -> None:
    """A mean adapter there is, but no Delta W to cross with states."""
    method = TAGI(tiny_generator(**MODULES[name]))
    made = {one.name: one for one in conditions(method, tiny_tasks(), (*SENSITIVITY, *CHANNELS))}
    assert set(made) == set(conditions_of_lora()) - set(CHANNELS)
    given = made["mean adapter"]
    assert given.given == f"the tasks' mean {method.generator.settings.module}, no states"
    states = given.prepare(1)
    assert (states.tasks, states.fusion, states.cross) == (1, None, None)
    inputs = [instance.input for instance in tiny_tasks()[0].instances[:2]]
    answers = [
        method.predict(one, torch.tensor([0, 0]), inputs, max_new_tokens=3) for one in (states, given.prepare(0))
    ]
    assert answers[0] == answers[1]


def conditions_of_lora() -> list[str]:
    return [one.name for one in conditions(TAGI(tiny_generator()), tiny_tasks(), (*SENSITIVITY, *CHANNELS))]
