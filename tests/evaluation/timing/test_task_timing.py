"""What is timed is what users call: answers of exactly the length asked for, whole or from their parts."""

from itertools import count

import pytest
import torch

from tagi.data.task import Example, Instance, Task
from tagi.evaluation.timing.stopwatch import Stopwatch
from tagi.evaluation.timing.tables import markdown, phase_rows, ratio_rows, speed_rows
from tagi.evaluation.timing.task_timing import TaskTiming, time_ratio
from tagi.evaluation.timing.timed_methods import TimedMetatrained, TimedMethod, TimedTAGI
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI
from tests.evaluation.echo import Echo, tasks
from tests.models import INPUTS, INSTRUCTIONS, text_settings, tiny_backbone, tiny_generator, words

OUTPUT = 9
TASK = Task(
    "a task",
    "c",
    INSTRUCTIONS[1],
    tuple(Instance(f"i{at}", text, ("w1",)) for at, text in enumerate(INPUTS)),
    (Example(words(5, 2), words(6, 1)),),
)
ASKED = TASK.instances


def metatrained() -> Concatenation:
    return Concatenation(tiny_backbone(), text_settings(max_input_tokens=40, positives=1)).double().eval()


def tagi() -> TAGI:
    return TAGI(tiny_generator().double()).eval()


@pytest.fixture(params=["metatrained", "merged", "rows"])
def timed(request: pytest.FixtureRequest) -> TimedMethod:
    if request.param == "metatrained":
        return TimedMetatrained(metatrained(), TASK, OUTPUT)
    return TimedTAGI(tagi(), TASK, OUTPUT, merged=request.param == "merged")


def test_every_answer_has_exactly_the_tokens_asked_for(timed: TimedMethod) -> None:
    assert timed.answer_tokens(ASKED) == OUTPUT
    assert timed.answer_tokens(ASKED[:1]) == OUTPUT


def test_answers_that_would_end_at_once_have_them_too(timed: TimedMethod) -> None:
    """With the first token that the model writes as its end, nothing but the least length keeps it going."""
    method = timed.method
    states, row = method.prepare([TASK]), torch.tensor([0])
    first = method.predict(states, row, INPUTS[:1], max_new_tokens=1)[0]
    model = timed.runner(1).backbone.model if isinstance(timed, TimedTAGI) else method.backbone.model
    model.config.eos_token_id = method.text.tokenizer.convert_tokens_to_ids(first)
    assert method.predict(states, row, INPUTS[:1], max_new_tokens=OUTPUT) == [first]
    assert timed.answer_tokens(ASKED[:1]) == OUTPUT
    value = ASKED[:1]
    for _, step in timed.chain():
        value = step(value)
    assert timed.answer(ASKED[:1]) == value
    assert first not in value[0].split()
    if isinstance(timed, TimedTAGI):
        assert timed.cold(ASKED[:1]) == value


def test_the_parts_give_what_the_whole_gives(timed: TimedMethod) -> None:
    value = ASKED
    for _, step in timed.chain():
        value = step(value)
    assert value == timed.answer(ASKED)
    assert len(set(value)) > 1


@pytest.mark.parametrize("merged", [True, False])
def test_cold_answers_are_warm_ones(merged: bool) -> None:
    method = tagi()
    made = TimedTAGI(method, TASK, OUTPUT, merged=merged)
    assert made.cold(ASKED) == made.answer(ASKED)
    value = ASKED
    for _, step in made.once():
        value = step(value)
    states = value.states if merged else value
    for module, factors in method.prepare([TASK]).bank.factors.items():
        for found, wanted in zip(states.bank.factors[module], factors, strict=True):
            assert torch.equal(found, wanted)


def test_metatrain_reads_both_and_tagi_the_input_alone() -> None:
    reference, candidate = TimedMetatrained(metatrained(), TASK, OUTPUT), TimedTAGI(tagi(), TASK, OUTPUT, merged=False)
    shown = len(f"{TASK.examples[0].input} -> {TASK.examples[0].output}".split())
    for together, alone, text in zip(reference.sequences(ASKED), candidate.sequences(ASKED), INPUTS, strict=True):
        assert len(alone) == len(text.split()) + 1
        assert len(together) == len(alone) + len(TASK.instruction.split()) + shown


def test_merged_weights_are_held_besides() -> None:
    method = tagi()
    rows, merged = (TimedTAGI(method, TASK, OUTPUT, merged=merged) for merged in (False, True))
    target_modules = sum(module.d_in * module.d_out for module in method.generator.backbone.target_modules)
    assert merged.held() - rows.held() == 8 * target_modules
    backbone = sum(parameter.numel() for parameter in method.generator.backbone.parameters())
    assert TimedMetatrained(metatrained(), TASK, OUTPUT).held() == 8 * backbone
    assert rows.held() > 8 * sum(parameter.numel() for parameter in method.parameters())


@pytest.fixture(scope="module")
def timing() -> dict:
    """By a clock that moves a second whenever it is looked at: every step takes one, whatever it does."""
    ticks = count()
    made = TaskTiming(metatrained(), tagi(), TASK, OUTPUT)
    watch = Stopwatch(clock=lambda: float(next(ticks)))
    return made.run(watch, batch_size=3, pairs=4, say=lambda _: None)


def test_what_is_measured(timing: dict) -> None:
    assert timing["batches"] == [3, 3, 1]
    assert timing["output_tokens"] == {"Metatrain": OUTPUT, "TAGI merged": OUTPUT, "TAGI per row": OUTPUT}
    answer = {"words": 2.0, "encode": 1.0, "decode": 1.0}
    once = {"read instruction": 1.0, "generate adapter": 1.0, "keys and values": 1.0}
    assert timing["phases"] == {
        **dict.fromkeys(("Metatrain", "TAGI merged", "TAGI per row"), answer),
        "TAGI merged, once": {**once, "merge": 1.0},
        "TAGI per row, once": once,
    }


def test_cold_is_warm_and_the_instruction_and_a_whole_task_has_it_once(timing: dict) -> None:
    found = {(one["method"], one["instruction"]): one for one in timing["comparisons"]}
    assert {key: one["predicted"] for key, one in found.items()} == pytest.approx(
        {
            ("TAGI merged", "warm"): 4 / 4,
            ("TAGI merged", "cold"): (4 + 4) / 4,
            ("TAGI merged", "whole task"): (4 + 4 * 3 / 7) / 4,  # 7 inputs are 7 / 3 batches
            ("TAGI per row", "warm"): 4 / 4,
            ("TAGI per row", "cold"): (4 + 3) / 4,
            ("TAGI per row", "whole task"): (4 + 3 * 3 / 7) / 4,
        }
    )
    for (_, instruction), one in found.items():
        pairs = 0 if instruction == "whole task" else 6
        assert len(one["pairs"]) == pairs
        assert one["difference"] == pytest.approx(one["predicted"] / one["ratio"] - 1)
    # A pair's calls take a second each; 6 pairs answered 14 inputs.
    assert found["TAGI merged", "cold"]["ratio"] == 1
    assert found["TAGI merged", "whole task"]["ratio"] == pytest.approx((4 + 7 * 6 / 14) / (7 * 6 / 14))
    assert found["TAGI per row", "whole task"]["ratio"] == pytest.approx((3 + 7 * 6 / 14) / (7 * 6 / 14))


def test_speeds_count_what_each_method_reads(timing: dict) -> None:
    found = {(one["method"], one["instruction"]): one for one in timing["comparisons"]}
    warm, cold = (found["TAGI per row", kind]["speed"] for kind in ("warm", "cold"))
    assert warm["reference"]["seconds_per_input"] == pytest.approx(1 / 3)  # batches of 3, 3 and 1 in a second each
    assert warm["candidate"]["written_tokens_per_second"] == 3 * OUTPUT
    candidate = TimedTAGI(tagi(), TASK, OUTPUT, merged=False)
    shorter = sorted(ASKED, key=lambda one: len(one.input))
    read = sorted(sum(map(len, candidate.sequences(shorter[at : at + 3]))) for at in (0, 3, 6))
    assert warm["candidate"]["read_tokens_per_second"] == read[1]
    assert cold["candidate"]["read_tokens_per_second"] == read[1] + len(candidate.instruction())


def test_the_tables_have_a_row_for_everything(timing: dict) -> None:
    ratios, speeds, phases = (rows(timing) for rows in (ratio_rows, speed_rows, phase_rows))
    assert [len(rows) for rows in (ratios, speeds, phases)] == [6, 5, 7]
    assert ratios[1]["method"] == "TAGI merged, cold"
    assert (ratios[1]["ratio"], ratios[1]["predicted"], ratios[1]["off by"]) == ("1.000", "2.000", "+100%")
    assert phases[0] == {
        "phase": "words",
        "Metatrain ms": "2000.0 (50%)",
        "TAGI merged ms": "2000.0 (50%)",
        "TAGI per row ms": "2000.0 (50%)",
    }
    assert phases[-1]["TAGI per row ms"] == phases[-1]["Metatrain ms"] == ""
    assert all(float(row["peak MiB"]) >= 0 for row in speeds if not row["method"].endswith("cold"))
    assert markdown(ratios).splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"
    assert len(markdown(ratios).splitlines()) == 8


class Slow(Echo):
    """An echo that takes time on a clock of its own, by input and for a task."""

    def __init__(self, clock: list[float], each: float, once: float) -> None:
        super().__init__()
        self.clock, self.each, self.once = clock, each, once

    def prepare(self, tasks, *, truncate=False):  # type: ignore[no-untyped-def]
        self.clock[0] += self.once
        return super().prepare(tasks, truncate=truncate)

    def predict(self, states, rows, inputs, **given):  # type: ignore[no-untyped-def]
        assert given["min_new_tokens"] == given["max_new_tokens"] == 7
        self.clock[0] += self.each * len(inputs)
        return super().predict(states, rows, inputs)


def test_time_is_of_inputs_and_not_of_what_is_done_once() -> None:
    clock = [0.0]
    watch = Stopwatch(clock=lambda: clock[0])
    task = tasks()[1]
    found = time_ratio(watch, Slow(clock, 3.0, 500.0), Slow(clock, 2.0, 0.0), task, batch_size=3, output=7, pairs=5)
    assert found["ratio"] == pytest.approx(1.5)
    assert found["interval"] == pytest.approx([1.5, 1.5])
    assert found["pairs"] == 6  # three passes over two batches
