"""TAGI's formulas on decoder-only models against PyTorch's counter, part by part and for a whole task."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters import LoraBank
from tagi.data.text import TextSettings
from tagi.hypernetwork import Generator, GeneratorSettings, answer, merged_runner, rows_runner
from tagi.methods import TAGI, Lengths
from tests.causal_models import HIDDEN, tiny_causal
from tests.methods.counting import counting, flops

SEEN, READ, WRITTEN = 11, 7, 5
"""Tokens of instruction, input and answer."""
TEXT = TextSettings(encoding="plain", max_instruction_tokens=17, max_input_tokens=15, max_target_tokens=9)
KINDS = ("llama", "gpt2", "phi3", "gemma", "opt")
GENERATORS: tuple[dict[str, Any], ...] = (
    {"kind": "query", "fusion": "both", "fusion_every": 2},
    {"kind": "pooled", "fusion": "none"},
    {"kind": "pooled", "pooling": "attention", "fusion": "concatenation"},
    {"kind": "query", "fusion": "attention"},
)


@pytest.fixture(params=[(kind, at) for kind in KINDS for at in range(len(GENERATORS))], ids=str)
def generator(request: pytest.FixtureRequest) -> Generator:
    kind, at = request.param
    sizes = {"rank": 4, "alpha": 9.0, "hidden": 13, "width": 12, "heads": 3}
    fields = {"word_embed_proj_dim": HIDDEN} if kind == "opt" else {}
    return Generator(tiny_causal(kind, **fields), GeneratorSettings(**{**sizes, **GENERATORS[at]}), TEXT).eval()


def tokens(count: int, start: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(start, start + count).unsqueeze(0)
    return ids, torch.ones_like(ids, dtype=torch.bool)


TOLD, ASKED = tokens(SEEN, 9), tokens(READ, 30)


def written(runner: Any) -> Tensor:
    found = answer(runner, *ASKED, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN)
    assert found.shape == (1, WRITTEN)
    return found


def test_every_component(generator: Generator) -> None:
    cost = TAGI(generator).cost(Lengths(SEEN, READ, WRITTEN, 1))
    once, each = cost.once, cost.each
    states = generator.prepare(*TOLD)
    assert once.instruction == flops(lambda: generator.read_instructions(*TOLD))
    assert once.generation == flops(lambda: generator.generate_bank(states.states, states.mask))
    assert once.adapter == flops(lambda: merged_runner(generator, states))
    memory = flops(lambda: generator.fusion.keys_values(states.states)) if generator.fusion is not None else 0
    assert once.fusion == memory
    runner = merged_runner(generator, states)
    with counting() as whole:
        written(runner)
    assert each.total == whole.total
    if generator.fusion is not None:
        unfused = type(runner)(runner.backbone, None, states, merged=True)
        assert each.fusion == whole.total - flops(lambda: written(unfused))
    assert each.head == whole.inside("lm_head")
    assert each.adapter == each.generation == each.instruction == each.encoder == once.decoder == once.head == 0


@pytest.mark.parametrize("merged", [True, False])
def test_a_whole_task(generator: Generator, merged: bool) -> None:
    with counting() as counted:
        states = generator.prepare(*TOLD)
        one = torch.zeros(1, dtype=torch.long)
        runner = merged_runner(generator, states) if merged else rows_runner(generator, states, one)
        for _ in range(3):
            written(runner)
    assert isinstance(states.bank, LoraBank)
    assert TAGI(generator).cost(Lengths(SEEN, READ, WRITTEN, 3), merged=merged).total == counted.total
