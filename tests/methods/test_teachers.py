"""Teachers: whose LoRA each row gets, that a student's call does not disturb them, and what a catalogue refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import BaseModel, initial_factors
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.errors import CheckpointError, ConfigError
from tagi.formats.peft import write_lora
from tagi.methods.concatenation import Concatenation
from tagi.methods.lora import inject_lora, lora_bank, reset_lora
from tagi.methods.objective.teachers import CATALOGUE, Catalogue, ConcatenatedTeacher, read_catalogue
from tagi.settings.generator import LoraShape
from tests.models import (
    ALPHA,
    IDENTITY,
    INPUTS,
    INSTRUCTIONS,
    RANK,
    random_bank,
    same,
    text_settings,
    tiny_backbone,
    tiny_generator,
    words,
)

CATEGORIES = ("b", "a", "c", "d")
TEXT = text_settings(max_input_tokens=40)


def samples(categories: tuple[str, ...]) -> list[Sample]:
    return [
        Sample(Task(f"task {at}", category, INSTRUCTIONS[at % 3], ()), INSTRUCTIONS[at % 3], INPUTS[at], words(at, 2))
        for at, category in enumerate(categories)
    ]


def catalogue(backbone: T5Backbone) -> Catalogue:
    return Catalogue(CATEGORIES, random_bank(backbone.target_modules, tasks=len(CATEGORIES)).map(lambda x: x.double()))


def labels_of(teacher: ConcatenatedTeacher, rows: list[Sample]) -> torch.Tensor:
    return teacher.text.labels([teacher.text.target(row.target) for row in rows])


def test_each_row_is_taught_by_its_own_category() -> None:
    backbone = tiny_backbone().double()
    teacher = ConcatenatedTeacher(backbone, TEXT, catalogue(backbone)).double()
    rows = samples(("c", "a", "c", "b", "d"))
    together = teacher.logits(teacher.collate(rows), labels_of(teacher, rows))
    assert not together.requires_grad
    for at, row in enumerate(rows):
        alone = teacher.logits(teacher.collate([row]), labels_of(teacher, [row]))
        same(together[at, : alone.shape[1]], alone[0])
        wrong = Sample(
            Task("t", "a" if row.task.category != "a" else "b", "i", ()), row.instruction, row.input, row.target
        )
        other = teacher.logits(teacher.collate([wrong]), labels_of(teacher, [wrong]))
        assert float((other - alone).abs().max()) > 1e-3


def test_a_teacher_reads_instruction_and_input() -> None:
    backbone = tiny_backbone().double()
    teacher = ConcatenatedTeacher(backbone, TEXT)
    rows = samples(("x", "y", "z"))
    method = Concatenation(backbone, TEXT)
    batch = method.collate(rows)
    expected = backbone.logits(
        backbone.encode(batch["input_ids"], batch["input_mask"]), batch["input_mask"], batch["labels"]
    )
    same(teacher.logits(teacher.collate(rows), batch["labels"]), expected)


def test_a_teacher_inside_its_student_feels_neither_adapter_nor_dropout() -> None:
    generator = tiny_generator(tiny_backbone(dropout_rate=0.3)).double()
    backbone = generator.backbone
    teacher = ConcatenatedTeacher(backbone, TEXT, catalogue(backbone))
    rows = samples(("a", "b"))
    batch, labels = teacher.collate(rows), labels_of(teacher, rows)
    expected = teacher.logits(batch, labels)
    generator.train()
    before = [module.training for module in backbone.modules()]
    bank = random_bank(backbone.target_modules, tasks=1, seed=9).map(lambda x: x.double())
    with Attachment(bank.hooks(backbone.target_layers)).active():
        found = teacher.logits(batch, labels)
    assert torch.equal(found, expected)
    assert [module.training for module in backbone.modules()] == before
    assert any(before)


def test_a_category_without_a_teacher_is_named() -> None:
    backbone = tiny_backbone()
    teacher = ConcatenatedTeacher(backbone, TEXT, catalogue(backbone))
    with pytest.raises(CheckpointError, match="category 'z'"):
        teacher.collate(samples(("a", "z")))


def test_pefts_lora_is_the_bank_that_is_read_out_of_it() -> None:
    shape = LoraShape(RANK, ALPHA, seed=3)
    plain, tuned = tiny_backbone().double(), tiny_backbone().double()
    method = Concatenation(tuned, TEXT, shape).double()
    start = initial_factors(plain.target_modules, RANK, 3)
    assert set(method.trained_tensors())
    assert all("lora_" in name for name in method.trained_tensors())
    for module, (a, b) in lora_bank(tuned, shape).factors.items():
        assert torch.equal(a[0].float(), start[module])
        assert not b.any()
    with torch.no_grad():
        for at, parameter in enumerate(method.trained_tensors().values()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(at)) * 0.2)
    batch = method.collate(samples(("a", "b", "c")))
    bank = lora_bank(tuned, shape)
    with Attachment(bank.hooks(plain.target_layers)).active():
        states = plain.encode(batch["input_ids"], batch["input_mask"])
        expected = plain.logits(states, batch["input_mask"], batch["labels"])
    found = tuned.logits(tuned.encode(batch["input_ids"], batch["input_mask"]), batch["input_mask"], batch["labels"])
    same(found, expected)
    reset_lora(tuned, shape)
    assert all(not b.any() for _, b in lora_bank(tuned, shape).factors.values())


def test_the_generator_starts_from_the_teachers_start() -> None:
    generator = tiny_generator(seed=6)
    start = initial_factors(generator.backbone.target_modules, RANK, 6)
    for module in generator.backbone.target_modules:
        assert torch.equal(generator.hypernetwork.heads.start(module.path), start[module.path])  # type: ignore[union-attr, operator]


def write_catalogue(folder: Path, bank: LoraBank, **changed: Any) -> None:
    entries = []
    for at, category in enumerate(CATEGORIES[: bank.tasks]):
        teacher = folder / category
        teacher.mkdir()
        one = bank.select(torch.tensor([at]))
        write_lora(teacher, one, tiny_backbone())
        entries.append({"category": category, "path": category})
    content = {"base_model": {"name": IDENTITY.name, "revision": IDENTITY.revision}, "planned": bank.tasks}
    content |= {"teachers": entries, **changed}
    (folder / CATALOGUE).write_text(json.dumps(content))


def test_a_catalogue_is_read_as_one_bank(tmp_path: Path) -> None:
    bank = random_bank(tiny_backbone().target_modules, tasks=3)
    write_catalogue(tmp_path, bank)
    found = read_catalogue(tmp_path, IDENTITY, rank=RANK, scale=ALPHA / RANK)
    assert found.categories == CATEGORIES[:3]
    assert [found.index(name) for name in ("a", "b", "z")] == [1, 0, -1]
    assert found.bank.scale == bank.scale
    for module, (a, b) in found.bank.factors.items():
        assert torch.equal(a, bank.factors[module][0])
        assert torch.equal(b, bank.factors[module][1])
    assert not list(found.parameters())
    assert not found.state_dict()


def test_a_catalogue_of_another_base_rank_or_scale_is_refused(tmp_path: Path) -> None:
    write_catalogue(tmp_path, random_bank(tiny_backbone().target_modules, tasks=2))
    with pytest.raises(CheckpointError, match=r"other \(sha256:0\).*got tiny"):
        read_catalogue(tmp_path, BaseModel("other", "sha256:0"), rank=RANK, scale=ALPHA / RANK)
    with pytest.raises(CheckpointError, match=f"expected rank {RANK + 1} .* got {RANK} and"):
        read_catalogue(tmp_path, IDENTITY, rank=RANK + 1, scale=ALPHA / RANK)
    with pytest.raises(CheckpointError, match=r"alpha / rank 7 .*got 4 and 2.5"):
        read_catalogue(tmp_path, IDENTITY, rank=RANK, scale=7.0)


def test_a_damaged_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a catalogue"):
        read_catalogue(tmp_path, IDENTITY, rank=RANK, scale=ALPHA / RANK)
    write_catalogue(tmp_path, random_bank(tiny_backbone().target_modules, tasks=2))
    weights = tmp_path / CATEGORIES[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=f"{CATEGORIES[1]}/adapter_model.safetensors: expected whole safetensors"):
        read_catalogue(tmp_path, IDENTITY, rank=RANK, scale=ALPHA / RANK)


def test_a_catalogue_whose_training_is_not_finished_is_refused(tmp_path: Path) -> None:
    write_catalogue(tmp_path, random_bank(tiny_backbone().target_modules, tasks=2), planned=5)
    with pytest.raises(CheckpointError, match=r"expected all 5 teachers, got 2: .* --resume"):
        read_catalogue(tmp_path, IDENTITY, rank=RANK, scale=ALPHA / RANK)


def test_a_lora_variant_is_saved_and_loaded(tmp_path: Path, backbone_folder: Path) -> None:
    from tagi.backbones.load import load_backbone
    from tagi.methods.load import load_method

    method = Concatenation(load_backbone(str(backbone_folder)), TEXT, LoraShape(RANK, ALPHA, 2))
    with torch.no_grad():
        for parameter in method.trained_tensors().values():
            parameter.add_(0.1)
    method.save(tmp_path / "model")
    loaded = load_method(tmp_path / "model")
    assert isinstance(loaded, Concatenation)
    assert loaded.lora == method.lora
    for name, tensor in method.trained_tensors().items():
        assert torch.equal(loaded.trained_tensors()[name], tensor)


def test_injection_trains_nothing_else() -> None:
    backbone = tiny_backbone()
    inject_lora(backbone, LoraShape(RANK, ALPHA))
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(backbone.target_modules)
    with pytest.raises(ConfigError, match="a LoRA itself"):
        inject_lora(backbone, LoraShape(RANK, ALPHA))
