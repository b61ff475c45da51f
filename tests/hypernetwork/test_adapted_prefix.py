"""An instruction read under the task's own LoRA, on top of a shared LoRA: every operation on its states."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank, as_lora
from tagi.adapters.merge import merge
from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.causal import CausalBackbone
from tagi.errors import CheckpointError, ConfigError
from tagi.evaluation.conditions import cross_lora, residual_bank
from tagi.hypernetwork.inference import answer, merged_runner, rows_runner, score
from tagi.hypernetwork.states import TaskStates
from tagi.hypernetwork.states_memory import StatesMemory
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
from tests.causal_models import MODELS, SINGLE, close, exact_causal, tiny_causal
from tests.hypernetwork.test_causal_generator import (
    IDS,
    LABELS,
    MASK,
    ROWS,
    ROWS_OF,
    TOLD,
    TOLD_IDS,
    TOLD_MASK,
    WINDOWED,
    opened,
)
from tests.models import WORDS, text_settings, tiny_backbone

RANK, SHARED = 3, 5
TEXT = TextSettings(encoding="plain", max_instruction_tokens=17, max_input_tokens=15, max_target_tokens=9)
SETTINGS = GeneratorSettings(
    kind="query",
    rank=RANK,
    alpha=9.0,
    hidden=13,
    width=12,
    heads=3,
    fusion="none",
    shared_rank=SHARED,
    residual="both",
    instruction_cache="adapted",
)
KINDS = tuple(kind for kind in MODELS if kind not in WINDOWED)
"""Windows of the tiny models are shorter than instruction and input together."""


def made(backbone: CausalBackbone, **changed: Any) -> AdapterGenerator:
    generator = AdapterGenerator(backbone, replace(SETTINGS, **changed), TEXT)
    return opened(generator.to(next(backbone.parameters()).dtype))


def whole_text(generator: AdapterGenerator, bank: LoraBank, row: int, labels: Tensor, task: int) -> Tensor:
    """Logits of one row's instruction, input and target as one text, under weights that hold the LoRA."""
    told = TOLD_IDS[task, : TOLD[task]]
    given = IDS[row][MASK[row]]
    known = labels[labels != -100]
    ids = torch.cat([told, given, known[:-1]]).unsqueeze(0)
    model = merge(generator.backbone.model, bank)
    with torch.no_grad():
        return model(input_ids=ids).logits[0, -len(known) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["low-rank", "scales", "both"])
def test_training_inference_and_one_text_under_merged_weights_agree(kind: str, residual: str) -> None:
    """Contract 1 and 2: bank = merged, and every row of a mixed batch what it gets alone, cached or not."""
    if kind in SINGLE and residual != "both":
        return
    generator = made(exact_causal(kind), residual=residual)
    states, labels = generator.prepare(TOLD_IDS, TOLD_MASK), LABELS[:, 0]
    with torch.no_grad():
        forced = generator.logits(states.read, states.bank, ROWS_OF, IDS, MASK, labels)
    scores = score(rows_runner(generator, states, ROWS_OF), IDS, MASK, LABELS)
    for row in range(ROWS):
        task = int(ROWS_OF[row])
        own = states.select(torch.tensor([task]))
        wanted = whole_text(generator, own.bank, row, labels[row], task)
        count = len(wanted)
        close(forced[row, :count], wanted)
        log_probabilities = wanted.log_softmax(-1)[torch.arange(count), labels[row, :count]].sum()
        close(scores[row, 0].unsqueeze(0), log_probabilities.unsqueeze(0).to(scores.dtype))
        alone = score(merged_runner(generator, own), IDS[row : row + 1], MASK[row : row + 1], LABELS[row : row + 1])
        close(alone[0, :1], scores[row, :1])


def test_rows_that_are_alone_see_no_instruction() -> None:
    generator = made(exact_causal("llama"))
    states, labels = generator.prepare(TOLD_IDS, TOLD_MASK), LABELS[:, 0]
    alone = torch.tensor([True, False, True, False, True])
    with torch.no_grad():
        found = generator.logits(states.read, states.bank, ROWS_OF, IDS, MASK, labels, alone)
        told = generator.logits(states.read, states.bank, ROWS_OF, IDS, MASK, labels)
        with Attachment(generator.backbone.hooks(states.bank, ROWS_OF)).active():
            bare = generator.backbone.forced_logits(IDS, MASK, labels)
    counted = labels != -100
    close(found[alone][counted[alone]], bare[alone][counted[alone]])
    close(found[~alone][counted[~alone]], told[~alone][counted[~alone]])
    assert not torch.allclose(bare[alone], told[alone])


def test_with_a_zero_residual_the_generator_is_the_shared_lora() -> None:
    """The same tokens, and logits within rounding, as the shared LoRA with the instruction in the prompt."""
    backbone = tiny_causal("llama")
    fresh = AdapterGenerator(backbone, SETTINGS, TEXT).eval()
    assert fresh.shared is not None
    with torch.no_grad():
        for b in fresh.shared.b:
            b.normal_(0, 0.2, generator=torch.Generator().manual_seed(3))
    states = fresh.prepare(TOLD_IDS, TOLD_MASK)
    shared = LoraBank(fresh.shared.factors(), 1.0)
    labels = LABELS[:, 0]
    with torch.no_grad():
        forced = fresh.logits(states.read, states.bank, ROWS_OF, IDS, MASK, labels)
    for row in range(ROWS):
        close(
            forced[row, : int((labels[row] != -100).sum())],
            whole_text(fresh, shared, row, labels[row], int(ROWS_OF[row])),
        )
    model = merge(backbone.model, shared)
    own = states.select(torch.tensor([1]))
    found = answer(merged_runner(fresh, own), IDS[2:3], MASK[2:3], max_new_tokens=6)
    ids = torch.cat([TOLD_IDS[1, : TOLD[1]], IDS[2][MASK[2]]]).unsqueeze(0)
    assert torch.equal(found, backbone.viewed(model).generate(ids, torch.ones_like(ids).bool(), max_new_tokens=6))


def test_gradients_reach_every_generated_part_within_three_steps() -> None:
    generator = AdapterGenerator(tiny_causal("llama"), SETTINGS, TEXT)
    assert generator.shared is not None
    with torch.no_grad():
        for b in generator.shared.b:
            b.normal_(0, 0.2, generator=torch.Generator().manual_seed(3))
    trained = {name: p for name, p in generator.named_parameters() if p.requires_grad}
    assert not any(name.startswith("shared.") for name in trained)
    moved: set[str] = set()
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits, _bank = generator(TOLD_IDS, TOLD_MASK, ROWS_OF, IDS, MASK, LABELS[:, 0])
        logits.square().mean().backward()
        moved |= {name for name, p in trained.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert moved == set(trained)


def check_prefix(generator: AdapterGenerator, states: TaskStates) -> None:
    """Every task's keys and values are those of its tokens under its own bank."""
    assert states.cross is not None
    assert states.ids is not None
    for task in range(states.tasks):
        length = int(states.mask[task].sum())
        bank = as_lora(states.bank.select(torch.tensor([task])), "a test")
        with torch.no_grad():
            model = merge(generator.backbone.model, bank)
            layers = model(input_ids=states.ids[task : task + 1, :length], use_cache=True).past_key_values.layers
        for layer, (keys, values) in zip(layers, states.cross, strict=True):
            close(keys[task, :, :length], layer.keys[0])
            close(values[task, :, :length], layer.values[0])


@pytest.fixture
def method() -> TAGI:
    return TAGI(made(exact_causal("llama"))).eval()


@pytest.fixture
def states(method: TAGI) -> TaskStates:
    return method.generator.prepare(TOLD_IDS, TOLD_MASK)


def test_prepared_states_have_the_prefix_of_their_own_bank(method: TAGI, states: TaskStates) -> None:
    check_prefix(method.generator, states)


def test_chosen_states_keep_theirs(method: TAGI, states: TaskStates) -> None:
    chosen = states.select(torch.tensor([1, 2, 1]))
    assert torch.equal(chosen.ids, TOLD_IDS[[1, 2, 1], : max(TOLD[1], TOLD[2])])  # type: ignore[arg-type]
    check_prefix(method.generator, chosen)


def test_moved_states_keep_theirs(method: TAGI, states: TaskStates) -> None:
    moved = states.to("cpu")
    assert moved.ids is not None
    check_prefix(method.generator, moved)


def test_crossed_states_have_the_prefix_of_the_other_lora(method: TAGI, states: TaskStates) -> None:
    crossed = cross_lora(method.generator, states, torch.tensor([1, 2, 0]))
    check_prefix(method.generator, crossed)
    assert crossed.cross is not None
    assert states.cross is not None
    assert not torch.allclose(crossed.cross[-1][0], states.cross[-1][0])


def test_zeroed_states_have_the_prefix_of_the_backbone(method: TAGI, states: TaskStates) -> None:
    check_prefix(method.generator, method.generator.states_from(states.read, states.bank.zero()))


@pytest.mark.parametrize("residual", ["zero", "mean"])
def test_states_under_another_residual_have_its_prefix(method: TAGI, states: TaskStates, residual: Any) -> None:
    bank = residual_bank(method.generator, residual, [states])
    under = method.generator.states_from(states.read, bank.select(torch.zeros(states.tasks, dtype=torch.long)))
    check_prefix(method.generator, under)
    for task in range(states.tasks):
        for place in bank.places:
            wanted = method.generator.shared_with(method.generator.generate_residual(states.states, states.mask))
            mean = torch.stack([wanted.delta(place, one) for one in range(states.tasks)]).mean(0)
            zero = LoraBank(method.generator.shared.factors(), 1.0).delta(place)  # type: ignore[union-attr]
            close(as_lora(under.bank, "a test").delta(place, task), mean if residual == "mean" else zero)


def test_states_without_prefix_are_the_lora_alone(method: TAGI, states: TaskStates) -> None:
    alone = states.without_states()
    assert alone.cross is None
    labels = LABELS[:, 0]
    with torch.no_grad():
        every = torch.ones(ROWS, dtype=torch.bool)
        forced = method.generator.logits(states.read, states.bank, ROWS_OF, IDS, MASK, labels, every)
    scores = score(rows_runner(method.generator, alone, ROWS_OF), IDS, MASK, LABELS)
    for row in range(ROWS):
        count = int((labels[row] != -100).sum())
        wanted = forced[row, :count].log_softmax(-1)[torch.arange(count), labels[row, :count]].sum()
        close(scores[row, :1], wanted.unsqueeze(0).to(scores.dtype))


def test_reloaded_adapters_answer_the_same(tmp_path: Path) -> None:
    generator = made(tiny_causal("llama"))
    adapter = generator.adapt(" ".join(WORDS[3:8]))
    assert isinstance(adapter, TaskAdapter)
    adapter.save(tmp_path / "one")
    again = TaskAdapter.load(tmp_path / "one", generator)
    check_prefix(generator, again.states)
    inputs = [" ".join(WORDS[20:26]), " ".join(WORDS[40:43])]
    assert again.predict(inputs) == adapter.predict(inputs)
    assert again.score(inputs, ["w1 w2", "w3"]) == adapter.score(inputs, ["w1 w2", "w3"])
    again.save(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_without_the_tokens_is_refused(tmp_path: Path) -> None:
    generator = made(tiny_causal("llama"))
    adapter = generator.adapt(" ".join(WORDS[3:8]))
    assert isinstance(adapter, TaskAdapter)
    adapter.states = replace(adapter.states, ids=None)
    adapter.save(tmp_path / "one")
    with pytest.raises(CheckpointError, match="'ids'"):
        TaskAdapter.load(tmp_path / "one", generator)


def test_a_saved_generator_has_its_shared_lora(tmp_path: Path) -> None:
    generator = made(tiny_causal("llama"))
    generator.save_pretrained(tmp_path)
    from tagi.formats.generator import load_generator

    again = load_generator(tmp_path, backbone=generator.backbone)
    assert again.settings == generator.settings
    found, wanted = again.prepare(TOLD_IDS, TOLD_MASK).bank.tensors(), generator.prepare(TOLD_IDS, TOLD_MASK).bank
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.tensors().items())


def test_remembered_states_change_no_loss_beyond_rounding() -> None:
    generator = made(exact_causal("llama"))
    memory, read = StatesMemory(), generator.read_instructions(TOLD_IDS, TOLD_MASK)
    calls = 0
    encode = generator.encode_instructions

    def counted(ids: Tensor, mask: Tensor) -> Tensor:
        nonlocal calls
        calls += len(ids)
        return encode(ids, mask)

    generator.encode_instructions = counted  # type: ignore[method-assign]
    for order in ([0, 1, 2], [2, 0, 2]):
        found = memory.read(generator, TOLD_IDS[order], TOLD_MASK[order])
        kept = TOLD_MASK[order]
        close(found.states[kept], read.states[order][kept])
        assert torch.equal(found.ids, TOLD_IDS[order])  # type: ignore[arg-type]
    assert calls == 3


def test_what_is_remembered_stays_below_its_limit() -> None:
    generator = made(tiny_causal("llama"))
    size = generator.backbone.d_model * 4
    memory = StatesMemory(limit=size * (TOLD[0] + TOLD[1]))
    for task in (0, 1, 2, 0):
        memory.read(generator, TOLD_IDS[task : task + 1], TOLD_MASK[task : task + 1])
        assert memory.size <= memory.limit


def test_training_forgets_nothing_that_a_fresh_start_would_not_know() -> None:
    """States are a function of the instruction alone, to the bit: a resumed run has the same."""
    generator = made(tiny_causal("llama"))
    full, fresh = StatesMemory(), StatesMemory()
    full.read(generator, TOLD_IDS, TOLD_MASK)
    found = full.read(generator, TOLD_IDS[1:], TOLD_MASK[1:])
    wanted = fresh.read(generator, TOLD_IDS[1:], TOLD_MASK[1:])
    assert torch.equal(found.states, wanted.states)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="instruction_cache"):
        AdapterGenerator(tiny_backbone(), SETTINGS, text_settings())
    for fusion in ("both", "concatenation", "attention"):
        with pytest.raises(ConfigError, match="fusion"):
            made(tiny_causal("llama"), fusion=fusion)
    with pytest.raises(ConfigError, match="sliding window"):
        made(tiny_causal("gemma2"))


def test_settings_of_older_checkpoints_stay_what_they_are() -> None:
    old = GeneratorSettings(kind="query", alpha=9.0, hidden=13, fusion="concatenation")
    assert not {"shared_rank", "shared_tune", "residual", "instruction_cache"} & old.as_dict().keys()
    assert GeneratorSettings.from_dict(old.as_dict()) == old
    assert GeneratorSettings.from_dict(SETTINGS.as_dict()) == SETTINGS
    with pytest.raises(CheckpointError, match="instruction_cache"):
        GeneratorSettings.from_dict({**SETTINGS.as_dict(), "instruction_cache": "kept"})
