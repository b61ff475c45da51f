"""Task adapters: answering, scoring, and a folder that gives the same adapter back or says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import BaseModel
from tagi.errors import CheckpointError, InputError, TagiError
from tagi.formats.peft import CONFIG, WEIGHTS
from tagi.formats.records import AdapterRecord
from tagi.formats.task_adapter import MODULE, STATES, generator_digest
from tagi.hypernetwork.inference import answer, rows_runner, score
from tests.models import (
    CHOICES,
    INPUTS,
    INSTRUCTIONS,
    MODULES,
    ROWS,
    TASKS,
    fresh_generator,
    same,
    tiny_backbone,
    tiny_generator,
    traces,
    words,
)

Damage = Callable[[Path], Any]
RECORD = AdapterRecord.FILE


def adapters(generator: AdapterGenerator) -> list[TaskAdapter]:
    made = generator.adapt(INSTRUCTIONS)
    assert isinstance(made, list)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_adapter_moves_with_its_generator() -> None:
    generator = tiny_generator()
    adapter = adapters(generator)[0]
    runner = adapter.runner()
    assert adapter.to("meta") is adapter
    assert {tensor.device.type for tensor in generator.state_dict().values()} == {"meta"}
    assert adapter.states.mask.device.type == adapter.states.states.device.type == "meta"
    assert adapter.runner() is not runner


def test_one_instruction_gives_one_adapter_and_several_a_list() -> None:
    generator = tiny_generator().double()
    made = adapters(generator)
    assert len(made) == TASKS
    for task, text in enumerate(INSTRUCTIONS):
        alone = generator.adapt(text)
        assert isinstance(alone, TaskAdapter)
        assert (alone.instruction, alone.examples) == (text, ())
        assert alone.bank.tasks == 1
        for module, factors in alone.bank.factors.items():
            for found, wanted in zip(made[task].bank.factors[module], factors, strict=True):
                same(found, wanted)
    with pytest.raises(InputError, match="expected an instruction, got none"):
        generator.adapt([])


def test_demonstrations_are_part_of_the_instruction() -> None:
    text = {"encoding": "plain", "positives": 2, "max_instruction_tokens": 40}
    generator = tiny_generator()
    shown = AdapterGenerator(generator.backbone, generator.settings, type(generator.text.settings)(**text))
    with_examples = shown.adapt(INSTRUCTIONS[0], [(words(50, 2), words(51, 1)), (words(52, 3), words(53, 2))])
    assert isinstance(with_examples, TaskAdapter)
    assert with_examples.states.mask.shape == (1, 10 + 2 + 1 + 1 + 3 + 1 + 2)
    assert [example.output for example in with_examples.examples] == [words(51, 1), words(53, 2)]


def test_merged_answers_and_scores_are_those_of_the_batch() -> None:
    generator = tiny_generator().double()
    states = generator.prepare(*generator.text.batch([generator.text.instruction(t) for t in INSTRUCTIONS]))
    ids, mask = generator.text.batch([generator.text.input(text) for text in INPUTS])
    labels = generator.text.choice_labels(CHOICES)
    answers = []
    for task, adapter in enumerate(adapters(generator)):
        rows = torch.full((ROWS,), task)
        for reduction in ("sum", "mean"):
            wanted = score(rows_runner(generator, states, rows), ids, mask, labels, reduction)
            for row, found in enumerate(adapter.score(INPUTS, CHOICES, reduction=reduction)):
                assert found == pytest.approx(wanted[row, : len(CHOICES[row])].tolist(), rel=1e-6)
        for beams in (1, 3):
            runner = rows_runner(generator, states, rows)
            wanted_ids = answer(runner, ids, mask, max_new_tokens=5, num_beams=beams)
            answers.append(adapter.predict(INPUTS, max_new_tokens=5, num_beams=beams))
            assert answers[-1] == generator.text.decode(wanted_ids)
    assert len({str(one) for one in answers}) == 2 * TASKS


def test_the_order_and_size_of_batches_do_not_matter() -> None:
    adapter = adapters(tiny_generator())[0]
    wanted = adapter.predict(INPUTS)
    assert adapter.predict(INPUTS, batch_size=2) == adapter.predict(INPUTS, batch_size=1) == wanted
    assert adapter.predict(INPUTS[::-1], batch_size=3) == list(wanted)[::-1]
    assert [adapter.predict(text) for text in INPUTS] == wanted
    assert adapter.predict([]) == []
    flat = adapter.score(INPUTS, CHOICES[3])
    assert [len(row) for row in flat] == [4] * ROWS
    for row, text in zip(flat, INPUTS, strict=True):
        assert adapter.score([text], CHOICES[3])[0] == pytest.approx(row, rel=1e-4)
        assert adapter.score([text], [CHOICES[3]], batch_size=1)[0] == pytest.approx(row, rel=1e-4)
    assert [len(row) for row in adapter.score(INPUTS, CHOICES, batch_size=2)] == [len(row) for row in CHOICES]


def test_answers_are_no_longer_than_allowed() -> None:
    adapter = adapters(tiny_generator())[0]
    lengths = [max(len(text.split()) for text in adapter.predict(INPUTS, max_new_tokens=n)) for n in (1, 3)]
    assert lengths == [1, 3]
    longest = max(len(text.split()) for text in adapter.predict(INPUTS))
    assert longest == adapter.generator.text.settings.max_target_tokens


def test_what_cannot_be_processed_is_named_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny_generator()
    adapter = adapters(generator)[0]
    monkeypatch.setattr(generator.backbone.model, "encoder", None)
    with pytest.raises(InputError, match="input 2 of 3: expected an input, got an empty text"):
        adapter.predict([INPUTS[0], " ", INPUTS[1]])
    with pytest.raises(InputError, match="input 1 of 1: expected at most 21 tokens, got 31"):
        adapter.score([words(1, 30)], ["a"])
    with pytest.raises(InputError, match="expected at most 17 tokens, got 31"):
        generator.adapt(words(1, 30))
    with pytest.raises(InputError, match="expected choices to score, got none"):
        adapter.score(INPUTS, [])
    with pytest.raises(InputError, match="expected a list of choices for each of 7 inputs, got 2"):
        adapter.score(INPUTS, [["a"], ["b"]])
    with pytest.raises(InputError, match="expected a list of choices for each of 7 inputs"):
        adapter.score(INPUTS, [["a"], [], *[["b"]] * 5])


def test_long_texts_can_be_cut() -> None:
    generator = tiny_generator()
    adapter = generator.adapt(words(1, 30), truncate=True)
    assert isinstance(adapter, TaskAdapter)
    assert adapter.states.mask.shape == (1, 17)
    assert adapter.predict(words(2, 40), truncate=True) == adapter.predict(words(2, 20))
    assert adapter.score([words(2, 40)], ["a"], truncate=True) == adapter.score([words(2, 20)], ["a"])


def test_adapting_and_answering_in_training_have_no_dropout_and_leave_the_mode() -> None:
    generator = tiny_generator()
    wanted = [adapter.score(INPUTS, CHOICES) for adapter in adapters(generator)]
    generator.train()
    before = list(traces(generator))
    assert [adapter.score(INPUTS, CHOICES) for adapter in adapters(generator)] == wanted
    assert list(traces(generator)) == before


def test_an_adapter_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    generator = tiny_generator()
    for at, adapter in enumerate(adapters(generator)):
        folder = tmp_path / str(at)
        adapter.save(folder)
        again = TaskAdapter.load(folder, generator)
        assert again.instruction == adapter.instruction
        assert again.predict(INPUTS) == adapter.predict(INPUTS)
        for module, factors in adapter.bank.factors.items():
            assert all(map(torch.equal, again.bank.factors[module], factors))
        again.save(tmp_path / f"{at} again")
        assert contents(folder) == contents(tmp_path / f"{at} again")
        assert set(contents(folder)) == {CONFIG, WEIGHTS, STATES, RECORD}
    assert contents(tmp_path / "0")[WEIGHTS] != contents(tmp_path / "1")[WEIGHTS]
    made = generator.adapt(INSTRUCTIONS[0], [(words(3, 2), words(4, 1))])
    assert isinstance(made, TaskAdapter)
    made.save(str(tmp_path / "0"), overwrite=True)
    assert TaskAdapter.load(str(tmp_path / "0"), generator).examples == made.examples
    with pytest.raises(TagiError, match="expected a new or empty folder"):
        made.save(tmp_path / "0")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_not_lora_is_in_a_file_of_ours(tmp_path: Path, name: str) -> None:
    generator = tiny_generator(**MODULES[name])
    made = adapters(generator)
    for at, adapter in enumerate(made):
        folder = tmp_path / str(at)
        adapter.save(folder)
        assert set(contents(folder)) == {MODULE, STATES, RECORD}
        assert AdapterRecord.read(folder).module == generator.settings.module
        again = TaskAdapter.load(folder, generator)
        assert again.predict(INPUTS) == adapter.predict(INPUTS)
        assert again.score(INPUTS, CHOICES) == adapter.score(INPUTS, CHOICES)
        wanted = adapter.bank.tensors()
        assert again.bank.tensors().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in again.bank.tensors().items())
        again.save(tmp_path / f"{at} again")
        assert contents(folder) == contents(tmp_path / f"{at} again")
    assert contents(tmp_path / "0")[MODULE] != contents(tmp_path / "1")[MODULE]
    alone = generator.prepare(*generator.text.batch([generator.text.instruction(INSTRUCTIONS[0])]))
    TaskAdapter(generator, alone, INSTRUCTIONS[0]).save(tmp_path / "alone")  # not selected from several
    assert load_file(tmp_path / "alone" / MODULE).keys() == made[0].bank.tensors().keys()
    lora = tiny_generator()
    adapters(lora)[0].save(tmp_path / "lora")
    assert "module" not in json.loads((tmp_path / "lora" / RECORD).read_text())
    assert f"expected the generator {generator_digest(generator)}" in fault(tmp_path / "0", lora)


def test_generated_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made = tiny_generator().adapt(INSTRUCTIONS[2])
        assert isinstance(made, TaskAdapter)
        made.save(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_hub_backbone_is_pinned_by_its_commit(tmp_path: Path) -> None:
    generator = tiny_generator()
    generator.backbone.identity = BaseModel("someone/t5", "f" * 40)
    adapters(generator)[0].save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/t5", "f" * 40)
    assert AdapterRecord.read(tmp_path / "adapter").base_model == BaseModel("someone/t5", "f" * 40)


def test_the_digest_is_of_settings_and_tensors(backbone_folder: Path) -> None:
    wanted = generator_digest(tiny_generator())
    assert generator_digest(tiny_generator()) == wanted
    others = [fresh_generator(), tiny_generator(seed=1), tiny_generator(alpha=3.0), tiny_generator(tune="ffn")]
    gate = tiny_generator()
    assert gate.fusion is not None
    with torch.no_grad():
        gate.fusion.layers[1].gate.add_(1e-3)
    digests = [generator_digest(generator) for generator in [*others, gate]]
    assert len({wanted, *digests}) == 6
    loaded = tiny_generator(load_backbone(str(backbone_folder)))
    assert generator_digest(loaded) == wanted  # the backbone is pinned apart


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Path:
    adapters(tiny_generator())[0].save(tmp_path / "adapter")
    return tmp_path / "adapter"


def fault(folder: Path, generator: AdapterGenerator) -> str:
    with pytest.raises(CheckpointError) as caught:
        TaskAdapter.load(folder, generator)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_another_base_model_or_generator_is_refused_and_both_are_shown(adapter_folder: Path) -> None:
    other = tiny_backbone()
    other.identity = BaseModel("other", "sha256:9")
    message = fault(adapter_folder, tiny_generator(other))
    assert "expected base model tiny (sha256:0123456789abcdef), got other (sha256:9)" in message
    wanted, found = generator_digest(tiny_generator()), generator_digest(fresh_generator())
    assert f"expected the generator {wanted}, got {found}" in fault(adapter_folder, fresh_generator())


def change_record(**changed: Any) -> Damage:
    def change(folder: Path) -> None:
        record = {**json.loads((folder / RECORD).read_text()), **changed}
        (folder / RECORD).write_text(json.dumps(record))

    return change


def change_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return damage


def truncated(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


Q = "base_model.model.encoder.block.1.layer.0.SelfAttention.q"


def drop_site(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{Q}.lora_A.weight"], tensors[f"{Q}.lora_B.weight"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: shutil.rmtree(folder), f"expected the record of a task adapter ({RECORD}), got no such file"),
        (
            lambda folder: (folder / RECORD).write_text("{"),
            f"{RECORD}: expected the record of a task adapter; Inv",
        ),
        (
            lambda folder: (folder / RECORD).write_text("[]"),
            "task adapter; expected an object, got []",
        ),
        (change_record(instruction=None), "'instruction': expected a valid string, got None"),
        (change_record(base_model="tiny"), "'base_model': expected an object, got 'tiny'"),
        (change_record(base_model={"name": "tiny"}), "'base_model.revision': expected a value, got none"),
        (change_record(examples=[{"input": "x"}]), "'examples.0.output': expected a value, got none"),
        (truncated(STATES), "got a damaged file"),
        (lambda folder: (folder / STATES).unlink(), f"expected {STATES}, got no such file"),
        (change_tensors(STATES, lambda tensors: tensors.pop("mask")), "tensor 'mask' is missing (1 such)"),
        (
            change_tensors(STATES, lambda t: t.update(mask=torch.ones(3).bool())),
            "expected 'states' of shape (3, 24), got (10, 24)",
        ),
        (
            change_tensors(STATES, lambda t: t.update(states=torch.ones(10, 7))),
            "expected 'states' of shape (10, 24), got (10, 7)",
        ),
        (truncated(WEIGHTS), "got a damaged file"),
        (change_tensors(WEIGHTS, drop_site), "tensor 'encoder.block.1.layer.0.SelfAttention.q.A' is missing (2 such)"),
        (
            change_tensors(WEIGHTS, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 7)})),
            "expected 'encoder.block.1.layer.0.SelfAttention.q.A' of shape (1, 4, 24), got (1, 4, 7)",
        ),
        (
            change_tensors(WEIGHTS, lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(24, 4)})),
            "expected 'encoder.block.1.layer.0.SelfAttention.q.B' of shape (1, 15, 4), got (1, 24, 4)",
        ),
    ],
)
def test_damage_is_named(adapter_folder: Path, damage: Damage, named: str) -> None:
    generator = tiny_generator()
    TaskAdapter.load(adapter_folder, generator)
    damage(adapter_folder)
    assert named in fault(adapter_folder, generator)


PLACE = "decoder.block.1.layer.2.DenseReluDense"


def changed_module(**changed: torch.Tensor) -> Damage:
    return change_tensors(MODULE, lambda tensors: tensors.update({f"{PLACE}.{k}": v for k, v in changed.items()}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncated(MODULE), "got a damaged file"),
        (lambda folder: (folder / MODULE).unlink(), f"expected {MODULE}, got no such file"),
        (change_tensors(MODULE, lambda tensors: tensors.pop(f"{PLACE}.up")), f"'{PLACE}.up' is missing (1 such)"),
        (changed_module(more=torch.ones(2)), f"tensor '{PLACE}.more' is unexpected (1 such)"),
        (changed_module(down=torch.ones(24, 7)), f"expected '{PLACE}.down' of shape (7, 24), got (24, 7)"),
        (changed_module(up_bias=torch.full((24,), torch.inf)), f"got NaN or infinity in '{PLACE}.up_bias'"),
    ],
)
def test_damage_to_a_module_is_named(tmp_path: Path, damage: Damage, named: str) -> None:
    generator = tiny_generator(**MODULES["bottleneck+prefix"])
    adapters(generator)[0].save(tmp_path / "adapter")
    TaskAdapter.load(tmp_path / "adapter", generator)
    damage(tmp_path / "adapter")
    assert named in fault(tmp_path / "adapter", generator)
