"""The finetuning objective on a whole step: which terms it has, where gradients go, and what caches may stand for."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.api.generator import AdapterGenerator
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.errors import CheckpointError
from tagi.methods.objective.losses import contrast_loss, distillation_loss, product_alignment, row_losses
from tagi.methods.objective.objective import Objective
from tagi.methods.objective.teacher_cache import CacheWriter, TeacherCache, distinct_samples, sample_key
from tagi.methods.objective.teachers import Catalogue, ConcatenatedTeacher, freeze
from tagi.methods.tagi import TAGI
from tagi.settings.losses import LossSettings
from tests.models import (
    INPUTS,
    INSTRUCTIONS,
    MODULES,
    fresh_generator,
    random_bank,
    text_settings,
    tiny_backbone,
    tiny_generator,
    tokenizer,
    words,
)

CATEGORIES = ("b", "a", "c")
TEXT = text_settings(max_input_tokens=40)
OF_TASK = ("a", "c", "b")
ROW_TASKS = (2, 0, 0, 1, 2)
VOCABULARY = len(tokenizer()) + 3


def rows(categories: tuple[str, ...] = OF_TASK) -> list[Sample]:
    tasks = [Task(f"task {at}", categories[at], INSTRUCTIONS[at], ()) for at in range(3)]
    return [
        Sample(tasks[task], tasks[task].instruction, INPUTS[at], words(70 + at, 1 + at % 3))
        for at, task in enumerate(ROW_TASKS)
    ]


def objective(generator: AdapterGenerator, **weights: Any) -> Objective:
    teacher_backbone = tiny_backbone(seed=4).to(next(generator.parameters()).dtype)
    bank = random_bank(generator.backbone.target_modules, tasks=3, seed=8).map(
        lambda x: x.to(next(generator.parameters()).dtype)
    )
    catalogue = Catalogue(CATEGORIES, bank)
    teacher = ConcatenatedTeacher(teacher_backbone, TEXT, catalogue)
    freeze(teacher)
    return Objective(LossSettings(**weights), teacher=teacher, catalogue=catalogue)


ALL: dict[str, Any] = {
    "prediction": 0.7,
    "kl": 0.5,
    "temperature": 2.0,
    "ins": 3.0,
    "alignment": "product",
    "contrast": 0.2,
}


def test_every_term_is_what_its_loss_says() -> None:
    generator = tiny_generator().double()
    method = TAGI(generator, objective(generator, **ALL)).double().eval()
    samples = rows()
    batch = method.collate(samples)
    terms = {name: term.detach() for name, term in method(**batch).items()}
    bare = {name: batch[name] for name in ("rows", "input_ids", "input_mask", "labels")}
    instruction = (batch["instruction_ids"], batch["instruction_mask"])
    logits, bank = generator(*instruction, **bare)
    teacher, catalogue = method.objective.teacher, method.objective.catalogue
    assert teacher is not None
    assert catalogue is not None
    wanted = teacher.logits(teacher.collate(samples), batch["labels"])
    order = [samples[ROW_TASKS.index(task)].task.category for task in (2, 0, 1)]  # tasks in the order of first rows
    own = catalogue.bank.select(torch.tensor([CATEGORIES.index(category) for category in order]))
    wrong, _ = generator(*instruction, **{**bare, "rows": (batch["rows"] + 1) % 3})
    expected = {
        "kl": distillation_loss(logits, wanted, batch["labels"], 2.0),
        "ins": product_alignment(bank, own),
        "contrast": contrast_loss(row_losses(logits, batch["labels"]), row_losses(wrong, batch["labels"]), 0.0),
    }
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value.detach()), rel=1e-9)
    total = 0.7 * terms["prediction"] + 0.5 * terms["kl"] + 3.0 * terms["ins"] + 0.2 * terms["contrast"]
    assert float(terms["loss"]) == pytest.approx(float(total), rel=1e-9)


@pytest.mark.parametrize("off", ["prediction", "kl", "ins", "contrast"])
def test_a_term_without_weight_asks_for_nothing(off: str) -> None:
    generator = tiny_generator()
    method = TAGI(generator, objective(generator, **{**ALL, off: 0.0})).eval()
    batch = method.collate(rows())
    terms = method(**batch)
    assert set(terms) == {"loss", "prediction", "kl", "ins", "contrast"} - ({off} if off != "prediction" else set())
    assert any(name.startswith("teacher_") for name in batch) == (off != "kl")
    assert ("categories" in batch) == (off != "ins")


def test_tasks_outside_the_split_are_not_aligned() -> None:
    generator = tiny_generator().double()
    whole = objective(generator, prediction=1.0, ins=1.0, alignment="product")
    assert whole.catalogue is not None
    some = Objective(whole.weights, catalogue=whole.catalogue, aligned=("a",))
    none = Objective(whole.weights, catalogue=whole.catalogue, aligned=("x",))
    values = {}
    for name, one in {"all": whole, "some": some, "none": none}.items():
        method = TAGI(generator, one).eval()
        values[name] = float(method(**method.collate(rows()))["ins"])
    assert values["none"] == 0.0
    assert values["some"] > 0.0
    assert values["some"] != pytest.approx(values["all"], rel=1e-3)


def test_gradients_reach_what_is_trained_and_nothing_else() -> None:
    generator = fresh_generator(tiny_backbone(), tune="norms+embeddings")
    method = TAGI(generator, objective(generator, **{**ALL, "ins": 0.0}))
    batch = method.collate(rows())
    trained = method.trained_tensors()
    frozen = {name: p.detach().clone() for name, p in method.named_parameters() if name not in trained}
    assert frozen
    assert not any(name.startswith("objective") for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.0)  # type: ignore[arg-type]
    reached: list[set[str]] = []
    for _ in range(3):
        optimizer.zero_grad()
        method(**batch)["loss"].backward()
        reached.append({name for name, p in trained.items() if p.grad is not None and bool(p.grad.any())})
        optimizer.step()
    first = {name for name in reached[0] if name.startswith("generator.hypernetwork") or "fusion" in name}
    assert first == {n for n in trained if "heads.heads.B" in n or n.endswith("gate")}
    # An unused embedding row has no gradient, but its matrix has.
    assert reached[0] | reached[1] | reached[2] == set(trained)
    for name, parameter in method.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name])


def test_alignment_alone_moves_every_factor() -> None:
    generator = fresh_generator()
    method = TAGI(generator, objective(generator, prediction=0.0, ins=1.0, alignment="product"))
    method(**method.collate(rows()))["loss"].backward()
    for name, parameter in generator.hypernetwork.named_parameters():
        if "heads.heads.B" in name:
            assert parameter.grad is not None
            assert bool(parameter.grad.any())


@pytest.mark.parametrize("alignment", ["factors", "product"])
def test_normalized_alignment_starts_at_one(alignment: str) -> None:
    """Before training a generator writes A0, but for a small dA, and B = 0: where the teachers started."""
    generator = fresh_generator()
    method = TAGI(generator, objective(generator, ins=1.0, alignment=alignment, ins_normalized=True)).eval()
    batch = method.collate(rows())
    assert float(method(**batch)["ins"].detach()) == pytest.approx(1, abs=0.02)
    start = generator.start_bank()
    assert isinstance(start, LoraBank)
    for path, (a, b) in start.factors.items():
        assert torch.equal(a[0], generator.hypernetwork.heads.start(path))
        assert not bool(b.any())


@pytest.mark.parametrize("name", MODULES)
def test_what_is_not_lora_cannot_be_aligned(name: str) -> None:
    """Nor is it asked for: the other terms know nothing of what is generated."""
    generator = tiny_generator(**MODULES[name])
    module = re.escape(generator.settings.module)
    aligned = objective(fresh_generator(), ins=1.0)
    with pytest.raises(ValueError, match=f"^L_ins: expected a generator of LoRA, got {module}$"):
        TAGI(generator, aligned)
    states = TAGI(generator).prepare([sample.task for sample in rows()[:2]])
    with pytest.raises(ValueError, match=f"^L_ins: expected a bank of LoRA, got {module}$"):
        aligned.alignment(states.bank, torch.tensor([1, 2]), generator.start_bank())
    method = TAGI(generator, objective(generator, kl=0.5, contrast=0.2))
    terms = method(**method.collate(rows()))
    assert terms.keys() == {"loss", "prediction", "kl", "contrast"}
    terms["loss"].backward()
    assert all(tensor.grad is not None for tensor in method.trained_tensors().values())


def test_a_weight_without_its_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="no teacher"):
        Objective(LossSettings(kl=1.0))
    with pytest.raises(ValueError, match="no LoRA teachers"):
        Objective(LossSettings(ins=1.0))


# A cache of the teacher's distributions.


def cached(folder: Path, generator: AdapterGenerator, samples: list[Sample], **changed: Any) -> TeacherCache:
    made = objective(generator, kl=1.0).teacher
    assert made is not None
    given: dict[str, Any] = {"top_k": VOCABULARY, "temperature": 2.0, "batch_size": 2, **changed}
    writer = CacheWriter(made, generator.text, device=torch.device("cpu"), **given)
    return writer.write(folder, distinct_samples([samples]))


def kl_of(method: TAGI, samples: list[Sample]) -> Tensor:
    return method(**method.collate(samples))["kl"]  # type: ignore[no-any-return]


def test_a_whole_cache_gives_the_teachers_loss(tmp_path: Path) -> None:
    generator = tiny_generator()
    samples = rows()
    online = TAGI(generator, objective(generator, kl=1.0, temperature=2.0)).eval()
    weights = LossSettings(kl=1.0, temperature=2.0)
    whole = TAGI(generator, Objective(weights, teacher=cached(tmp_path / "whole", generator, samples))).eval()
    expected = float(kl_of(online, samples))
    assert float(kl_of(whole, samples)) == pytest.approx(expected, rel=2e-3)  # kept in half precision
    assert float(kl_of(whole, samples[1:3])) == pytest.approx(float(kl_of(online, samples[1:3])), rel=2e-3)
    some = TAGI(generator, Objective(weights, teacher=cached(tmp_path / "some", generator, samples, top_k=7))).eval()
    assert 0 < float(kl_of(some, samples)) < expected


def test_a_cache_of_something_else_is_not_trusted(tmp_path: Path) -> None:
    generator, samples = tiny_generator(), rows()
    cached(tmp_path, generator, samples)
    for changed, name in (({"top_k": 5}, "top_k"), ({"temperature": 1.0}, "temperature")):
        with pytest.raises(CheckpointError, match=f"expected a cache with {name}"):
            cached(tmp_path, generator, samples, **changed)
    with pytest.raises(CheckpointError, match="expected a cache with samples"):
        cached(tmp_path, generator, samples[:-1])
    cache = TeacherCache(tmp_path)
    other = Sample(samples[0].task, samples[0].instruction, "w1 w2", samples[0].target)
    assert sample_key(samples[0]) in cache
    with pytest.raises(CheckpointError, match="task 'task 2'"):
        cache.collate([other])


def test_a_damaged_or_edited_cache_is_not_trusted(tmp_path: Path) -> None:
    generator, samples = tiny_generator(), rows()
    cached(tmp_path, generator, samples)
    shard = tmp_path / "part-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="whole safetensors"):
        cached(tmp_path, generator, samples)
    shard.write_bytes(whole)
    tensors = load_file(shard)
    tensors["values"] = tensors["values"] * 1.5
    import json

    save_file(tensors, shard, metadata={"keys": json.dumps([sample_key(sample) for sample in samples])})
    with pytest.raises(CheckpointError, match="expected what the teacher says"):
        cached(tmp_path, generator, samples)


def test_an_interrupted_cache_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tagi.methods.objective import teacher_cache

    monkeypatch.setattr(teacher_cache, "_SHARD", 2)
    generator, samples = tiny_generator(), rows()
    whole = cached(tmp_path / "whole", generator, samples)
    cached(tmp_path / "part", generator, samples)
    last = tmp_path / "part" / "part-00002.safetensors"
    kept = (tmp_path / "part" / "part-00000.safetensors").stat().st_mtime_ns
    last.unlink()
    again = cached(tmp_path / "part", generator, samples)
    assert (tmp_path / "part" / "part-00000.safetensors").stat().st_mtime_ns == kept
    for one, other in zip(whole.collate(samples).values(), again.collate(samples).values(), strict=True):
        assert torch.equal(one, other)
