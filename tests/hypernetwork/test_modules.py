"""Bottlenecks and prefixes on a whole T5: equal to slow references, nothing where they are nothing, nothing left."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment, detached
from tagi.adapters.prefix_bank import PrefixBank
from tagi.adapters.protocol import Bank, JointBank, stack_banks
from tagi.api.generator import AdapterGenerator
from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.hypernetwork.inference import Runner, answer, rows_runner, score
from tagi.hypernetwork.states import TaskStates
from tests.hypernetwork.slow_t5 import SlowT5
from tests.models import (
    CHOICES,
    INPUTS,
    INSTRUCTIONS,
    MODULES,
    ROW_TASKS,
    ROWS,
    fresh_generator,
    random_bank,
    random_module,
    rounding,
    same,
    settings,
    text_settings,
    tiny_backbone,
    tiny_generator,
    tokenizer,
    traces,
)

TEXT = TextEncoder(tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
INSTRUCTION_IDS, INSTRUCTION_MASK = TEXT.batch([TEXT.instruction(text) for text in INSTRUCTIONS])
LABELS = TEXT.labels([TEXT.target(row[-1]) for row in CHOICES])
CHOICE_LABELS = TEXT.choice_labels(CHOICES)
ROWS_OF = torch.tensor(ROW_TASKS)
BATCH = (INSTRUCTION_IDS, INSTRUCTION_MASK, ROWS_OF, IDS, MASK, LABELS)
KINDS: dict[str, dict[str, Any]] = {
    "query": {"kind": "query"},
    "pooled": {"kind": "pooled"},
    "pooled attention": {"kind": "pooled", "pooling": "attention"},
    "component": {"kind": "component"},
}
WRITTEN = 4
EVERY = {"lora": {}, **MODULES}
WIDE = ROWS * 4096 * torch.finfo(torch.float32).eps
"""T5 takes its norms' mean squares in fp32, in whatever order a batch or a single row is summed."""


def tokens_of(row: int) -> list[int]:
    return [int(token) for token in IDS[row][MASK[row]]]


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype == torch.float64
    assert rounding(found, wanted) < WIDE


def runner_of(backbone: T5Backbone, bank: Bank, rows: Tensor = ROWS_OF) -> Runner:
    """A batch of rows under a bank alone: no fusion, no instruction states."""
    blank = torch.zeros(bank.tasks, 1, backbone.d_model, dtype=torch.float64)
    states = TaskStates(bank, blank, torch.ones(bank.tasks, 1, dtype=torch.bool), None, None)
    distinct = rows.unique()
    return Runner(backbone, None, states.select(distinct if len(distinct) == 1 else rows), merged=False)


def double(backbone: T5Backbone, name: str) -> Bank:
    backbone.double()
    return random_module(backbone, name).map(lambda tensor: tensor.double())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ["v1.0", "v1.1", "mt5"])
@pytest.mark.parametrize("name", MODULES)
def test_it_is_what_a_slow_t5_computes(name: str, variant: str, attention: str) -> None:
    """A padded batch of several tasks, encoded, teacher-forced, scored and answered with caches."""
    backbone = tiny_backbone(variant)
    backbone.model.set_attn_implementation(attention)
    bank = double(backbone, name)
    parallel = MODULES[name].get("placement") == "ffn"
    bare = backbone.encode(IDS, MASK)
    runner = runner_of(backbone, bank)
    with torch.no_grad(), Attachment(*runner.hooks()).active():
        encoded = backbone.encode(IDS, MASK)
        logits = backbone.logits(encoded, MASK, LABELS)
    scores = score(runner, IDS, MASK, CHOICE_LABELS)
    fixed = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN}
    answers = {beams: answer(runner, IDS, MASK, num_beams=beams, **fixed) for beams in (1, 3)}
    plain = answer(runner, IDS, MASK, max_new_tokens=WRITTEN)
    for row, task in enumerate(ROW_TASKS):
        slow = SlowT5(backbone, bank, task, parallel=parallel)
        memory = slow.encode(tokens_of(row))
        close(encoded[row][MASK[row]], memory)
        assert rounding(bare[row][MASK[row]], memory) > 0.01
        target = [int(label) for label in LABELS[row] if label >= 0]
        close(logits[row, : len(target)], slow.logits(memory, target[:-1]))
        for choice, labels in enumerate(CHOICE_LABELS[row][: len(CHOICES[row])]):
            wanted = slow.score(memory, [int(label) for label in labels if label >= 0])
            assert float(scores[row, choice]) == pytest.approx(wanted, rel=1e-5)
        assert answers[3][row, 1:].tolist() == slow.beams(memory, WRITTEN, 3)
        assert answers[1][row, 1:].tolist() == slow.beams(memory, WRITTEN, 1)
        greedy = slow.greedy(memory, WRITTEN)
        ended = greedy.index(1) + 1 if 1 in greedy else WRITTEN
        assert plain[row, 1 : 1 + ended].tolist() == greedy[:ended]


@pytest.mark.parametrize("name", EVERY)
def test_a_mixed_batch_gives_every_row_what_it_gets_alone(name: str) -> None:
    backbone = tiny_backbone()
    bank = random_bank(backbone.target_modules).map(Tensor.double) if name == "lora" else double(backbone, name)
    backbone.double()
    mixed = runner_of(backbone, bank)
    scores = score(mixed, IDS, MASK, CHOICE_LABELS)
    fixed = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN}
    for row, task in enumerate(ROW_TASKS):
        one = slice(row, row + 1)
        ids, mask = torch.tensor([tokens_of(row)]), torch.ones(1, len(tokens_of(row)), dtype=torch.bool)
        alone = runner_of(backbone, bank.select(torch.tensor([task])), torch.tensor([0]))
        close(score(alone, ids, mask, CHOICE_LABELS[one]), scores[one])
        for beams in (1, 3):
            wanted = answer(alone, ids, mask, num_beams=beams, **fixed)
            assert torch.equal(answer(mixed, IDS, MASK, num_beams=beams, **fixed)[one], wanted)
    several = {
        tuple(score(runner_of(backbone, bank, torch.full((ROWS,), t)), IDS, MASK, CHOICE_LABELS)[0].tolist())
        for t in range(3)
    }
    assert len(several) == 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", EVERY)
def test_what_is_nothing_leaves_the_backbone_to_the_bit(name: str, attention: str) -> None:
    """B = 0, up = 0 with its bias, a prefix without tokens: logits, scores and greedy answers."""
    backbone = tiny_backbone()
    backbone.model.set_attn_implementation(attention)
    with torch.no_grad():
        encoded = backbone.encode(IDS, MASK)
        cross = backbone.cross_keys_values(encoded)
        wanted = (
            encoded,
            backbone.logits(encoded, MASK, LABELS),
            backbone.scores(cross, MASK, CHOICE_LABELS),
            backbone.generate(cross, MASK, max_new_tokens=6),
        )
    bank = random_bank(backbone.target_modules) if name == "lora" else random_module(backbone, name)
    for zero in (bank.zero(), bank.zero().mean()):
        if zero.tasks == 1:
            zero = stack_banks([zero, zero, zero])
        runner = runner_of(backbone, zero)
        with torch.no_grad(), Attachment(*runner.hooks()).active():
            found = backbone.encode(IDS, MASK)
            logits = backbone.logits(found, MASK, LABELS)
        others = (score(runner, IDS, MASK, CHOICE_LABELS), answer(runner, IDS, MASK, max_new_tokens=6))
        for one, other in zip((found, logits, *others), wanted, strict=True):
            assert torch.equal(one, other)
    with torch.no_grad(), Attachment(*runner_of(backbone, bank).hooks()).active():
        assert rounding(backbone.encode(IDS, MASK), encoded) > 0.01
    with torch.no_grad():
        assert torch.equal(backbone.encode(IDS, MASK), encoded)  # taking prefixes changes nothing where there are none


def prepared(generator: AdapterGenerator) -> TaskStates:
    return generator.prepare(INSTRUCTION_IDS, INSTRUCTION_MASK)


@pytest.mark.parametrize("fusion", ["both", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_training_computes_what_inference_does(name: str, kind: str, fusion: Any) -> None:
    """And padding of instructions changes nothing; a task alone gets what it gets among others."""
    generator = tiny_generator(**EVERY[name], **KINDS[kind], fusion=fusion).double()
    with torch.no_grad():
        logits, bank = generator(*BATCH)
        longer = [torch.nn.functional.pad(part, (0, 5)) for part in BATCH[:2]]
        padded, _ = generator(*longer, *BATCH[2:])
    same(padded, logits)
    assert bank.module == EVERY[name].get("module", "lora")
    runner = rows_runner(generator, prepared(generator), ROWS_OF)
    cross, memory = runner.read(IDS, MASK)
    with torch.no_grad(), Attachment(*runner.hooks()).active():
        same(runner.backbone.logits_from_cache(cross, memory, LABELS), logits)
    alone = generator.prepare(INSTRUCTION_IDS[1:2, :5], INSTRUCTION_MASK[1:2, :5])
    for key, tensor in alone.bank.tensors().items():
        same(tensor, bank.tensors()[key][1:2])
        assert rounding(bank.tensors()[key][0:1], tensor) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_it_starts_as_it_says(name: str, kind: str) -> None:
    """Nothing changes to the bit; prefixes, of which there is no nothing, start small."""
    generator = fresh_generator(**EVERY[name], **KINDS[kind], fusion="none")
    backbone = generator.backbone
    with torch.no_grad():
        logits, bank = generator(*BATCH)
        bare = backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)
    if "prefix" not in name:
        assert torch.equal(logits, bare)
        assert any(tensor.any() for tensor in bank.tensors().values())
        return
    assert 1e-6 < rounding(logits, bare) < 1
    prefix = bank.banks[1] if isinstance(bank, JointBank) else bank
    assert isinstance(prefix, PrefixBank)
    for part in ("keys", "values"):
        chosen = [tensor for key, tensor in prefix.tensors().items() if key.endswith(part)]
        lengths = torch.stack(chosen).square().sum((2, 4)).sqrt()  # of a token's vector over all heads
        assert 0.1 < float(lengths.mean()) < 2  # of 11 hidden units, some few at work


@pytest.mark.parametrize("tune", ["none", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_every_trained_parameter_learns_within_three_steps(name: str, kind: str, tune: Any) -> None:
    generator = fresh_generator(**EVERY[name], **KINDS[kind], tune=tune)
    trained = {key for key, parameter in generator.named_parameters() if parameter.requires_grad}
    assert any(key.startswith("hypernetwork.") for key in trained)
    optimiser = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.1)
    learned: set[str] = set()
    for _ in range(3):
        optimiser.zero_grad()
        logits, _ = generator(*BATCH)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten()).backward()
        learned |= {key for key, p in generator.named_parameters() if p.grad is not None and p.grad.any()}
        optimiser.step()
    assert learned == trained


@pytest.mark.parametrize("name", MODULES)
def test_merging_attaches_what_cannot_be_merged(name: str) -> None:
    """A task's own runner: the same answers, no dropout, nothing left."""
    generator = tiny_generator(**MODULES[name]).double()
    states, labels = prepared(generator), CHOICE_LABELS
    before = list(traces(generator))
    for task, adapter in enumerate(generator.adapt(INSTRUCTIONS)):
        runner = adapter.runner()
        assert not runner.merged
        wanted = score(rows_runner(generator, states, torch.full((ROWS,), task)), IDS, MASK, labels)
        close(score(runner, IDS, MASK, labels), wanted)
        generator.train()
        close(score(runner, IDS, MASK, labels), wanted)
        generator.eval()
        assert not any(module._forward_hooks for module in runner.backbone.modules())
    assert list(traces(generator)) == before


def gradients(generator: AdapterGenerator, checkpointed: bool) -> Iterator[tuple[str, Tensor]]:
    if checkpointed:
        generator.backbone.checkpoint_gradients()
    generator.train()
    torch.manual_seed(0)
    logits, _ = generator(*BATCH)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten()).backward()
    for key, parameter in generator.named_parameters():
        if parameter.grad is not None:
            yield key, parameter.grad


@pytest.mark.parametrize("tune", ["none", "all"])
@pytest.mark.parametrize("name", MODULES)
def test_gradient_checkpointing_recomputes_with_the_same_modules(name: str, tune: Any) -> None:
    plain = dict(gradients(tiny_generator(**MODULES[name], tune=tune), checkpointed=False))
    found = dict(gradients(tiny_generator(**MODULES[name], tune=tune), checkpointed=True))
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in plain.items())


@pytest.mark.parametrize("name", MODULES)
def test_calls_that_nest_or_fail_leave_one_another_alone(name: str) -> None:
    generator = tiny_generator(**MODULES[name])
    backbone = generator.backbone
    bank, other = random_module(backbone, name), random_module(backbone, name, tasks=1, seed=9)
    bare, before = backbone.encode(IDS, MASK), list(traces(generator))
    instructions = generator.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK)
    with torch.no_grad(), Attachment(backbone.hooks(other)).active():
        taught = backbone.encode(IDS, MASK)
    with torch.no_grad(), Attachment(backbone.hooks(bank, ROWS_OF)).active():
        adapted = backbone.encode(IDS, MASK)
        assert torch.equal(generator.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK), instructions)
        with detached():
            assert torch.equal(backbone.encode(IDS, MASK), bare)
        with Attachment(backbone.hooks(other)).active():
            assert torch.equal(backbone.encode(IDS, MASK), taught)
        assert torch.equal(backbone.encode(IDS, MASK), adapted)
        with pytest.raises(ValueError, match="laid out for 7 rows, the call has 1"):
            backbone.encode(IDS[:1], MASK[:1])
    assert rounding(adapted, bare) > 0.01 < rounding(adapted, taught)
    unknown = torch.full_like(IDS, 10_000)
    with pytest.raises(IndexError):
        generator(*BATCH[:3], unknown, *BATCH[4:])
    assert torch.equal(backbone.encode(IDS, MASK), bare)
    assert list(traces(generator)) == before


@pytest.mark.parametrize("name", MODULES)
def test_two_threads_with_two_banks_on_one_backbone(name: str) -> None:
    backbone = tiny_backbone()
    banks = [random_module(backbone, name, seed=seed) for seed in (1, 2)]
    meet = threading.Barrier(2, timeout=60)
    faults: list[object] = []

    def logits(bank: Bank, wait: bool = False) -> Tensor:
        with torch.no_grad(), Attachment(backbone.hooks(bank, ROWS_OF)).active():
            if wait:
                meet.wait()
            found = backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)
            if wait:
                meet.wait()
            return found

    alone = [logits(bank) for bank in banks]
    assert rounding(alone[0], alone[1]) > 0.01

    def work(which: int) -> None:
        try:
            for _ in range(10):
                if not torch.equal(logits(banks[which], wait=True), alone[which]):
                    faults.append(which)
        except BaseException as error:
            meet.abort()
            faults.append(error)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []


def test_a_bottleneck_after_attention_is_after_its_dropout() -> None:
    """All that attention gives is dropped: what the adapter makes of nothing is left whole."""
    backbone = tiny_backbone().double()
    bank = double(backbone, "bottleneck")
    sublayer: Any = backbone.fusion_places[1]
    sublayer.train()
    sublayer.dropout.p = 1.0
    x = torch.randn(ROWS, 5, backbone.d_model, dtype=torch.float64)
    assert torch.equal(sublayer(x)[0], x)
    with Attachment(backbone.hooks(bank, ROWS_OF)).active():
        found = sublayer(x)[0]
    for row, task in enumerate(ROW_TASKS):
        alone = SlowT5(backbone, bank, task).bottleneck("encoder.block.1.layer.0.dropout", torch.zeros_like(x[row]))
        assert alone.abs().max() > 0.1
        same(found[row], x[row] + alone)


@pytest.mark.parametrize("name", MODULES)
def test_half_precision(name: str) -> None:
    """A backbone in bf16 with a generator in fp32, everything in bf16, and bf16 by autocast."""
    with torch.no_grad():
        exact, _ = tiny_generator(**MODULES[name])(*BATCH)
    narrow = 64 * torch.finfo(torch.bfloat16).eps
    mixed = tiny_generator(**MODULES[name])
    mixed.backbone.to(torch.bfloat16)
    for generator in (mixed, tiny_generator(**MODULES[name]).to(torch.bfloat16)):
        with torch.no_grad():
            found, _ = generator(*BATCH)
        assert found.dtype == torch.bfloat16
        assert rounding(found, exact) < narrow
    generator = tiny_generator(**MODULES[name]).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = generator(*BATCH)
    logits.float().sum().backward()
    generator.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, _ = generator(*BATCH)
    assert rounding(found, exact) < narrow


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: str) -> None:
    chosen = {**MODULES["bottleneck+prefix"], **KINDS[kind]}
    torch.manual_seed(11)
    one, other = fresh_generator(**chosen, seed=4), fresh_generator(**chosen, seed=5)
    torch.manual_seed(12)
    again = AdapterGenerator(tiny_backbone(), settings(**chosen, seed=4), text_settings())
    apart = 0
    for key, tensor in one.hypernetwork.state_dict().items():
        assert torch.equal(again.hypernetwork.state_dict()[key], tensor)
        apart += not torch.equal(other.hypernetwork.state_dict()[key], tensor)
    assert apart > 3
