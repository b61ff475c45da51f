"""What learns in context learns: 32 examples of the toy family by heart, each method in its own way."""

import functools
from pathlib import Path

import pytest
import torch

from tagi.backbones.load import build_t5
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.data.toy.family import toy_tasks
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.methods.concatenation import Concatenation
from tagi.methods.fid import FidICL
from tagi.methods.in_context import ConcatICL, EnsembleICL
from tagi.methods.protocol import Method
from tagi.settings.text import TextSettings
from tagi.settings.training import TrainingSettings
from tagi.training.trainer import train

TASKS, QUERIES, SHOTS, STEPS = 4, 8, 2, 90
KINDS = {kind.name: kind for kind in (FidICL, ConcatICL, EnsembleICL, Concatenation)}


def known() -> list[Task]:
    """Tasks of unlike programs, each with two demonstrations."""
    tasks = toy_tasks("train", instances_per_task=QUERIES + 5, examples_per_task=SHOTS, paraphrases_per_task=0)
    return [Task(one.name, one.category, one.instruction, one.instances, shots=one.examples) for one in tasks[::29]]


def samples() -> list[Sample]:
    return [
        Sample(task, task.instruction, one.input, one.outputs[0])
        for task in known()
        for one in task.instances[:QUERIES]
    ]


@functools.cache
def trained(name: str, folder: Path) -> Method:
    torch.manual_seed(3)
    sizes = {"d_model": 48, "d_kv": 11, "num_heads": 4, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2}
    model = build_t5({**sizes, "vocab_size": len(toy_tokenizer()), "dropout_rate": 0.0})
    method = KINDS[name](
        T5Backbone(model, toy_tokenizer(), BaseModel("tiny", "none")), TextSettings("plain", 0, 64, 64, 16)
    )
    sizes = {"tasks_per_batch": 1, "queries_per_task": len(samples())}
    settings = TrainingSettings(
        steps=STEPS, **sizes, learning_rate=1e-2, schedule="constant", report_to=(), log_every=STEPS
    )
    train(method, [samples()] * STEPS, settings, folder / name, identity=name, progress=False)
    return method.eval()


def answers(method: Method, start: int, end: int) -> list[str]:
    tasks = known()
    rows = torch.arange(TASKS).repeat_interleave(end - start)
    inputs = [one.input for task in tasks for one in task.instances[start:end]]
    return method.predict(method.prepare(tasks), rows, inputs, max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learning")


@pytest.mark.parametrize("name", [FidICL.name, ConcatICL.name, EnsembleICL.name])
def test_it_learns_32_examples_by_heart(name: str, folder: Path) -> None:
    assert len(known()) == TASKS
    assert len(samples()) == 32
    wanted = [sample.target for sample in samples()]
    assert answers(trained(name, folder), 0, QUERIES) == wanted


def test_each_answers_otherwise_than_the_others(folder: Path) -> None:
    """At the same seed, after the same examples, of inputs that none has seen."""
    given = {name: tuple(answers(trained(name, folder), QUERIES, QUERIES + 5)) for name in KINDS}
    assert len(set(given.values())) == len(KINDS), given


def test_other_demonstrations_give_other_answers(folder: Path) -> None:
    for name in (FidICL.name, ConcatICL.name, EnsembleICL.name):
        method, tasks = trained(name, folder), known()
        inputs = [sample.input for sample in samples()]
        rows = torch.arange(TASKS).repeat_interleave(QUERIES)
        others = [
            Task(task.name, "", task.instruction, (), shots=tuple(Example(shot.input, "dog") for shot in task.shots))
            for task in tasks
        ]
        targets = [[sample.target] for sample in samples()]
        own, other = (method.score_choices(method.prepare(one), rows, inputs, targets) for one in (tasks, others))
        assert own != other
