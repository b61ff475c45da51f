"""What every method promises: rows get in a batch what they get alone, checkpoints give the method back."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.backbones.load import load_backbone
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError, InputError
from tagi.evaluation.conditions import cross_lora
from tagi.formats.generator import save_generator
from tagi.methods.concatenation import Concatenation
from tagi.methods.fid import FidICL
from tagi.methods.in_context import ConcatICL, EnsembleICL, InContext
from tagi.methods.load import load_method
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI
from tests.models import (
    CHOICES,
    INPUTS,
    INSTRUCTIONS,
    MODULES,
    ROW_TASKS,
    ROWS,
    TASKS,
    same,
    tasks,
    text_settings,
    tiny_backbone,
    tiny_generator,
    traces,
    words,
)

ROWS_OF = torch.tensor(ROW_TASKS)
Make = Callable[..., Method]


def tagi(folder: Path | None = None, **changed: Any) -> TAGI:
    return TAGI(tiny_generator(load_backbone(str(folder)) if folder else None, **changed))


def concatenation(folder: Path | None = None) -> Concatenation:
    backbone = load_backbone(str(folder)) if folder else tiny_backbone()
    return Concatenation(backbone, text_settings(max_input_tokens=40, positives=1))


def tagi_by_demonstrations(folder: Path | None = None) -> TAGI:
    generator = tiny_generator(load_backbone(str(folder)) if folder else None)
    generator.text = TextEncoder(generator.backbone.tokenizer, text_settings(reads="demonstrations"))
    return TAGI(generator)


def in_context(method: type[InContext], **changed: Any) -> Make:
    def make(folder: Path | None = None) -> Method:
        backbone = load_backbone(str(folder)) if folder else tiny_backbone()
        return method(backbone, text_settings(max_input_tokens=40, **changed))

    return make


METHODS: dict[str, Make] = {
    "tagi": tagi,
    "tagi attention": lambda folder=None: tagi(folder, fusion="attention"),
    "tagi concatenation": lambda folder=None: tagi(folder, fusion="concatenation"),
    "tagi none, pooled": lambda folder=None: tagi(folder, fusion="none", kind="pooled"),
    "hypter": lambda folder=None: tagi(folder, fusion="none", kind="pooled", **MODULES["bottleneck"]),
    "hyperprefix": lambda folder=None: tagi(folder, fusion="none", **MODULES["prefix"]),
    "hint": lambda folder=None: tagi(
        folder, fusion="concatenation", kind="component", tune="all", **MODULES["bottleneck+prefix"]
    ),
    "concatenation": concatenation,
    "tagi, demonstrations": tagi_by_demonstrations,
    "fid": in_context(FidICL),
    "fid, demonstrations": in_context(FidICL, reads="demonstrations"),
    "concat": in_context(ConcatICL),
    "ensemble": in_context(EnsembleICL),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@every_method
def test_every_row_gets_in_a_mixed_batch_what_it_gets_alone(make: Make) -> None:
    method = make().double().eval()
    known, only = tasks(), torch.tensor([0])
    states = method.prepare(known)
    alone = [method.prepare([task]) for task in known]
    together = method.predict(states, ROWS_OF, INPUTS, max_new_tokens=4)
    for row, task in enumerate(ROW_TASKS):
        found = method.predict(alone[task], only, [INPUTS[row]], max_new_tokens=4)
        assert found == [together[row]]
    scores = {
        reduction: method.score_choices(states, ROWS_OF, INPUTS, CHOICES, reduction=reduction)
        for reduction in ("sum", "mean")
    }
    for row, task in enumerate(ROW_TASKS):
        for reduction in ("sum", "mean") if len(CHOICES[row]) == 3 else ("sum",):
            found = method.score_choices(alone[task], only, [INPUTS[row]], [CHOICES[row]], reduction=reduction)
            assert len(found[0]) == len(CHOICES[row])
            assert scores[reduction][row] == pytest.approx(found[0], rel=1e-6)
    others = method.score_choices(states, (ROWS_OF + 1) % TASKS, INPUTS, CHOICES)
    for one, other in zip(others, scores["sum"], strict=True):
        assert one != pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("make", [tagi, concatenation, METHODS["fid"], METHODS["concat"]])
def test_every_row_gets_the_beams_it_gets_alone(make: Make) -> None:
    method = make().double().eval()
    known, only = tasks(), torch.tensor([0])
    states = method.prepare(known)
    together = method.predict(states, ROWS_OF, INPUTS, max_new_tokens=4, num_beams=3)
    alone = [method.prepare([task]) for task in known]
    for row, task in enumerate(ROW_TASKS):
        found = method.predict(alone[task], only, [INPUTS[row]], max_new_tokens=4, num_beams=3)
        assert found == [together[row]]
    assert together != method.predict(states, ROWS_OF, INPUTS, max_new_tokens=4)
    assert together != method.predict(states, (ROWS_OF + 1) % TASKS, INPUTS, max_new_tokens=4, num_beams=3)


def test_the_logits_of_a_mixed_batch_are_each_rows_own() -> None:
    method = tagi().double()
    known = tasks()
    samples = [
        Sample(known[task], INSTRUCTIONS[task], INPUTS[row], CHOICES[row][-1]) for row, task in enumerate(ROW_TASKS)
    ]
    with torch.no_grad():
        together, _ = method.generator(**method.collate(samples))
        for row, sample in enumerate(samples):
            alone, _ = method.generator(**method.collate([sample]))
            same(together[row : row + 1, : alone.shape[1]], alone)


@every_method
def test_one_task_prepared_for_many_rows(make: Make) -> None:
    method = make().eval()
    states = method.prepare(tasks())
    rows = torch.full((ROWS,), 1)
    wanted = method.predict(method.prepare(tasks()[1:2]), rows * 0, INPUTS, max_new_tokens=4)
    assert method.predict(states, rows, INPUTS, max_new_tokens=4) == wanted


@every_method
def test_without_its_instruction_a_method_is_the_input_alone(make: Make) -> None:
    method = make().eval()
    bare = concatenation()
    states = bare.without_instruction(bare.prepare(tasks()))
    wanted = bare.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    silent = method.without_instruction(method.prepare(tasks()))
    assert method.score_choices(silent, ROWS_OF, INPUTS, CHOICES) == wanted
    for beams in (1, 3) if make is not METHODS["ensemble"] else (1,):
        found = method.predict(silent, ROWS_OF, INPUTS, max_new_tokens=5, num_beams=beams)
        assert found == bare.predict(states, ROWS_OF, INPUTS, max_new_tokens=5, num_beams=beams)
        assert found != method.predict(method.prepare(tasks()), ROWS_OF, INPUTS, max_new_tokens=5, num_beams=beams)


@every_method
def test_asking_leaves_nothing(make: Make) -> None:
    method = make().eval()
    before = list(traces(method))
    states = method.prepare(tasks())
    method.predict(states, ROWS_OF, INPUTS, max_new_tokens=2, num_beams=1 if make is METHODS["ensemble"] else 2)
    method.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    assert list(traces(method)) == before


@every_method
def test_texts_over_the_limit_are_refused_or_cut(make: Make) -> None:
    method = make().eval()
    long = [Task("long", "c", words(1, 50), (), shots=(Example(words(1, 44), words(2, 1)),))]
    if method.reads_instruction or isinstance(method, TAGI):
        with pytest.raises(InputError, match=r"got 5[12]"):
            method.prepare(long)
    states = method.prepare(long, truncate=True)
    one, far = torch.tensor([0]), [words(2, 60)]
    known = method.prepare(tasks())
    with pytest.raises(InputError, match="expected at most"):
        method.predict(known, one, far, max_new_tokens=2)
    with pytest.raises(InputError, match="expected at most"):
        method.score_choices(known, one, far, [CHOICES[3]])
    assert len(method.predict(states, one, far, max_new_tokens=2, truncate=True)) == 1
    assert len(method.score_choices(states, one, far, [CHOICES[3]], truncate=True)[0]) == 4


@every_method
def test_a_step_trains_every_trained_tensor(make: Make) -> None:
    method = make()
    known = tasks()
    samples = [
        Sample(known[task], INSTRUCTIONS[task], INPUTS[row], CHOICES[row][0]) for row, task in enumerate(ROW_TASKS)
    ]
    batch = method.collate(samples)
    terms = method(**batch)
    assert terms.keys() == {"loss", "prediction"}
    assert torch.equal(terms["loss"], terms["prediction"])
    terms["loss"].backward()
    trained = method.trained_tensors()
    assert trained.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    assert all(tensor.grad is not None for tensor in trained.values())


@every_method
def test_a_method_saved_and_loaded_is_the_same(make: Make, backbone_folder: Path, tmp_path: Path) -> None:
    method = make(backbone_folder).eval()
    with torch.no_grad():
        for tensor in method.trained_tensors().values():
            tensor.mul_(1.1)
    method.save(tmp_path / "one", {"steps": 3})
    again = load_method(tmp_path / "one")
    assert type(again) is type(method)
    assert not again.training
    again.save(tmp_path / "two", {"steps": 3})
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.suffix in (".json", ".safetensors", ".md")
    found, wanted = (one.score_choices(one.prepare(tasks()), ROWS_OF, INPUTS, CHOICES) for one in (again, method))
    assert found == wanted


def test_a_method_that_is_not_known(backbone_folder: Path, tmp_path: Path) -> None:
    concatenation(backbone_folder).save(tmp_path / "one")
    save_generator(tiny_generator(load_backbone(str(backbone_folder))), tmp_path / "two")
    with pytest.raises(CheckpointError, match="expected a generator, got a checkpoint of method 'concatenation'"):
        TAGI.load(tmp_path / "one")
    with pytest.raises(CheckpointError, match="expected method 'concatenation', got 'tagi'"):
        Concatenation.load(tmp_path / "two")
    config = tmp_path / "one" / "config.json"
    config.write_text(config.read_text().replace('"concatenation"', '"telepathy"'))
    known = "tagi, concatenation, causal-concatenation, single-task, concat-icl, fid-icl, ensemble-icl"
    with pytest.raises(CheckpointError, match=f"expected a method among {known}, got 'telepathy'"):
        load_method(tmp_path / "one")


def test_a_batch_holds_every_distinct_instruction_once() -> None:
    method = tagi()
    known = tasks()
    paraphrase = words(77, 6)
    wordings = [(2, INSTRUCTIONS[2]), (0, INSTRUCTIONS[0]), (2, paraphrase), (0, INSTRUCTIONS[0]), (1, INSTRUCTIONS[2])]
    batch = method.collate([Sample(known[task], text, INPUTS[at], "a") for at, (task, text) in enumerate(wordings)])
    assert batch["rows"].tolist() == [0, 1, 2, 1, 3]
    assert batch["instruction_mask"].sum(1).tolist() == [14, 10, 7, 14]
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 5
    assert torch.equal(batch["instruction_ids"][0], batch["instruction_ids"][3])


def test_two_episodes_of_a_task_are_two_adapters() -> None:
    method, task = tagi_by_demonstrations(), tasks()[0]
    first, second = task.shots
    samples = [
        Sample(task, "not read", INPUTS[at], "a", shots) for at, shots in enumerate([(first,), (second,), (first,)])
    ]
    batch = method.collate(samples)
    assert batch["rows"].tolist() == [0, 1, 0]
    ends = batch["instruction_mask"].sum(1).tolist()
    assert ends == [len(method.text.demonstration(one)) + 1 for one in (first, second)]


def test_demonstrations_are_read_with_the_instruction() -> None:
    shown = Task("shown", "c", INSTRUCTIONS[1], (), (Example(words(8, 3), words(9, 1)),))
    method = concatenation()
    ids = method.collate([Sample(shown, INSTRUCTIONS[1], INPUTS[0], "a")])["input_ids"]
    assert ids.shape == (1, 4 + (3 + 1 + 1) + 3 + 1)
    generator = tiny_generator()
    read = TAGI(type(generator)(generator.backbone, generator.settings, text_settings(positives=1)))
    assert read.prepare([shown]).mask.shape == (1, 4 + 5 + 1)
    assert read.collate([Sample(shown, INSTRUCTIONS[1], INPUTS[0], "a")])["instruction_ids"].shape == (1, 10)


@pytest.mark.parametrize("name", MODULES)
def test_channels_of_what_is_not_lora_are_not_crossed(name: str) -> None:
    method = tagi(**MODULES[name])
    states = method.prepare(tasks())
    wanted = re.escape(f"crossed channels: expected a bank of LoRA, got {states.bank.module}")
    with pytest.raises(ValueError, match=f"^{wanted}$"):
        cross_lora(method.generator, states, torch.tensor([1, 2, 0]))
    alone = method.generator.states_from(states.read, states.bank.zero())
    assert alone.cross is not None
    bare = method.generator.backbone.cross_keys_values(states.states)
    assert torch.equal(alone.cross[1][1], bare[1][1])


def test_channels_can_be_crossed() -> None:
    """LoRA of one task with another's instruction states; the decoder's values over them follow the LoRA."""
    method = tagi().double()
    states = method.prepare(tasks())
    swapped = cross_lora(method.generator, states, torch.tensor([1, 2, 0]))
    assert torch.equal(swapped.states, states.states)
    module = "decoder.block.1.layer.1.EncDecAttention.v"
    assert torch.equal(swapped.bank.delta(module, 0), states.bank.delta(module, 1))
    assert swapped.cross is not None
    assert states.cross is not None
    assert not torch.equal(swapped.cross[1][1], states.cross[1][1])
    assert torch.equal(swapped.cross[1][0], states.cross[1][0])  # keys are no target module
    right = cross_lora(method.generator, states, torch.arange(TASKS))
    assert right.cross is not None
    same(right.cross[1][1], states.cross[1][1])
    alone = method.generator.states_from(states.read, states.bank.zero())
    assert alone.cross is not None
    bare = method.generator.backbone.cross_keys_values(states.states)
    assert torch.equal(alone.cross[1][1], bare[1][1])
    scores = [
        method.score_choices(one, ROWS_OF, INPUTS, CHOICES)[1][1]
        for one in (states, swapped, alone, states.without_states(), method.without_instruction(states))
    ]
    assert len({round(number, 6) for number in scores}) == 5
