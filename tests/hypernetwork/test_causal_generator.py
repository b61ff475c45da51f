"""Generators on decoder-only backbones of every supported type: nothing, each alone, cached, merged, with fusion."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.causal import CausalBackbone
from tagi.errors import ConfigError
from tagi.hypernetwork.inference import answer, merged_runner, rows_runner, score
from tagi.hypernetwork.states import TaskStates
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
from tests.causal_models import HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, MODELS, SINGLE, close, exact_causal, tiny_causal
from tests.models import WORDS

RANK, TASKS, ROWS, CHOICES = 4, 3, 5, 2
TEXT = TextSettings(encoding="plain", max_instruction_tokens=17, max_input_tokens=15, max_target_tokens=9)
SETTINGS = GeneratorSettings(
    kind="query", rank=RANK, alpha=9.0, hidden=13, width=12, heads=3, fusion="both", fusion_every=2
)
WINDOWED = ("gemma2", "gemma3_text", "gpt_neo", "mistral")
"""Types whose tiny models see fewer tokens than instruction and input have."""
CONCATENATED = tuple(kind for kind in MODELS if kind not in WINDOWED)
ROWS_OF = torch.tensor([2, 0, 1, 2, 0])
LENGTHS, TOLD = (7, 3, 5, 1, 4), (6, 2, 5)


def filled(lengths: tuple[int, ...], *, left: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of random tokens, padded on one side to a place more than the longest."""
    random, width = torch.Generator().manual_seed(seed), max(lengths) + 1
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(length)
        ids[row, place] = torch.randint(5, 5 + len(WORDS), (length,), generator=random)
        mask[row, place] = True
    return ids, mask


IDS, MASK = filled(LENGTHS, left=True, seed=3)
TOLD_IDS, TOLD_MASK = filled(TOLD, left=False, seed=4)
LABELS = torch.randint(5, 20, (ROWS, CHOICES, 6), generator=torch.Generator().manual_seed(5))
LABELS[1, 0, 3:] = -100


def opened(generator: AdapterGenerator) -> AdapterGenerator:
    """Something is generated for every target module, and gates are open."""
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for part in generator.own_parts:
            for parameter in part.parameters():
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                parameter.add_(0.3 * noise.to(parameter.dtype))
    return generator.eval()


def made(backbone: CausalBackbone, **changed: Any) -> AdapterGenerator:
    generator = AdapterGenerator(backbone, replace(SETTINGS, **changed), TEXT)
    dtype = next(backbone.parameters()).dtype
    return generator.to(dtype).eval()


def prepared(generator: AdapterGenerator) -> TaskStates:
    return generator.prepare(TOLD_IDS, TOLD_MASK)


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_generator_is_its_backbone_to_the_bit(kind: str) -> None:
    """Nothing generated, gates closed, no instruction before the input."""
    backbone = tiny_causal(kind)
    generator = made(backbone, fusion="attention", fusion_every=1)
    flat = LABELS[:, 0]
    with torch.no_grad():
        wanted = backbone.logits(IDS, MASK, flat)
        found, bank = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, flat)
    assert torch.equal(found, wanted)
    assert len(bank.places) == len(backbone.target_modules) == 2 * LAYERS
    assert not torch.equal(opened(generator)(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, flat)[0], wanted)


@pytest.mark.parametrize("fusion", ["none", "attention", "concatenation", "both"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_row_of_a_mixed_batch_gets_what_it_gets_alone(kind: str, fusion: str) -> None:
    """In training's pass, by scores, and merged for its task alone; whatever else stands in the batch."""
    if kind in WINDOWED and fusion in ("concatenation", "both"):
        with pytest.raises(ConfigError, match="its sliding window"):
            made(exact_causal(kind), fusion=fusion)
        return
    generator = opened(made(exact_causal(kind), fusion=fusion))
    states = prepared(generator)
    with torch.no_grad():
        together = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])[0]
    scores = score(rows_runner(generator, states, ROWS_OF), IDS, MASK, LABELS)
    for row, task in enumerate(ROWS_OF.tolist()):
        ids, mask = IDS[row : row + 1, -LENGTHS[row] :], MASK[row : row + 1, -LENGTHS[row] :]
        told, told_mask = TOLD_IDS[task : task + 1, : TOLD[task]], TOLD_MASK[task : task + 1, : TOLD[task]]
        labels = LABELS[row : row + 1]
        with torch.no_grad():
            alone = generator(told, told_mask, torch.tensor([0]), ids, mask, labels[:, 0])[0]
        counted = labels[0, 0] != -100
        close(together[row, counted], alone[0, counted])
        merged = merged_runner(generator, states.select(torch.tensor([task])))
        close(score(merged, ids, mask, labels)[0], scores[row])


@pytest.mark.parametrize("kind", CONCATENATED)
def test_an_instruction_that_is_kept_is_as_one_read_again(kind: str) -> None:
    """Its keys and values before an input: the same as both in one text, since no LoRA touched the instruction."""
    generator = made(exact_causal(kind), fusion="concatenation")
    backbone = generator.backbone
    assert isinstance(backbone, CausalBackbone)
    with torch.no_grad():
        found = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])[0]
        for row, task in enumerate(ROWS_OF.tolist()):
            joined = torch.cat([TOLD_IDS[task, : TOLD[task]], IDS[row, -LENGTHS[row] :]]).unsqueeze(0)
            wanted = backbone.logits(joined, torch.ones_like(joined).bool(), LABELS[row : row + 1, 0])
            counted = LABELS[row, 0] != -100
            close(found[row, counted], wanted[0, counted])


@pytest.mark.parametrize("fusion", ["none", "both"])
@pytest.mark.parametrize("kind", CONCATENATED)
def test_answers_are_the_likeliest_tokens_of_the_training_pass(kind: str, fusion: str) -> None:
    """Greedy decoding from caches and teacher forcing agree, token by token; so do two beams with themselves alone."""
    generator = opened(made(exact_causal(kind), fusion=fusion))
    states = prepared(generator)
    runner = rows_runner(generator, states, ROWS_OF)
    found = answer(runner, IDS, MASK, max_new_tokens=4, min_new_tokens=4)
    with torch.no_grad():
        logits = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, found)[0]
    logits[..., generator.text.tokenizer.eos_token_id] = -torch.inf  # no answer ends among its first four tokens
    assert torch.equal(logits.argmax(-1), found)
    beams = answer(runner, IDS, MASK, max_new_tokens=4, min_new_tokens=4, num_beams=2)
    for row, task in enumerate(ROWS_OF.tolist()):
        alone = merged_runner(generator, states.select(torch.tensor([task])))
        ids, mask = IDS[row : row + 1, -LENGTHS[row] :], MASK[row : row + 1, -LENGTHS[row] :]
        one = answer(alone, ids, mask, max_new_tokens=4, min_new_tokens=4, num_beams=2)
        assert torch.equal(one[0], beams[row])


def test_an_instruction_reads_without_what_was_generated() -> None:
    """Also inside another call: its states and its keys and values are the bare backbone's."""
    generator = opened(made(exact_causal("llama"), fusion="concatenation"))
    states = prepared(generator)
    with torch.no_grad(), Attachment(generator.backbone.hooks(states.bank, torch.arange(TASKS))).active():
        inside = generator.read_instructions(TOLD_IDS, TOLD_MASK)
    assert torch.equal(inside.states, states.states)
    assert states.cross is not None
    assert inside.layers is not None
    for one, two in zip(inside.layers, states.cross, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert states.cross[1][0].shape == (TASKS, KV_HEADS, TOLD_IDS.shape[1], HEAD_DIM)
    assert states.states.shape == (TASKS, TOLD_IDS.shape[1], HIDDEN)


def test_states_dropped_in_training_leave_the_adapter_alone() -> None:
    """A task without its states sees what a generator of the same LoRA without them gives."""
    generator = opened(made(exact_causal("llama"), fusion="both"))
    bare = made(exact_causal("llama"), fusion="none")
    bare.hypernetwork.load_state_dict(generator.hypernetwork.state_dict())
    generator.settings = replace(generator.settings, state_dropout=1 - 1e-9)
    generator.train()
    generator.backbone.eval()
    found = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])[0]
    close(found.detach(), bare(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])[0].detach())


@pytest.mark.parametrize("fusion", ["none", "both"])
def test_every_trained_parameter_has_a_gradient_within_three_steps(fusion: str) -> None:
    generator = made(tiny_causal("llama"), fusion=fusion).train()
    optimizer = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.5)
    seen: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        logits = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 1])[0]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS[:, 1].flatten()).backward()
        seen |= {name for name, p in generator.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert seen == {name for name, p in generator.named_parameters() if p.requires_grad}
    assert not any(name.startswith("backbone") for name in seen)


def test_a_reader_of_its_own_reads_as_the_backbone_at_first() -> None:
    """It is a copy that is trained; without the instruction's keys and values a backbone needs no more."""
    shared, own = (made(exact_causal("llama"), fusion="attention", reader=reader) for reader in ("backbone", "own"))
    found, wanted = (one.encode_instructions(TOLD_IDS, TOLD_MASK) for one in (own, shared))
    close(found[TOLD_MASK].detach(), wanted[TOLD_MASK].detach())
    assert found.requires_grad
    assert not wanted.requires_grad


def test_gradients_reach_what_was_read_where_the_backbone_is_tuned() -> None:
    generator = opened(made(tiny_causal("llama"), fusion="concatenation", tune="all"))
    read = generator.read_instructions(TOLD_IDS, TOLD_MASK)
    assert read.layers is not None
    assert read.layers[0][0].requires_grad
    frozen = opened(made(tiny_causal("llama"), fusion="concatenation")).read_instructions(TOLD_IDS, TOLD_MASK)
    assert frozen.layers is not None
    assert not frozen.layers[0][0].requires_grad


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"module": "prefix"}, "generator.module: expected 'lora' on the decoder-only tiny, got 'prefix'"),
        (
            {"reader": "own"},
            "generator.reader: expected 'backbone' on the decoder-only tiny with fusion 'both', whose keys and values "
            "are the backbone's, got 'own'",
        ),
        ({"fusion_init": "cross"}, "generator.fusion_init: expected 't5' on the decoder-only tiny, got 'cross'"),
    ],
)
def test_what_a_decoder_only_backbone_cannot_serve_is_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(tiny_causal("llama"), **changed)
    assert str(caught.value) == named


def test_limits_that_pass_the_positions_are_refused() -> None:
    wide = replace(TEXT, max_instruction_tokens=30)
    with pytest.raises(ConfigError, match=r"make at most 53 tokens \(its positions\), got 54"):
        AdapterGenerator(tiny_causal("llama"), SETTINGS, wide)
    AdapterGenerator(tiny_causal("llama"), replace(SETTINGS, fusion="attention"), wide)


def test_recomputed_layers_would_forget_the_instruction() -> None:
    """Transformers drops the cache of a layer that it recomputes: it is refused, not lost."""
    generator = made(tiny_causal("llama"), fusion="concatenation").train()
    generator.backbone.checkpoint_gradients()
    with pytest.raises(ValueError, match="cannot go on from what was read before"):
        generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])


@pytest.mark.parametrize("fusion", ["none", "both"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_an_adapter_comes_back_from_its_folder(tmp_path: Path, kind: str, fusion: str) -> None:
    """Also where query and value are slices of one layer, which PEFT's format has whole."""
    generator = opened(made(tiny_causal(kind), fusion=fusion))
    adapters = generator.adapt([" ".join(WORDS[2:9]), " ".join(WORDS[5:8])])
    assert isinstance(adapters, list)
    adapters[1].save(tmp_path / "one")
    again = TaskAdapter.load(tmp_path / "one", generator)
    inputs = [" ".join(WORDS[4:9]), WORDS[3]]
    assert again.predict(inputs, max_new_tokens=4) == adapters[1].predict(inputs, max_new_tokens=4)
    assert again.score(inputs, [WORDS[1], WORDS[2]]) == adapters[1].score(inputs, [WORDS[1], WORDS[2]])
    again.save(tmp_path / "two")
    for name in ("adapter_model.safetensors", "instruction_states.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_types_in_single_precision_are_few() -> None:
    """What is only close for being computed in fp32 is none of the common types."""
    assert set(SINGLE) <= set(WINDOWED)
