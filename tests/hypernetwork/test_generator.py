"""The assembled generator: what it starts as, what learns, and that its training path is its inference path."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.api.generator import AdapterGenerator
from tagi.data.text.encoder import TextEncoder
from tagi.hypernetwork.inference import rows_runner, score
from tagi.hypernetwork.states import TaskStates
from tests.models import (
    CHOICES,
    INPUTS,
    INSTRUCTIONS,
    ROW_TASKS,
    ROWS,
    TASKS,
    fresh_generator,
    rounding,
    same,
    settings,
    text_settings,
    tiny_backbone,
    tiny_generator,
    tokenizer,
)

TEXT = TextEncoder(tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
INSTRUCTION_IDS, INSTRUCTION_MASK = TEXT.batch([TEXT.instruction(text) for text in INSTRUCTIONS])
LABELS = TEXT.labels([TEXT.target(row[-1]) for row in CHOICES])
ROWS_OF = torch.tensor(ROW_TASKS)
BATCH = (INSTRUCTION_IDS, INSTRUCTION_MASK, ROWS_OF, IDS, MASK, LABELS)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "query": {},
    "pooled": {"kind": "pooled"},
    "pooled attention": {"kind": "pooled", "pooling": "attention"},
    "post-norm": {"fusion_norm": "post"},
    "cross": {"fusion_init": "cross"},
    "attention": {"fusion": "attention"},
    "concatenation": {"fusion": "concatenation"},
    "none": {"fusion": "none"},
}


def prepared(generator: AdapterGenerator) -> TaskStates:
    return generator.prepare(INSTRUCTION_IDS, INSTRUCTION_MASK)


def log_probabilities(logits: Tensor) -> Tensor:
    chosen = logits.log_softmax(-1).gather(-1, LABELS.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (chosen * (LABELS != -100)).sum(-1)


@pytest.mark.parametrize("fusion", ["both", "attention", "concatenation"])
@pytest.mark.parametrize("shared_rank", [0, 3])
def test_rows_that_are_alone_have_nothing_but_the_adapter(fusion: str, shared_rank: int) -> None:
    """Beside prompted rows of the same batch, an encoder-decoder's alone rows are as without instruction states."""
    generator = tiny_generator(fusion=fusion, shared_rank=shared_rank).double()
    states = prepared(generator)
    alone = torch.arange(ROWS) % 2 == 0
    with torch.no_grad():
        logits = generator.logits(states.read, states.bank, ROWS_OF, IDS, MASK, LABELS, alone)
    choices = LABELS.unsqueeze(1)
    apart = score(rows_runner(generator, states.without_states(), ROWS_OF), IDS, MASK, choices)[:, 0]
    told = score(rows_runner(generator, states, ROWS_OF), IDS, MASK, choices)[:, 0]
    same(log_probabilities(logits)[alone], apart[alone])
    same(log_probabilities(logits)[~alone], told[~alone])
    assert not torch.allclose(apart, told)


@pytest.mark.parametrize("changed", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_training_computes_what_inference_does(changed: dict[str, Any]) -> None:
    """`forward` recomputes keys and values over (I_x ; input); `score` joins cached ones."""
    generator = tiny_generator(**changed).double()
    with torch.no_grad():
        logits, bank = generator(*BATCH)
    states = prepared(generator)
    assert bank.tasks == TASKS
    for module, factors in bank.factors.items():
        for found, wanted in zip(factors, states.bank.factors[module], strict=True):
            same(found, wanted)
    runner = rows_runner(generator, states, ROWS_OF)
    found = score(runner, IDS, MASK, LABELS.unsqueeze(1)).squeeze(1)
    same(found, log_probabilities(logits))
    cross, memory = runner.read(IDS, MASK)
    with torch.no_grad(), Attachment(*runner.hooks()).active():
        same(runner.backbone.logits_from_cache(cross, memory, LABELS), logits)
    bare = generator.backbone.logits(generator.backbone.encode(IDS, MASK), MASK, LABELS)
    assert rounding(logits, bare) > 0.01


@pytest.mark.parametrize("variant", ["v1.1", "mt5", "deep decoder"])
def test_the_relatives_of_t5(variant: str) -> None:
    generator = tiny_generator(tiny_backbone(variant)).double()
    with torch.no_grad():
        logits, _ = generator(*BATCH)
    runner = rows_runner(generator, prepared(generator), ROWS_OF)
    cross, memory = runner.read(IDS, MASK)
    with torch.no_grad(), Attachment(*runner.hooks()).active():
        same(runner.backbone.logits_from_cache(cross, memory, LABELS), logits)


@pytest.mark.parametrize("changed", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_padding_of_instructions_changes_nothing(changed: dict[str, Any]) -> None:
    generator = tiny_generator(**changed).double()
    longer = torch.nn.functional.pad(INSTRUCTION_IDS, (0, 5))
    mask = torch.nn.functional.pad(INSTRUCTION_MASK, (0, 5))
    with torch.no_grad():
        logits, bank = generator(*BATCH)
        found, padded = generator(longer, mask, *BATCH[2:])
    same(found, logits)
    for module, factors in bank.factors.items():
        for one, other in zip(padded.factors[module], factors, strict=True):
            same(one, other)


@pytest.mark.parametrize("changed", [{"fusion": "attention"}, {"fusion": "none"}, {"fusion": "none", "kind": "pooled"}])
def test_it_starts_as_the_backbone_to_the_bit(changed: dict[str, Any]) -> None:
    generator = fresh_generator(**changed)
    backbone = generator.backbone
    with torch.no_grad():
        logits, _ = generator(*BATCH)
        encoded = backbone.encode(IDS, MASK)
        assert torch.equal(logits, backbone.logits(encoded, MASK, LABELS))
        states = prepared(generator)
        runner = rows_runner(generator, states, ROWS_OF)
        with Attachment(*runner.hooks()).active():
            assert len(runner.hooks()) == (2 if changed["fusion"] == "attention" else 1)
            assert torch.equal(backbone.encode(IDS, MASK), encoded)
        cross, memory = runner.read(IDS, MASK)
        assert torch.equal(memory, MASK)
        for beams in (1, 3):
            with Attachment(*runner.hooks(beams)).active():
                found = backbone.generate(cross, memory, max_new_tokens=6, num_beams=beams)
            own = backbone.model.generate(
                input_ids=IDS, attention_mask=MASK.long(), max_new_tokens=6, num_beams=beams, early_stopping=beams > 1
            )
            assert torch.equal(found, own)


def test_a_woken_generator_without_its_channels_is_the_backbone_to_the_bit() -> None:
    generator = tiny_generator()
    silent = prepared(generator).without_lora().without_states()
    encoded = generator.backbone.encode(IDS, MASK)
    runner = rows_runner(generator, silent, ROWS_OF)
    cross, memory = runner.read(IDS, MASK)
    for (keys, values), (own_keys, own_values) in zip(
        cross, generator.backbone.cross_keys_values(encoded), strict=True
    ):
        assert torch.equal(keys, own_keys)
        assert torch.equal(values, own_values)
    assert torch.equal(memory, MASK)


@pytest.mark.parametrize("tune", ["none", "norms+embeddings", "ffn", "all"])
@pytest.mark.parametrize("changed", list(ARCHITECTURES.values())[:5], ids=list(ARCHITECTURES)[:5])
def test_what_learns_and_when(changed: dict[str, Any], tune: str) -> None:
    """At step 0 B's heads, gates and what is tuned; within three steps all that is trained; frozen ones never."""
    generator = fresh_generator(**changed, tune=tune)
    trained = {name for name, parameter in generator.named_parameters() if parameter.requires_grad}
    frozen = {name: p.clone() for name, p in generator.named_parameters() if name not in trained}
    own = {name for name in trained if not name.startswith("backbone.")}
    assert own == {name for name, _ in generator.named_parameters() if not name.startswith("backbone.")}
    assert bool(trained - own) == (tune != "none")
    optimiser = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.1)
    learned: list[set[str]] = []
    for _ in range(3):
        optimiser.zero_grad()
        logits, _ = generator(*BATCH)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten()).backward()
        learned.append({name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()})
        optimiser.step()
    first = {name for name in own if ".heads.B" in name or name.endswith(".gate")}
    if changed.get("fusion_norm") == "post":
        first |= {name for name in own if name.startswith("fusion.")}
    assert len(first) > 1
    assert learned[0] & own == first
    assert learned[0] - own == trained - own
    assert learned[0] | learned[1] | learned[2] == trained
    for name, parameter in generator.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name])


def test_a_frozen_encoder_keeps_no_graph() -> None:
    states = fresh_generator().encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK)
    assert not states.requires_grad
    for tune in ("norms+embeddings", "ffn", "all"):
        tuned = fresh_generator(tune=tune)
        assert tuned.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK).requires_grad
        with torch.no_grad():
            assert not tuned.encode_instructions(INSTRUCTION_IDS, INSTRUCTION_MASK).requires_grad


def forward(generator: AdapterGenerator) -> Tensor:
    with torch.no_grad():
        logits, _ = generator(*BATCH)
    return logits


def test_half_precision() -> None:
    """A backbone in bf16 with a generator in fp32, everything in bf16, and bf16 by autocast."""
    exact = forward(tiny_generator())
    narrow = 64 * torch.finfo(torch.bfloat16).eps
    mixed = tiny_generator()
    mixed.backbone.to(torch.bfloat16)
    for found in (forward(mixed), forward(tiny_generator().to(torch.bfloat16))):
        assert found.dtype == torch.bfloat16
        assert rounding(found, exact) < narrow
    generator = tiny_generator().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = generator(*BATCH)
    logits.float().sum().backward()
    generator.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert rounding(forward(generator), exact) < narrow
    for adapter, wanted in zip(mixed.adapt(INSTRUCTIONS), tiny_generator().adapt(INSTRUCTIONS), strict=True):
        found, scores = (torch.tensor(one.score(INPUTS, [CHOICES[3]] * ROWS)) for one in (adapter, wanted))
        assert rounding(found, scores) < narrow


def test_construction_leaves_the_models_own_randomness_reproducible() -> None:
    one, two = (AdapterGenerator(tiny_backbone(), settings(seed=4), text_settings()) for _ in range(2))
    for (name, tensor), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
