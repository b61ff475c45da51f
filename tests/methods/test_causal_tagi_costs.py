"""TAGI's formulas on decoder-only models against PyTorch's counter, part by part and for a whole task."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.api.generator import AdapterGenerator
from tagi.hypernetwork.inference import answer, merged_runner, rows_runner
from tagi.hypernetwork.states import TaskStates
from tagi.methods.flops.costs import Lengths
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
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
def generator(request: pytest.FixtureRequest) -> AdapterGenerator:
    kind, at = request.param
    sizes = {"kind": "query", "rank": 4, "alpha": 9.0, "hidden": 13, "width": 12, "heads": 3}
    fields = {"word_embed_proj_dim": HIDDEN} if kind == "opt" else {}
    return AdapterGenerator(tiny_causal(kind, **fields), GeneratorSettings(**{**sizes, **GENERATORS[at]}), TEXT).eval()


def tokens(count: int, start: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(start, start + count).unsqueeze(0)
    return ids, torch.ones_like(ids, dtype=torch.bool)


TOLD, ASKED = tokens(SEEN, 9), tokens(READ, 30)


def written(runner: Any, asked: tuple[Tensor, Tensor] = ASKED, count: int = WRITTEN) -> Tensor:
    found = answer(runner, *asked, max_new_tokens=count, min_new_tokens=count)
    assert found.shape == (1, count)
    return found


def test_every_component(generator: AdapterGenerator) -> None:
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
def test_a_whole_task(generator: AdapterGenerator, merged: bool) -> None:
    with counting() as counted:
        states = generator.prepare(*TOLD)
        one = torch.zeros(1, dtype=torch.long)
        runner = merged_runner(generator, states) if merged else rows_runner(generator, states, one)
        for _ in range(3):
            written(runner)
    assert isinstance(states.bank, LoraBank)
    assert TAGI(generator).cost(Lengths(SEEN, READ, WRITTEN, 3), merged=merged).total == counted.total


SHARED = 5
"""Rank of the shared LoRA; that of generated factors is 4."""
LENGTHS = ((11, 7, 5), (4, 13, 2))
"""Tokens of instruction, input and answer."""


@pytest.fixture(
    params=[
        (kind, residual, cache)
        for kind in ("llama", "gpt2", "qwen2")
        for residual in ("low-rank", "scales", "both")
        for cache in ("none", "stock", "adapted", None)
        # What a residual costs does not depend on the model's type: of the others what is trained is enough.
        if kind == "llama" or (residual == "both" and cache in ("stock", "adapted"))
    ],
    ids=str,
)
def residual_generator(request: pytest.FixtureRequest) -> AdapterGenerator:
    """With a shared LoRA, a residual of every kind and every way to keep the instruction; without a key, by fusion."""
    kind, residual, cache = request.param
    settings = GeneratorSettings(
        kind="query" if cache else "pooled",
        rank=4,
        alpha=9.0,
        hidden=13,
        width=12,
        heads=3,
        fusion="none" if cache else "concatenation",
        shared_rank=SHARED,
        residual=residual,
        instruction_cache=cache,
    )
    return AdapterGenerator(tiny_causal(kind), settings, TEXT).eval()


def states_alone(generator: AdapterGenerator, told: tuple[Tensor, Tensor]) -> TaskStates:
    """What the adapter alone needs: the instruction is read once."""
    read = generator.read_instructions(*told)
    return TaskStates(generator.generate_bank(read.states, read.mask), read.states, read.mask, None, None, read.ids)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("merged", [True, False])
def test_a_residual_on_a_shared_lora(
    residual_generator: AdapterGenerator, lengths: tuple[int, int, int], merged: bool
) -> None:
    generator, (seen, read, count) = residual_generator, lengths
    told, asked = tokens(seen, 9), tokens(read, 30)
    method, one = TAGI(generator), torch.zeros(1, dtype=torch.long)
    settings = generator.settings
    sites, residual = generator.backbone.sites, settings.residual
    factors = 0 if residual == "scales" else 4 * sum(site.d_in + site.d_out for site in sites)
    scales = 0 if residual == "low-rank" else SHARED * len(sites)
    assert method.generated_per_task == factors + scales
    assert settings.adapter_rank == (SHARED if residual == "scales" else SHARED + 4)
    for alone in (False, True):
        with counting() as counted:
            states = states_alone(generator, told) if alone else generator.prepare(*told)
        with counting() as more:
            runner = merged_runner(generator, states) if merged else rows_runner(generator, states, one)
        with counting() as answered:
            written(runner, asked, count)
        cost = method.cost(Lengths(seen, read, count, 3), merged=merged, alone=alone)
        assert cost.once.total == counted.total + more.total
        assert cost.each.total == answered.total
        assert cost.once.generation == flops(lambda: generator.generate_bank(states.states, states.mask))  # noqa: B023
        bare = flops(lambda: generator.backbone.read_instructions(*told, keep=True))
        twice = settings.adapts_prefix and not alone
        assert cost.once.instruction == (2 * bare if twice else bare)
        assert (states.cross is None) == (alone or settings.instruction_cache == "none")
        assert (cost.each.adapter == 0) == merged


def test_the_adapter_alone_costs_less_than_with_the_prefix() -> None:
    """And an alone input is read as if there were no instruction, whatever the generator keeps of it."""
    costs = {}
    for cache in ("none", "stock", "adapted"):
        settings = GeneratorSettings(
            kind="query",
            rank=4,
            alpha=9.0,
            hidden=13,
            width=12,
            heads=3,
            fusion="none",
            shared_rank=SHARED,
            instruction_cache=cache,
        )
        method = TAGI(AdapterGenerator(tiny_causal("llama"), settings, TEXT))
        lengths = Lengths(SEEN, READ, WRITTEN)
        costs[cache] = method.cost(lengths, alone=True)
        assert (costs[cache].total < method.cost(lengths).total) == (cache != "none")
    assert costs["none"] == costs["stock"] == costs["adapted"]


def test_fusion_is_no_part_of_the_adapter_alone(generator: AdapterGenerator) -> None:
    method = TAGI(generator)
    cost = method.cost(Lengths(SEEN, READ, WRITTEN, 1), alone=True)
    assert cost.once.fusion == cost.each.fusion == 0
    with counting() as counted:
        written(merged_runner(generator, generator.prepare(*TOLD).without_states()))
    whole = method.cost(Lengths(SEEN, READ, WRITTEN, 1))
    assert cost.total == counted.total - whole.once.fusion
