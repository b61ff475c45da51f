"""FiD-ICL as a teacher: demonstrations of its own, the same for a sample whenever it comes; a cache of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tagi.adapters.attach import Attachment
from tagi.data.batches import Sample, TaskBatches
from tagi.data.task import Instance, Task
from tagi.errors import CheckpointError, DataError
from tagi.methods.fid import FidICL
from tagi.methods.objective.fid_teacher import FidTeacher
from tagi.methods.objective.objective import Objective
from tagi.methods.objective.teacher_cache import CacheWriter, distinct_samples
from tagi.methods.tagi import TAGI
from tagi.settings.losses import LossSettings
from tests.models import INSTRUCTIONS, random_bank, same, text_settings, tiny_backbone, tiny_generator, words

KNOWN = [
    Task(
        f"task{at}",
        "c",
        INSTRUCTIONS[at],
        tuple(
            Instance(f"i{n}", words(50 + 9 * at + n, 2 + n % 3), (words(70 + 9 * at + n, 1 + n % 2),))
            for n in range(5 + at)
        ),
    )
    for at in range(3)
]
COUNT = 3


def teacher(**changed: int) -> FidTeacher:
    method = FidICL(tiny_backbone(seed=4, dropout_rate=0.3), text_settings(max_input_tokens=40, reads="demonstrations"))
    return FidTeacher(method.double(), **{"count": COUNT, "seed": 2, **changed})


def samples() -> list[Sample]:
    return [
        Sample(task, task.instruction, instance.input, instance.outputs[0])
        for task in KNOWN
        for instance in task.instances
    ]


def labels(rows: list[Sample]) -> torch.Tensor:
    text = teacher().method.text
    return text.labels([text.target(row.target) for row in rows])


def test_a_sample_is_shown_the_same_whenever_it_comes() -> None:
    taught, rows = teacher(), samples()
    together = taught.logits(taught.collate(rows), labels(rows))
    assert not together.requires_grad
    for at, row in reversed(list(enumerate(rows))):
        other = teacher()
        alone = other.logits(other.collate([row]), labels([row]))
        same(together[at : at + 1, : alone.shape[1]], alone)
    # Whatever the student reads: its episode's demonstrations are not the teacher's.
    shown = [replace(row, shots=taught._shots(rows[-1])) for row in rows]
    same(taught.logits(taught.collate(shown), labels(rows)), together)
    other_seed = teacher(seed=3)
    assert float((other_seed.logits(other_seed.collate(rows), labels(rows)) - together).abs().max()) > 1e-3


def test_a_sample_is_never_its_own_demonstration() -> None:
    taught = teacher()
    for row in samples():
        shown = [shot.input for shot in taught._shots(row)]
        assert len(set(shown)) == COUNT
        assert row.input not in shown
        assert set(shown) <= {instance.input for instance in row.task.instances}
    # All of a task but its first share what is shown: a batch encodes it once, and few others.
    assert int(taught.collate(samples())["owners"].max()) + 1 <= len(KNOWN) * (COUNT + 1)
    few = replace(KNOWN[0], name="few", instances=KNOWN[0].instances[:2])
    assert len(taught._shots(Sample(few, "", few.instances[0].input, ""))) == 1
    lonely = replace(KNOWN[0], name="lonely", instances=KNOWN[0].instances[:1])
    with pytest.raises(DataError, match=r"^lonely: expected other inputs to show FiD-ICL beside one, got none$"):
        taught.collate([Sample(lonely, "", lonely.instances[0].input, "")])


def test_it_feels_neither_its_students_adapter_nor_dropout() -> None:
    taught = teacher()
    rows = samples()[:4]
    expected = taught.logits(taught.collate(rows), labels(rows))
    taught.train()
    backbone = taught.method.backbone
    bank = random_bank(backbone.target_modules, tasks=1, seed=9).map(lambda tensor: tensor.double())
    with Attachment(bank.hooks(backbone.target_layers)).active():
        found = taught.logits(taught.collate(rows), labels(rows))
    assert torch.equal(found, expected)
    assert taught.training
    assert backbone.training


def test_a_student_learns_from_it_and_from_a_cache_of_it(tmp_path: Path) -> None:
    taught = teacher().float()
    batches = TaskBatches(KNOWN, length=3, tasks_per_batch=2, queries_per_task=2, seed=1)
    weights = LossSettings(prediction=0.0, kl=1.0)
    generator = tiny_generator(tiny_backbone())
    live = TAGI(generator, Objective(weights, teacher=taught)).eval()
    vocabulary = generator.backbone.vocabulary
    how = {"top_k": vocabulary - 1, "temperature": 1.0, "batch_size": 3, "device": torch.device("cpu")}
    cache = CacheWriter(taught, generator.text, **how).write(tmp_path / "cache", distinct_samples(batches))
    kept = TAGI(generator, Objective(weights, teacher=cache)).eval()
    for batch in batches:
        wanted = live(**live.collate(batch))["kl"]
        assert float(kept(**kept.collate(batch))["kl"]) == pytest.approx(float(wanted), rel=2e-2)
        assert float(wanted) > 0.01
    for other in (teacher(seed=3).float(), teacher(count=2).float()):
        with pytest.raises(CheckpointError, match="expected a cache with teacher"):
            CacheWriter(other, generator.text, **how).write(tmp_path / "cache", distinct_samples(batches))
