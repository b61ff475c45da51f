"""The formulas give, to the last operation, what PyTorch's counter counts when the methods run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import build_t5
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.hypernetwork.inference import Runner, answer, merged_runner, rows_runner
from tagi.methods.concatenation import Concatenation
from tagi.methods.flops.costs import Cost, Lengths
from tagi.methods.flops.t5 import T5Shapes
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings, LoraShape
from tagi.settings.text import TextSettings
from tests.methods.counting import counting, flops
from tests.models import ALPHA, settings, text_settings, tiny_backbone, tiny_generator, tokenizer, words


def endless(variant: str = "v1.0", **fields: Any) -> T5Backbone:
    """A model that never ends its answer, so that its length is known."""
    backbone = tiny_backbone(variant, **fields)
    backbone.model.config.eos_token_id = backbone.model.config.vocab_size  # no token of it
    return backbone


MODELS: dict[str, Callable[[], T5Backbone]] = {
    "two matrices, tied": endless,
    "gated, deep decoder": lambda: endless("v1.1", num_layers=2, num_decoder_layers=5),
    "wide attention": lambda: endless(d_model=18, d_kv=13, num_heads=4, d_ff=29, num_layers=4),
}
GENERATORS: dict[str, dict[str, Any]] = {
    "query": {"kind": "query"},
    "pooled by mean": {"kind": "pooled", "hidden": 9, "rank": 3},
    "pooled by attention": {"kind": "pooled", "pooling": "attention"},
}
FUSIONS = ("both", "attention", "concatenation", "none")
SEEN, READ, WRITTEN = 15, 8, 5
"""Tokens of instruction, input and answer."""


def tokens(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(tokenizer()(words(start, count - 1))["input_ids"]).unsqueeze(0)
    assert ids.shape == (1, count)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def check(answers: Tensor) -> None:
    """A start token stands before what was written."""
    assert answers.shape[1] == 1 + WRITTEN


def cost_of(generator: AdapterGenerator, *, merged: bool = True, examples: int = 1) -> Cost:
    return TAGI(generator).cost(Lengths(SEEN, READ, WRITTEN, examples), merged=merged)


COMBINED = [
    (model, list(GENERATORS)[(m + f) % 3], fusion) for m, model in enumerate(MODELS) for f, fusion in enumerate(FUSIONS)
]
"""Every model with every fusion and every generator, and every generator with every fusion."""


@pytest.fixture(params=COMBINED, ids="; ".join)
def generator(request: pytest.FixtureRequest) -> AdapterGenerator:
    model, kind, fusion = request.param
    return tiny_generator(MODELS[model](), **GENERATORS[kind], fusion=fusion)


def test_every_component_of_tagi(generator: AdapterGenerator) -> None:
    (seen, seen_mask), (read, read_mask) = tokens(SEEN), tokens(READ, 3)
    states = generator.prepare(seen, seen_mask)
    runner = merged_runner(generator, states)
    backbone = runner.backbone
    with counting() as answering:
        check(answer(runner, read, read_mask, max_new_tokens=WRITTEN))
    cost = cost_of(generator)
    once, each = cost.once, cost.each
    assert once.instruction == flops(lambda: generator.encode_instructions(seen, seen_mask))
    assert once.generation == flops(lambda: generator.generate_bank(states.states, seen_mask))
    fused = generator.fusion is not None
    assert once.fusion == (flops(lambda: generator.fusion.keys_values(states.states)) if fused else 0)  # type: ignore[union-attr]
    memory = flops(lambda: backbone.cross_keys_values(states.states)) if generator.settings.concatenates else 0
    assert once.decoder == memory
    assert each.encoder == flops(lambda: backbone.encode(read, read_mask))
    with counting() as encoding, Attachment(*runner.hooks()).active():
        encoded = backbone.encode(read, read_mask)
    assert each.fusion == encoding.total - each.encoder
    assert (each.fusion > 0) == fused
    assert each.head == answering.inside("lm_head")
    assert each.decoder == answering.inside("decoder") + flops(lambda: backbone.cross_keys_values(encoded))
    assert each.generation == each.instruction == each.adapter == once.encoder == once.head == 0
    assert each.total == answering.total


@pytest.mark.parametrize("merged", [True, False])
def test_a_whole_task(generator: AdapterGenerator, merged: bool) -> None:
    """Several inputs of one task, everything included: the LoRA merged, or its products beside the weights'."""
    inputs = [tokens(READ, start) for start in (3, 5, 9)]
    with counting() as counted:
        states = generator.prepare(*tokens(SEEN))
        every = torch.zeros(1, dtype=torch.long)
        runner: Runner = merged_runner(generator, states) if merged else rows_runner(generator, states, every)
        for ids, mask in inputs:
            check(answer(runner, ids, mask, max_new_tokens=WRITTEN))
    cost = cost_of(generator, merged=merged, examples=len(inputs))
    assert cost.total == counted.total
    assert cost.per_example == counted.total / len(inputs)


def test_the_cost_of_lora_alone(generator: AdapterGenerator) -> None:
    """Unmerged, its products are the only difference; per row they are the same as shared."""
    (seen, seen_mask), (read, read_mask) = tokens(SEEN), tokens(READ, 3)
    states = generator.prepare(seen, seen_mask)
    merged, shared = cost_of(generator), cost_of(generator, merged=False)
    assert replace(shared.each, adapter=0) == replace(merged.each, adapter=0)
    assert merged.once.adapter - shared.once.adapter == flops(lambda: merged_runner(generator, states))
    rows = torch.tensor([0, 1, 0])
    mixed = rows_runner(generator, states.select(torch.tensor([0, 0])), rows)
    with counting() as counted:
        check(answer(mixed, read.expand(3, -1), read_mask.expand(3, -1), max_new_tokens=WRITTEN))
    assert counted.total == len(rows) * shared.each.total


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("model", MODELS)
def test_concatenation(model: str, rank: int | None) -> None:
    lora = None if rank is None else LoraShape(rank, ALPHA)
    method = Concatenation(MODELS[model](), text_settings(), lora).eval()
    ids, mask = tokens(SEEN + READ)
    with counting() as encoding:
        states = method.backbone.encode(ids, mask)
    with counting() as projecting:
        cross = method.backbone.cross_keys_values(states)
    with counting() as decoding:
        check(method.backbone.generate(cross, mask, max_new_tokens=WRITTEN))
    cost = method.cost(Lengths(SEEN, READ, WRITTEN, 11))
    each = cost.each
    assert each.head == decoding.inside("lm_head")
    assert each.total == encoding.total + projecting.total + decoding.total
    assert cost.total == 11 * each.total
    if rank is None:
        assert each.adapter == 0
        assert each.encoder == encoding.total
        assert each.decoder == projecting.total + decoding.inside("decoder")
    else:
        bare = Concatenation(MODELS[model](), text_settings()).cost(Lengths(SEEN, READ, WRITTEN, 11)).each
        assert replace(each, adapter=0) == bare
        assert each.adapter == each.total - bare.total > 0


def test_a_measured_prompt_is_what_concatenation_reads() -> None:
    method = Concatenation(tiny_backbone(), text_settings())
    shorter = method.cost(Lengths(SEEN, READ, WRITTEN, concatenated=SEEN + READ - 1))
    assert shorter == method.cost(Lengths(SEEN - 1, READ, WRITTEN))
    assert shorter.total < method.cost(Lengths(SEEN, READ, WRITTEN)).total


def test_teacher_forcing_differs_by_the_triangle_alone() -> None:
    """All targets at once are o^2 pairs in self-attention, step by step o(o + 1)/2."""
    backbone = tiny_backbone()
    shapes = T5Shapes.of(backbone.model.config)
    ids, mask = tokens(READ)
    states = backbone.encode(ids, mask)
    forced = flops(lambda: backbone.logits(states, mask, ids[:, :WRITTEN]))
    stepped = shapes.decoder_memory(READ) + shapes.decoder(WRITTEN, READ) + shapes.head(WRITTEN)
    triangle = WRITTEN * WRITTEN - WRITTEN * (WRITTEN + 1) / 2
    assert forced - stepped == shapes.decoder_layers * 4 * triangle * shapes.inner


def test_published_sizes_from_shapes_without_weights() -> None:
    """XXL on torch's meta device: nothing is allocated, and the counter agrees there too."""
    sizes = {"d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24, "vocab_size": 32128}
    fields = {**sizes, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    with torch.device("meta"):
        backbone = T5Backbone(build_t5(fields), tokenizer(), BaseModel("xxl", "no weights")).eval()
        generator = AdapterGenerator(backbone, settings(rank=32, hidden=128, width=256, heads=8), TextSettings()).eval()
        ids = torch.zeros(1, 70, dtype=torch.long)
        states = torch.zeros(1, 70, 4096)
        mask = torch.ones(1, 70, dtype=torch.bool)
    cost = TAGI(generator).cost(Lengths(70, 50, 5))
    assert cost.once.instruction == flops(lambda: backbone.model.encoder(input_ids=ids))
    assert cost.once.generation == flops(lambda: generator.hypernetwork(states, mask))
    assert 0 < cost.total < Concatenation(backbone, TextSettings()).cost(Lengths(70, 50, 5)).total


def test_generator_settings_are_all_told_apart() -> None:
    """Every setting that changes what is computed changes the cost."""
    backbone = tiny_backbone()

    def total(**changed: Any) -> float:
        wanted: GeneratorSettings = settings(**changed)
        return TAGI(AdapterGenerator(backbone, wanted, text_settings())).cost(Lengths(SEEN, READ, WRITTEN)).total

    choices: list[dict[str, Any]] = [
        {},
        {"rank": 5},
        {"hidden": 12},
        {"width": 16},
        {"kind": "pooled"},
        {"kind": "pooled", "pooling": "attention"},
        *({"fusion": fusion} for fusion in FUSIONS[1:]),
    ]
    assert len({total(**choice) for choice in choices}) == len(choices)
