"""Rank classification: a planted scorer is right, the order of choices and batches plays no part, models agree."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.data.task import Instance, Task
from tagi.errors import CheckpointError, DataError
from tagi.evaluation.scoring.answers import RankedAnswer, read_line
from tagi.evaluation.scoring.free_form import Scoring
from tagi.evaluation.scoring.rank_classification import RankScoring
from tagi.evaluation.scoring.statistics import bootstrap_interval
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tests.causal_models import tiny_causal
from tests.evaluation.echo import Echo
from tests.models import INSTRUCTIONS, ROUNDING, text_settings, tiny_backbone, tiny_generator, words

Score = Callable[[str, str], float]


class Planted(Echo):
    """A method that holds a choice as likely as it is told to."""

    name = "planted"

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score
        self.asked: list[str] = []

    def score_choices(
        self,
        states: list[str],
        rows: Tensor,
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: str = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        assert truncate
        assert rows.tolist() == [0] * len(inputs)
        self.batches.append(len(inputs))
        self.lengths.append([len(text) for text in inputs])
        self.asked.append(reduction)
        return [[self.score(text, choice) for choice in own] for text, own in zip(inputs, choices, strict=True)]


def right(text: str, choice: str) -> float:
    """The choice that stands in the input, most of all; no two choices alike."""
    return -1.0 - len(choice) / 7 - ord(choice[0]) / 1000 - (0 if choice in text.split() else 60)


def wrong(text: str, choice: str) -> float:
    return -100 - right(text, choice)


def task(count: int = 11, name: str = "a", category: str = "c") -> Task:
    """Instances with 2 to 4 choices, of which the input names the right one."""
    instances = []
    for at in range(count):
        choices = tuple(f"{letter * (1 + (at * place) % 5)}" for place, letter in enumerate("wxyz"[: 2 + at % 3]))
        target = choices[(at * 5) % len(choices)]
        instances.append(Instance(f"i{at}", f"{'-' * (at * 7 % 10)} {target} .", (target,), choices))
    return Task(name, category, f"do {name}", tuple(instances))


def ask(score: Score, given: Task, batch_size: int = 3) -> list[RankedAnswer]:
    return RankScoring(batch_size).ask(Planted(score), ["do"], given)


def summarize_ranking(answers: Sequence[RankedAnswer]) -> dict[str, Any]:
    return RankScoring(3).summarize(answers, {})


def test_a_planted_scorer_is_right_and_its_negation_wrong() -> None:
    answers = ask(right, task())
    assert [answer.id for answer in answers] == [f"i{at}" for at in range(11)]
    assert all(answer.correct and not answer.tied for answer in answers)
    assert [answer.prediction for answer in answers] == [instance.outputs[0] for instance in task().instances]
    assert answers[7] == RankedAnswer(
        task="a",
        category="c",
        id="i7",
        input=task().instances[7].input,
        choices=task().instances[7].choices or (),
        scores=answers[7].scores,
        right=(2,),
        predicted=2,
        tied=False,
        prediction=task().instances[7].outputs[0],
    )
    assert summarize_ranking(answers)["overall"] == {"accuracy": 100}
    assert summarize_ranking(ask(wrong, task()))["overall"] == {"accuracy": 0}


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_play_no_part_and_go_by_length(batch_size: int) -> None:
    method, heard = Planted(right), []
    found = RankScoring(batch_size, "mean").ask(method, ["do"], task(), heard.append)
    assert found == ask(right, task())
    assert heard == method.batches
    assert (sum(heard), max(heard)) == (11, min(batch_size, 11))
    lengths = [length for batch in method.lengths for length in batch]
    assert lengths == sorted(lengths)
    assert set(method.asked) == {"mean"}


def test_the_order_of_choices_plays_no_part() -> None:
    rng = random.Random(3)
    shuffled = []
    for instance in task().instances:
        choices = list(instance.choices or ())
        rng.shuffle(choices)
        shuffled.append(replace(instance, choices=tuple(choices)))
    assert shuffled != list(task().instances)
    for score in (right, wrong):
        found, wanted = ask(score, replace(task(), instances=tuple(shuffled))), ask(score, task())
        assert [answer.prediction for answer in found] == [answer.prediction for answer in wanted]
        assert [answer.correct for answer in found] == [answer.correct for answer in wanted]


def test_ties_are_counted_and_the_first_is_predicted() -> None:
    given = replace(task(), instances=tuple(replace(one, choices=("n", "m", *one.outputs)) for one in task().instances))
    answers = ask(lambda text, choice: -2.0 if choice in "nm" else -3.0, given)
    assert all(answer.tied and answer.prediction == "n" for answer in answers)
    assert not any(answer.tied for answer in ask(lambda text, choice: -3.0 if choice in "nm" else -2.0, given))
    mixed = ask(lambda text, choice: -0.001 if choice in "nm" and len(text) > 9 else right(text, choice) / 100, given)
    tied = [len(instance.input) > 9 for instance in given.instances]
    assert [answer.tied for answer in mixed] == tied
    summary = summarize_ranking([*mixed, *ask(right, task(4, "b"))])
    assert summary["ties"] == sum(tied)
    assert 0 < sum(tied) < 11
    assert summary["ties_per_task"] == {"a": sum(tied), "b": 0}


def test_equal_choices_are_one() -> None:
    one = Instance("i", "say x .", ("x ",), ("y", "x", "y", "x", "z"))
    (answer,) = ask(right, Task("a", "c", "do", (one,)))
    assert answer.choices == ("y", "x", "z")
    assert (answer.right, answer.predicted, answer.tied) == ((1,), 1, False)


def test_several_may_be_right() -> None:
    one = Instance("i", "say x .", ("x", "z", "none"), ("y", "x", "z"))
    (answer,) = ask(right, Task("a", "c", "do", (one,)))
    assert (answer.right, answer.correct) == ((1, 2), True)


@pytest.mark.parametrize(
    ("outputs", "choices", "message"),
    [
        (("x",), None, "expected at least 2 different choices, got 0"),
        (("x",), ("x",), "expected at least 2 different choices, got 1"),
        (("x",), ("x", "x"), "expected at least 2 different choices, got 1"),
        (("X",), ("x", "y"), "expected one of the choices as output, got 'X'"),
    ],
)
def test_what_cannot_be_ranked(outputs: tuple[str, ...], choices: tuple[str, ...] | None, message: str) -> None:
    given = Task("a", "c", "do", (*task(2).instances, Instance("bad", "b", outputs, choices)))
    with pytest.raises(DataError) as caught:
        ask(right, given)
    assert str(caught.value) == f"task 'a': instance 'bad': {message}"


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_a_score_that_is_no_number_is_named(number: float) -> None:
    bad = task().instances[3]
    with pytest.raises(CheckpointError, match=r"^task 'a': instance 'i3': expected finite log-probabilities"):
        ask(lambda text, choice: number if (text, choice) == (bad.input, bad.outputs[0]) else -1.0, task())


def answered(name: str, category: str, hits: Sequence[int], first: int = 0) -> list[RankedAnswer]:
    """Answers that are right where `hits` are 1; ids from `first` on."""
    return [
        RankedAnswer(name, category, f"i{first + at}", "x", ("a", "b"), (-1.0, -2.0), (1 - hit,), 0, False, "a")
        for at, hit in enumerate(hits)
    ]


def test_a_data_set_is_the_mean_of_its_prompts_whatever_their_sizes() -> None:
    answers = [*answered("p", "cb", [1, 1, 1, 0]), *answered("q", "cb", [0, 1]), *answered("r", "rte", [1, 0, 0])]
    summary = summarize_ranking(answers)
    assert summary["n"] == 9
    assert summary["per_task"] == {
        "p": {"accuracy": 75},
        "q": {"accuracy": 50},
        "r": {"accuracy": pytest.approx(100 / 3)},
    }
    assert summary["per_category"] == {"cb": {"accuracy": 62.5}, "rte": {"accuracy": pytest.approx(100 / 3)}}
    assert summary["overall"]["accuracy"] == pytest.approx(500 / 9)
    assert summary["prompts"] == {"cb": 2, "rte": 1}
    assert summary["metric"] == "accuracy"
    assert json.loads(json.dumps(summary)) == summary


def test_intervals() -> None:
    rng = random.Random(5)
    hits = {name: [rng.randrange(2) for _ in range(30)] for name in "pqs"}
    answers = [answer for name, own in hits.items() for answer in answered(name, "cb", own)]
    summary = summarize_ranking(answers)
    for name, own in hits.items():
        assert summary["intervals"]["per_task"][name] == pytest.approx(bootstrap_interval([100 * h for h in own]))
    everything = [100 * hit for own in hits.values() for hit in own]
    prompts = [name for name, own in hits.items() for _ in own]
    assert summary["interval"] == pytest.approx(bootstrap_interval(everything, prompts))
    # Prompts of one size over the same examples: what is drawn is an example's mean.
    means = [100 * sum(own) / 3 for own in zip(*hits.values(), strict=True)]
    assert summary["intervals"]["per_category"]["cb"] == pytest.approx(bootstrap_interval(means))
    alike = [answer for name in "pqs" for answer in answered(name, "cb", hits["p"])]
    low, high = summarize_ranking(alike)["intervals"]["per_category"]["cb"]
    assert [low, high] == pytest.approx(summary["intervals"]["per_task"]["p"])  # three prompts, no more examples


def test_nothing_to_summarize() -> None:
    with pytest.raises(DataError, match="expected ranked answers to summarize, got none"):
        summarize_ranking([])


def test_ranking_is_a_way_of_scoring() -> None:
    way = RankScoring(batch_size=2, reduction="mean")
    assert isinstance(way, Scoring)
    method = Planted(right)
    given = way.ask(method, ["do"], task(3))
    assert set(method.asked) == {"mean"}
    lines = [json.loads(json.dumps(answer.as_line())) for answer in given]
    assert [read_line(line) for line in lines] == given
    assert (lines[0]["task_id"], lines[0]["task_category"], lines[0]["prediction"]) == ("a", "c", "w")
    assert way.summarize(given, way.scores(given)) == {**summarize_ranking(given), "choice_score": "mean"}


def model_task() -> Task:
    """Choices of 1 to 6 tokens, so that their lengths differ within a row and between rows."""
    instances = []
    for at in range(7):
        choices = tuple(words(40 + at + 9 * place, 1 + (at + 2 * place) % 5) for place in range(2 + at % 3))
        instances.append(Instance(f"i{at}", words(10 + at, 3 + at * 5 % 8), (choices[at % 2],), choices))
    return Task("a", "c", INSTRUCTIONS[0], tuple(instances))


def slow_tagi(method: TAGI, given: Task, text: str, labels: Tensor) -> Tensor:
    generator = method.generator
    instruction = generator.text.batch([generator.text.instruction(given.instruction)])
    read = generator.read_instructions(*instruction)
    bank = generator.generate_bank(read.states, read.mask)
    ids, mask = generator.text.batch([generator.text.input(text)])
    return generator.logits(read, bank, torch.tensor([0]), ids, mask, labels)


def slow_concatenation(method: Concatenation, given: Task, text: str, labels: Tensor) -> Tensor:
    ids, mask = method.text.batch([method.text.concatenated(given.instruction, (), text)])
    return method.backbone.logits(method.backbone.encode(ids, mask), mask, labels)


def slow_llama(method: CausalConcatenation, given: Task, text: str, labels: Tensor) -> Tensor:
    prompt, _ = method.text.batch([method.text.concatenated(given.instruction, (), text)])
    read = torch.cat([prompt, labels[:, :-1]], dim=1)
    return method.backbone.model(input_ids=read, use_cache=False).logits[:, prompt.shape[1] - 1 :]


def llama() -> Method:
    return CausalConcatenation(tiny_causal("llama"), text_settings(max_input_tokens=40))


def tagi() -> Method:
    return TAGI(tiny_generator())


def concatenation() -> Method:
    return Concatenation(tiny_backbone(), text_settings(max_input_tokens=40))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("make", "slow"), [(tagi, slow_tagi), (concatenation, slow_concatenation), (llama, slow_llama)]
)
def test_models_are_ranked_as_by_one_pass_for_each_choice(
    make: Callable[[], Method], slow: Any, reduction: Any
) -> None:
    method = make().double().eval()
    given = model_task()
    states = method.prepare([given])
    wanted = []
    with torch.no_grad():
        for instance in given.instances:
            scores = []
            for choice in instance.choices or ():
                labels = method.text.labels([method.text.target(choice)])
                logs = slow(method, given, instance.input, labels)[0].log_softmax(-1)
                each = [float(logs[at, token]) for at, token in enumerate(labels[0].tolist())]
                scores.append(sum(each) / (len(each) if reduction == "mean" else 1))
            wanted.append(scores)
    for batch_size in (1, 3, 50):
        answers = RankScoring(batch_size, reduction).ask(method, states, given)
        for answer, scores in zip(answers, wanted, strict=True):
            assert answer.scores == pytest.approx(scores, rel=ROUNDING)
            assert answer.predicted == max(range(len(scores)), key=scores.__getitem__)
            assert not answer.tied
    predictions = {answer.predicted for answer in answers}
    assert len(predictions) > 1


def test_sum_and_mean_do_not_always_agree() -> None:
    method = concatenation().eval()
    states = method.prepare([model_task()])
    found = [
        [one.prediction for one in RankScoring(4, reduction).ask(method, states, model_task())]
        for reduction in ("sum", "mean")
    ]
    assert found[0] != found[1]
