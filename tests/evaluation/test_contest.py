"""What is timed is what users call: answers of exactly the length asked for, whole or from their parts."""

from itertools import count

import pytest
import torch

from tagi.data.task import Example, Instance, Task
from tagi.evaluation.timing.comparison import Contest
from tagi.evaluation.timing.stopwatch import Stopwatch
from tagi.evaluation.timing.tables import markdown, phase_rows, ratio_rows, speed_rows
from tagi.evaluation.timing.timed_methods import Adapted, AdaptedMerged, AdaptedRows, Contender, Metatrained
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI
from tests.models import INPUTS, INSTRUCTIONS, text_settings, tiny_backbone, tiny_generator, words

OUTPUT = 9
TASK = Task(
    "a task",
    "c",
    INSTRUCTIONS[1],
    tuple(Instance(f"i{at}", text, ("w1",)) for at, text in enumerate(INPUTS)),
    (Example(words(5, 2), words(6, 1)),),
)


def metatrained() -> Concatenation:
    return Concatenation(tiny_backbone(), text_settings(max_input_tokens=40, positives=1)).double().eval()


def tagi() -> TAGI:
    return TAGI(tiny_generator().double()).eval()


@pytest.fixture(params=["metatrained", "merged", "rows"])
def contender(request: pytest.FixtureRequest) -> Contender:
    if request.param == "metatrained":
        return Metatrained(metatrained(), TASK, OUTPUT)
    kind = AdaptedMerged if request.param == "merged" else AdaptedRows
    return kind(tagi(), TASK, OUTPUT)


def test_every_answer_has_exactly_the_tokens_asked_for(contender: Contender) -> None:
    assert contender.answer_tokens(INPUTS) == OUTPUT
    assert contender.answer_tokens(INPUTS[:1]) == OUTPUT


def test_answers_that_would_end_at_once_have_them_too(contender: Contender) -> None:
    """With the first token that the model writes as its end, nothing but the least length keeps it going."""
    method = contender.method
    states, row = method.prepare([TASK]), torch.tensor([0])
    first = method.predict(states, row, INPUTS[:1], max_new_tokens=1)[0]
    model = contender.runner(1).backbone.model if isinstance(contender, Adapted) else method.backbone.model
    model.config.eos_token_id = method.text.tokenizer.convert_tokens_to_ids(first)
    assert method.predict(states, row, INPUTS[:1], max_new_tokens=OUTPUT) == [first]
    assert contender.answer_tokens(INPUTS[:1]) == OUTPUT
    value = INPUTS[:1]
    for _, step in contender.chain():
        value = step(value)
    assert contender.answer(INPUTS[:1]) == value
    assert first not in value[0].split()
    if isinstance(contender, Adapted):
        assert contender.cold(INPUTS[:1]) == value


def test_the_parts_give_what_the_whole_gives(contender: Contender) -> None:
    value = INPUTS
    for _, step in contender.chain():
        value = step(value)
    assert value == contender.answer(INPUTS)
    assert len(set(value)) > 1


@pytest.mark.parametrize("kind", [AdaptedMerged, AdaptedRows])
def test_cold_answers_are_warm_ones(kind: type[Adapted]) -> None:
    method = tagi()
    made = kind(method, TASK, OUTPUT)
    assert made.cold(INPUTS) == made.answer(INPUTS)
    value = INPUTS
    for _, step in made.once():
        value = step(value)
    states = value.states if kind is AdaptedMerged else value
    for site, factors in method.prepare([TASK]).bank.factors.items():
        for found, wanted in zip(states.bank.factors[site], factors, strict=True):
            assert torch.equal(found, wanted)


def test_metatrain_reads_both_and_tagi_the_input_alone() -> None:
    reference, candidate = Metatrained(metatrained(), TASK, OUTPUT), AdaptedRows(tagi(), TASK, OUTPUT)
    shown = len(f"{TASK.examples[0].input} -> {TASK.examples[0].output}".split())
    for together, alone, text in zip(reference.sequences(INPUTS), candidate.sequences(INPUTS), INPUTS, strict=True):
        assert len(alone) == len(text.split()) + 1
        assert len(together) == len(alone) + len(TASK.instruction.split()) + shown


def test_merged_weights_are_held_besides() -> None:
    method = tagi()
    rows, merged = AdaptedRows(method, TASK, OUTPUT), AdaptedMerged(method, TASK, OUTPUT)
    sites = sum(site.d_in * site.d_out for site in method.generator.backbone.sites)
    assert merged.held() - rows.held() == 8 * sites
    backbone = sum(parameter.numel() for parameter in method.generator.backbone.parameters())
    assert Metatrained(metatrained(), TASK, OUTPUT).held() == 8 * backbone
    assert rows.held() > 8 * sum(parameter.numel() for parameter in method.parameters())


@pytest.fixture(scope="module")
def timing() -> dict:
    """By a clock that moves a second whenever it is looked at: every step takes one, whatever it does."""
    ticks = count()
    contest = Contest(metatrained(), tagi(), TASK, OUTPUT)
    watch = Stopwatch(clock=lambda: float(next(ticks)))
    return contest.run(watch, batch_size=3, pairs=4, say=lambda _: None)


def test_what_a_contest_measures(timing: dict) -> None:
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
    candidate = AdaptedRows(tagi(), TASK, OUTPUT)
    shorter = sorted(INPUTS, key=len)
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
