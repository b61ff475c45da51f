"""FLOPs of what learns in context: the formulas give what PyTorch's counter counts when the methods run."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tagi.data.task import Example, Task
from tagi.methods.fid import FidICL
from tagi.methods.flops.costs import Lengths
from tagi.methods.in_context import ConcatICL, EnsembleICL, InContext
from tagi.settings.generator import LoraShape
from tests.methods.counting import flops
from tests.methods.test_t5_costs import MODELS
from tests.models import ALPHA, text_settings, words

SHOTS, SHOWN, TOLD, READ, WRITTEN = 3, 6 + 4 + 2, 7, 9, 5
"""Demonstrations, tokens of each, words of the instruction, tokens of an input with its end, of an answer."""
TASK = Task(
    "t", "c", words(1, TOLD), (), shots=tuple(Example(words(20 + at, 4), words(30 + at, 2)) for at in range(SHOTS))
)
LENGTHS = Lengths(TOLD + 1, READ, WRITTEN, 2, concatenated=TOLD + READ, shots=SHOTS, demonstration=SHOWN)


def counted(method: InContext) -> int:
    """Of a task prepared, and of its two inputs answered one after the other."""

    def run() -> None:
        states = method.prepare([TASK])
        for start in (3, 5):
            text = words(start, READ - 1)
            method.predict(states, torch.tensor([0]), [text], max_new_tokens=WRITTEN)

    return flops(run)


@pytest.mark.parametrize("reads", ["instruction", "demonstrations"])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("kind", [FidICL, ConcatICL, EnsembleICL])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_counted(model: str, kind: type[InContext], rank: int | None, reads: str) -> None:
    limits: dict[str, Any] = {"max_input_tokens": 90, "max_instruction_tokens": 90}
    lora = None if rank is None else LoraShape(rank, ALPHA)
    method = kind(MODELS[model](), text_settings(reads=reads, **limits), lora).eval()
    assert [len(method.text.demonstration(shot)) for shot in TASK.shots] == [SHOWN] * SHOTS
    cost = method.cost(LENGTHS)
    assert cost.total == pytest.approx(counted(method), rel=1e-12)
    assert (cost.components.adapter > 0) == (rank is not None)
    assert (cost.once.total > 0) == (kind is FidICL)


def test_a_whole_prompt_is_within_the_limit() -> None:
    """Two of three demonstrations fit; and none before a query that is as long as the limit."""
    for room, fitting in ((TOLD + READ + 2 * SHOWN + 5, 2), (TOLD + READ, 0)):
        method = ConcatICL(MODELS["wide attention"](), text_settings(max_input_tokens=room)).eval()
        assert method.cost(LENGTHS) == method.cost(replace(LENGTHS, shots=fitting))
        assert method.cost(LENGTHS).total == counted(method)
    ensemble = EnsembleICL(MODELS["wide attention"](), text_settings(max_input_tokens=TOLD + READ)).eval()
    assert ensemble.cost(LENGTHS).total == counted(ensemble)


def test_what_is_cached_is_paid_once() -> None:
    """Of many examples FiD-ICL is the cheapest, Ensemble-ICL the dearest: every pass is written anew."""
    settings = text_settings(max_input_tokens=90)
    fid, concat, ensemble = (
        kind(MODELS["two matrices, tied"](), settings).cost(replace(LENGTHS, examples=100)).total
        for kind in (FidICL, ConcatICL, EnsembleICL)
    )
    assert fid < concat < ensemble
