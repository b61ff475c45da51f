"""Every method's FLOPs on every family of backbones, against PyTorch's counter, to the last operation.

A method is counted while it prepares a task and answers an input, for texts of two lengths.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tagi.api.generator import AdapterGenerator
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import build_t5
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.data.task import Example, Instance, Task
from tagi.data.text.encoder import TextSettings
from tagi.errors import ConfigError, InputError
from tagi.evaluation.lengths import task_lengths
from tagi.hypernetwork.inference import Runner, answer, merged_runner, rows_runner
from tagi.methods import causal
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.fid import FidICL
from tagi.methods.flops import Components, Cost, Lengths, Shapes
from tagi.methods.in_context import ConcatICL, EnsembleICL
from tagi.methods.lora import LoraShape
from tagi.methods.prompted import Prompted
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings
from tests.causal_models import FUSED, HIDDEN, tiny_causal
from tests.causal_models import MODELS as CAUSAL_MODELS
from tests.methods.counting import Counted, counting, flops
from tests.models import ALPHA, MODULES, settings, text_settings, tiny_backbone, tiny_generator, tokenizer, words

ENCODER_DECODERS: dict[str, Callable[[], Backbone]] = {
    "two matrices, tied": tiny_backbone,
    "gated, deep decoder": lambda: tiny_backbone("v1.1", num_layers=2, num_decoder_layers=5),
    "wide attention": lambda: tiny_backbone(d_model=18, d_kv=13, num_heads=4, d_ff=29, num_layers=4),
}
DECODERS: dict[str, Callable[[], Backbone]] = {
    "llama": lambda: tiny_causal("llama"),  # heads share keys and values, and are wider than the model together
    "gpt2": lambda: tiny_causal("gpt2"),  # one matrix projects query, key and value
    "phi3": lambda: tiny_causal("phi3"),  # so does one here, where heads share keys and values
    "opt": lambda: tiny_causal("opt", word_embed_proj_dim=HIDDEN),
}
BACKBONES = {**ENCODER_DECODERS, **DECODERS}
SIZES = ((11, 7, 5), (4, 13, 2))
"""Words of an instruction and of an input, tokens of an answer."""
both_sizes = pytest.mark.parametrize("size", SIZES, ids=str)
SHOTS = tuple(Example(words(20 + at, 4), words(30 + at, 2)) for at in range(3))
"""Demonstrations, all of equal length."""
LIMITS = {"max_instruction_tokens": 40, "max_input_tokens": 90, "max_target_tokens": 6}


def task_of(size: tuple[int, int, int]) -> Task:
    instruction, asked, _ = size
    return Task("t", "c", words(1, instruction), (Instance("i", words(2, asked), (words(3, 1),)),), shots=SHOTS)


def text_of(backbone: Backbone, **changed: Any) -> TextSettings:
    limits = {**LIMITS, "max_input_tokens": 28} if isinstance(backbone, CausalBackbone) else LIMITS
    return text_settings(**{**limits, "max_instruction_tokens": 19, **changed})


def lengths_of(method: Any, size: tuple[int, int, int], input_encoder: Any = None) -> Lengths:
    return replace(task_lengths(method.text, task_of(size), examples=9, input_encoder=input_encoder), output=size[2])


def counted(method: Any, size: tuple[int, int, int]) -> tuple[Any, Counted, Counted]:
    """A prepared task's states, the FLOPs of preparing it, and those of answering an input of it."""
    task, written = task_of(size), size[2]
    with counting() as once:
        states = method.prepare([task])
    row, inputs = torch.zeros(1, dtype=torch.long), [task.instances[0].input]
    with counting() as each:
        method.predict(states, row, inputs, max_new_tokens=written, min_new_tokens=written)
    return states, once, each


CAUSAL = [(name, rank) for name in DECODERS for rank in (None, 3) if not rank or name not in FUSED]
PROMPTED: list[tuple[str, type[Prompted[Any]], dict[str, Any], int | None]] = [
    *((name, Concatenation, {}, rank) for name in ENCODER_DECODERS for rank in (None, 3)),
    ("wide attention", Concatenation, {"reads": "nothing"}, 3),
    *(
        (name, kind, {"reads": reads}, rank)
        for kind in (FidICL, ConcatICL, EnsembleICL)
        for name, rank, reads in (
            ("two matrices, tied", None, "instruction"),
            ("gated, deep decoder", 3, "demonstrations"),
            ("wide attention", 3, "instruction"),
        )
    ),
    *(
        (name, CausalConcatenation, {}, rank)
        for name in DECODERS
        for rank in (None, 3)
        if not rank or name not in FUSED
    ),
    ("llama", CausalConcatenation, {"reads": "nothing"}, 3),
]


@both_sizes
@pytest.mark.parametrize(("name", "kind", "text", "rank"), PROMPTED)
def test_methods_that_read_a_prompt(
    name: str, kind: type[Prompted[Any]], text: dict[str, Any], rank: int | None, size: tuple[int, int, int]
) -> None:
    backbone = BACKBONES[name]()
    bare = kind(backbone, text_of(backbone, **text)).eval().cost
    method = kind(backbone, text_of(backbone, **text), rank and LoraShape(rank, ALPHA)).eval()
    cost = method.cost(lengths_of(method, size))
    _, once, each = counted(method, size)
    assert (cost.once.total, cost.each.total) == pytest.approx((once.total, each.total), rel=1e-12)
    assert (cost.components.adapter > 0) == (rank is not None)
    assert (cost.once.total > 0) == (kind is FidICL)
    without = bare(lengths_of(method, size))  # a LoRA that is injected is no part of the backbone's shapes
    assert (without.once, without.each) == (replace(cost.once, adapter=0), replace(cost.each, adapter=0))


@both_sizes
@pytest.mark.parametrize(("name", "rank"), CAUSAL)
def test_an_instruction_whose_keys_and_values_are_cached(
    name: str, rank: int | None, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "_UNLIKE", ("w1", "w2 w3"))  # words that this tokenizer knows
    backbone = DECODERS[name]()
    method = CausalConcatenation(
        backbone, text_of(backbone), rank and LoraShape(rank, ALPHA), prefix_cached=True
    ).eval()  # type: ignore[arg-type]
    lengths = lengths_of(method, size)
    cost, (_, once, each) = method.cost(lengths), counted(method, size)
    unused_head = 2 * backbone.d_model * backbone.vocabulary  # the model scores what follows the instruction
    assert (cost.once.total + unused_head, cost.each.total) == (once.total, each.total)
    assert cost.total == cost.once.total + 9 * cost.each.total
    method.prefix_cached = False
    assert cost.total < method.cost(lengths).total


KINDS: tuple[dict[str, Any], ...] = (
    {"kind": "query"},
    {"kind": "pooled", "hidden": 9},
    {"kind": "pooled", "pooling": "attention"},
    {"kind": "component"},
)
FUSIONS: tuple[dict[str, Any], ...] = (
    {"fusion": "both"},
    {"fusion": "attention", "fusion_every": 2},
    {"fusion": "concatenation"},
    {"fusion": "none"},
)
RESIDUALS = {name: {"shared_rank": 5, "residual": name} for name in ("low-rank", "scales", "both")}
EVERY_MODULE: dict[str, dict[str, Any]] = {"lora": {"rank": 3}, **MODULES, **RESIDUALS}
CACHES = ("none", "stock", "adapted")
TAGIS: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    *(
        (list(ENCODER_DECODERS)[(m + k) % 3], {**module, **KINDS[(m + 2 * k) % 4], **FUSIONS[(m // 2 + k) % 4]}, size)
        for m, module in enumerate(EVERY_MODULE.values())
        for k, size in enumerate(SIZES)
    ),
    *(
        (name, {**KINDS[(n + f) % 4], **fusion}, SIZES[(n + f // 2) % 2])
        for n, name in enumerate(DECODERS)
        for f, fusion in enumerate(FUSIONS)
    ),
    *(
        (name, {**residual, "instruction_cache": cache, "fusion": "none"}, SIZES[(n + r + c) % 2])
        for n, name in enumerate(DECODERS)
        for r, residual in enumerate(RESIDUALS.values())
        for c, cache in enumerate(CACHES)
        if name == "llama" or (r, c) == (n % 3, 2)
    ),
]


def tagi_of(name: str, **chosen: Any) -> TAGI:
    backbone = BACKBONES[name]()
    if isinstance(backbone, T5Backbone):
        return TAGI(tiny_generator(backbone, **chosen)).eval()
    return TAGI(AdapterGenerator(backbone, settings(**chosen), text_of(backbone))).eval()


@pytest.mark.parametrize(("name", "chosen", "size"), TAGIS)
def test_generators(name: str, chosen: dict[str, Any], size: tuple[int, int, int]) -> None:
    """With the adapter beside the weights, merged into them, and alone."""
    method = tagi_of(name, **chosen)
    generator, backbone = method.generator, method.generator.backbone
    lengths = lengths_of(method, size, generator.input_encoder(alone=not generator.keeps_prefix))
    ids, mask = method.text.batch_instructions([method.text.of_task(task_of(size))])
    asked = torch.arange(9, 9 + int(lengths.input))[None]
    states, prepared, predicted = counted(method, size)

    def answered(runner: Runner) -> int:
        return flops(lambda: answer(runner, asked, asked > 0, max_new_tokens=size[2], min_new_tokens=size[2]))

    cost = method.cost(lengths, merged=False)
    once, each = cost.once, cost.each
    assert (once.total, each.total) == (prepared.total, predicted.total)
    bare = flops(lambda: backbone.read_instructions(ids, mask, keep=True))
    assert once.instruction == bare * (2 if generator.settings.adapts_prefix else 1)
    assert once.generation == flops(lambda: generator.generate_bank(states.states, mask))
    assert each.head == predicted.inside("lm_head")
    fusion, beside = generator.fusion, rows_runner(generator, states, torch.tensor([0]))
    if fusion is None:
        assert once.fusion == each.fusion == 0
    else:
        assert once.fusion == flops(lambda: fusion.keys_values(states.states))
        assert each.fusion == each.total - answered(replace(beside, fusion=None)) > 0
    if isinstance(backbone, T5Backbone):
        assert each.encoder == flops(lambda: backbone.encode(asked, asked > 0))
        memory = flops(lambda: backbone.cross_keys_values(states.states))
        assert once.decoder == (memory if generator.settings.concatenates else 0)
    else:
        assert each.encoder == once.decoder == 0
    assert once.encoder == once.head == each.generation == each.instruction == 0

    merged = method.cost(lengths)
    assert (merged == cost) == (generator.settings.module != "lora")  # nothing else can be merged
    with counting() as merging:
        runner = merged_runner(generator, states)
    assert merged.once.total - once.total == merging.total
    assert merged.each.total == answered(runner)
    assert replace(merged.each, adapter=0) == replace(each, adapter=0)

    alone = method.cost(lengths, merged=False, alone=True)
    assert alone.once.total == bare + once.generation
    assert alone.each.total == answered(replace(beside, states=beside.states.without_states()))
    assert (alone.total < cost.total) == (fusion is not None or states.cross is not None)


def test_rows_of_a_batch_cost_what_they_cost_alone() -> None:
    method = tagi_of("wide attention")
    generator, size = method.generator, SIZES[0]
    states = method.prepare([task_of(size)] * 2)
    asked = torch.arange(9, 9 + 7).expand(3, -1)
    with counting() as mixed:
        runner = rows_runner(generator, states, torch.tensor([0, 1, 0]))
        answer(runner, asked, asked > 0, max_new_tokens=5, min_new_tokens=5)
    assert mixed.total == 3 * method.cost(replace(lengths_of(method, size), input=7), merged=False).each.total


def test_teacher_forcing_computes_pairs_that_steps_do_not() -> None:
    """All targets at once are o^2 pairs in self-attention, step by step o(o + 1)/2."""
    backbone = tiny_backbone()
    shapes, read, written = Shapes.of(backbone), 8, 5
    ids = torch.arange(3, 3 + read)[None]
    states = backbone.encode(ids, ids > 0)
    forced = flops(lambda: backbone.logits(states, ids > 0, ids[:, :written]))
    stepped = shapes.cross_keys_values(read) + shapes.decode(written, memory=read) + shapes.head(written)
    assert forced - stepped == shapes.decoder_layers * 4 * (written**2 - written * (written + 1) / 2) * shapes.inner


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("llama", Shapes(0, 2, 24, 60, 30, 37, 3, 222)),
        ("gpt2", Shapes(0, 2, 24, 24, 24, 37, 2, 222, fused=True)),
        ("gpt_neox", Shapes(0, 2, 24, 24, 24, 37, 2, 222, fused=True)),
    ],
)
def test_shapes_of_decoder_only_models(kind: str, wanted: Shapes) -> None:
    with torch.device("meta"):
        backbone = tiny_causal(kind)
    assert Shapes.of(backbone) == replace(wanted, vocabulary=backbone.vocabulary)


@pytest.mark.parametrize("kind", [kind for kind in CAUSAL_MODELS if kind != "opt"])
def test_reading_by_every_type_of_decoder_only_model(kind: str) -> None:
    backbone = tiny_causal(kind)
    ids = torch.arange(9, 9 + 7)[None]
    assert Shapes.of(backbone).read(7) == flops(lambda: backbone.encode(ids, ids > 0))


def test_layers_of_another_kind_are_refused() -> None:
    """This one projects between the widths of its embeddings and its layers."""
    backbone = tiny_causal("opt")
    with pytest.raises(ConfigError, match=r"FLOPs: expected layers .*got 'opt' with"):
        CausalConcatenation(backbone, text_of(backbone)).cost(Lengths(11, 7, 5))


@pytest.mark.parametrize("name", ["wide attention", "llama"])
def test_a_measured_prompt_may_be_shorter_than_its_parts(name: str) -> None:
    backbone = BACKBONES[name]()
    options: list[dict[str, Any]] = [{}]
    if isinstance(backbone, CausalBackbone):
        options = [{"prefix_cached": cached} for cached in (False, True)]
    kind: Any = CausalConcatenation if isinstance(backbone, CausalBackbone) else Concatenation
    for chosen in options:
        method = kind(backbone, text_of(backbone), **chosen)
        assert method.cost(Lengths(13, 7, 5, concatenated=18)) == method.cost(Lengths(13, 5, 5))
        cut = method.cost(Lengths(13, 7, 5, concatenated=10))
        assert cut.once.instruction == (method.shapes.read(10) if chosen.get("prefix_cached") else 0)


@pytest.mark.parametrize(("kind", "room", "fitting"), [(ConcatICL, 45, 2), (ConcatICL, 20, 0), (EnsembleICL, 20, 0)])
def test_demonstrations_that_do_not_fit_are_not_read(kind: type[ConcatICL], room: int, fitting: int) -> None:
    """A demonstration has 12 tokens, an instruction and an input have 19."""
    backbone, size = tiny_backbone(), SIZES[0]
    method = kind(backbone, text_settings(max_input_tokens=room, max_instruction_tokens=19)).eval()
    lengths = lengths_of(method, size)
    assert (lengths.demonstration, lengths.prompt) == (12, 19)
    assert method.cost(lengths).each.total == pytest.approx(counted(method, size)[2].total, rel=1e-12)
    if kind is ConcatICL:
        assert method.cost(lengths) == method.cost(replace(lengths, shots=fitting))


def test_what_is_cached_is_paid_once() -> None:
    """For many examples FiD-ICL costs least and Ensemble-ICL most: it writes every answer several times."""
    lengths = Lengths(8, 9, 5, 100, concatenated=16, shots=3, demonstration=12)
    fid, concat, ensemble = (
        kind(tiny_backbone(), text_settings(max_input_tokens=90)).cost(lengths).total
        for kind in (FidICL, ConcatICL, EnsembleICL)
    )
    assert fid < concat < ensemble


def test_bottlenecks_and_prefixes_by_hand() -> None:
    """Two products per token and layer; a prefix's pairs, scored and summed, in every attention."""
    bottleneck = 2 * (2 * 24 * 7) * (3 * 8 + 2 * 5)  # 24 wide, 3 heads of 5, 3 and 2 layers
    prefix = 2 * (2 * 15 * 2) * (3 * 8 + 2 * 2 * 5)
    wanted = dict(zip(MODULES, (bottleneck, bottleneck, prefix, bottleneck + prefix), strict=True))
    for name, adapter in wanted.items():
        method = TAGI(AdapterGenerator(tiny_backbone(), settings(**MODULES[name]), text_settings()))
        assert method.cost(Lengths(15, 8, 5, 1)).each.adapter == adapter


def test_every_setting_that_changes_the_work_changes_the_cost() -> None:
    backbone = tiny_backbone()
    joint = {"module": "bottleneck+prefix", "bottleneck": 7, "prefix": 2}
    changes: list[dict[str, Any]] = [
        *({}, {"rank": 5}, {"hidden": 12}, {"width": 16}, {"fusion_every": 3}),
        *({"kind": "pooled"}, {"kind": "pooled", "pooling": "attention"}, {"kind": "component"}),
        *({"kind": "component", "hidden": 12}, *({"fusion": name} for name in ("attention", "concatenation", "none"))),
        *(MODULES[name] for name in ("bottleneck", "prefix", "bottleneck+prefix")),
        *({**joint, "bottleneck": 8}, {**joint, "prefix": 3}, *({**joint, "kind": k} for k in ("pooled", "component"))),
    ]

    def total(**changed: Any) -> float:
        return TAGI(AdapterGenerator(backbone, settings(**changed), text_settings())).cost(Lengths(15, 8, 5)).total

    assert len({total(**change) for change in changes}) == len(changes)
    assert total(**joint) == total(**joint, placement="ffn")


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ({"d_model": 4096, "num_heads": 64, "d_ff": 10240}, {"kind": "query", "width": 256, "heads": 8, "alpha": 9.0}),
        ({"d_model": 2048, "num_heads": 32, "d_ff": 5120}, {**MODULES["bottleneck+prefix"], "kind": "component"}),
    ],
    ids=["TAGI on T5-XXL", "HINT on T5-XL"],
)
def test_published_sizes_without_weights(sizes: dict[str, int], chosen: dict[str, Any]) -> None:
    fields = {**sizes, "d_kv": 64, "num_layers": 24, "vocab_size": 32128, "tie_word_embeddings": False}
    with torch.device("meta"):
        model = build_t5({**fields, "feed_forward_proj": "gated-gelu"})
        backbone = T5Backbone(model, tokenizer(), BaseModel("published", "no weights")).eval()
        generator = AdapterGenerator(
            backbone, GeneratorSettings(**{"alpha": 64.0, "hidden": 128, **chosen}), TextSettings()
        ).eval()
        ids, states = torch.zeros(1, 70, dtype=torch.long), torch.zeros(1, 70, sizes["d_model"])
        mask = torch.ones(1, 70, dtype=torch.bool)
    cost = TAGI(generator).cost(Lengths(70, 50, 5))
    assert cost.once.instruction == flops(lambda: model.encoder(input_ids=ids))
    assert cost.once.generation == flops(lambda: generator.hypernetwork(states, mask))
    assert 0 < cost.total < Concatenation(backbone, TextSettings()).cost(Lengths(70, 50, 5)).total


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"instruction": -1.0}, "instruction: expected a finite length of at least 0, got -1.0"),
        ({"input": math.nan}, "input: expected a finite length of at least 0, got nan"),
        ({"output": 0.5}, "output: expected a finite length of at least 1, got 0.5"),
        ({"output": math.inf}, "output: expected a finite length of at least 1, got inf"),
        ({"instruction": 1e200}, "instruction: expected at most 1e\\+09, got 1e\\+200"),
        ({"examples": 0}, "examples: expected a finite length of at least 1, got 0"),
        ({"concatenated": -2.0}, "concatenated: expected a finite length of at least 0, got -2.0"),
    ],
)
def test_impossible_lengths(changed: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}$"):
        Lengths(**{"instruction": 7.0, "input": 5.0, "output": 3.0, **changed})  # type: ignore[arg-type]


def test_a_prompt_is_the_sum_unless_measured() -> None:
    assert Lengths(7.0, 5.5, 3.0).prompt == 12.5
    assert Lengths(7.0, 5.5, 3.0, concatenated=11.5).prompt == 11.5
    assert Lengths(7.0, 5.5, 3.0, concatenated=0.0).prompt == 0.0


def test_once_and_for_each() -> None:
    cost = Cost(Components(instruction=100.0, fusion=7.0), Components(fusion=2.0, head=3.0), examples=10)
    assert cost.components == Components(instruction=100.0, fusion=27.0, head=30.0)
    assert cost.total == 157.0
