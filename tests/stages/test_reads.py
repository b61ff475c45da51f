"""Every file of tasks is read once per command."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.stages.test_tasks import checkout_of

_opened: list[str] | None = None
SHORT = [
    *(f"training.{stage}steps=2" for stage in ("", "metatrain.", "teachers.", "pretrain.", "single.", "finetune.")),
    *("training.tasks_per_batch=1", "training.queries_per_task=2", "training.report_to=[]", "shots.count=2"),
    *("data.instances_per_task=3", "data.test_instances_per_task=2", "evaluation.max_new_tokens=2"),
    *("losses.kl=0", "losses.ins=0", "losses.contrast=0", "evaluation.metric=exact"),
]


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)  # sees whatever is opened, however that is done


@contextmanager
def opened(folder: Path) -> Iterator[Counter[str]]:
    """How often each file below a folder is opened meanwhile."""
    global _opened
    counts: Counter[str] = Counter()
    _opened = []
    try:
        yield counts
    finally:
        names, _opened = _opened, None
        counts.update(Path(name).name for name in names if Path(name).is_relative_to(folder))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three tasks of six instances."""
    path = tmp_path / "data" / "tasks.jsonl"
    path.parent.mkdir()
    tasks = [
        {
            "task": f"say {word}",
            "category": word,
            "instruction": f"say {word}",
            "instances": [{"input": f"{noun} {at}", "outputs": [word]} for noun in ("cat", "hen") for at in range(3)],
        }
        for word in ("bread", "lake", "king")
    ]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def settings(*changed: str) -> list[str]:
    return [part for setting in (*SHORT, *changed) for part in ("--set", setting)]


HELD_OUT = ("data.validation_tasks=1", "data.validation_instances=1")
CHOSEN = (*HELD_OUT, "training.metatrain.validate_every=1", "training.finetune.validate_every=1")


@pytest.mark.parametrize("stage", ["metatrain", "teachers", "pretrain", "finetune", "single"])
def test_training_reads_tasks_once(stage: str, file: Path, tmp_path: Path, run_tagi: Run) -> None:
    changed = settings("data.source=jsonl", f"data.path={file}", "run.stages=['finetune']", *CHOSEN)
    with opened(file.parent) as counts:
        ran = run_tagi("train", stage, "toy", "--out", tmp_path / "out", *changed)
    assert ran.code == 0, ran.err
    assert counts == ({} if stage == "pretrain" else {"tasks.jsonl": 1})


def test_a_run_reads_tasks_once_for_all_stages_and_scores(file: Path, tmp_path: Path, run_tagi: Run) -> None:
    stages = "run.stages=['metatrain', 'finetune', 'single']"
    tasks = ("data.source=jsonl", f"data.path={file}", "data.test_on_training=true")
    changed = settings(*tasks, stages, "metatrain.method=fid-icl", *CHOSEN)
    with opened(file.parent) as counts:
        ran = run_tagi("run", "toy", "--out", tmp_path / "out", *changed)
    assert ran.code == 0, ran.err
    assert counts == {"tasks.jsonl": 1}
    assert len(list((tmp_path / "out").glob("evaluate*/record.json"))) == 3


@pytest.mark.parametrize("command", [("evaluate", "toy"), ("flops",)])
def test_scores_and_costs_read_tasks_once(command: tuple[str, ...], file: Path, run_tagi: Run) -> None:
    changed = settings("data.source=jsonl", f"data.path={file}")
    name = ("toy",) if command[0] == "evaluate" else ("--recipe", "toy")
    with opened(file.parent) as counts:
        ran = run_tagi(*command, *name, *changed)
    assert ran.code == 0, ran.err
    assert counts == {"tasks.jsonl": 1}


def test_a_run_on_a_checkout_reads_each_of_its_files_once(tmp_path: Path, run_tagi: Run) -> None:
    root = checkout_of(tmp_path / "sni")
    changed = settings("data.source=sni", f"data.path={root}", "run.stages=['metatrain', 'single']")
    with opened(root) as counts:
        ran = run_tagi("run", "toy", "--out", tmp_path / "out", *changed)
    assert ran.code == 0, ran.err
    assert counts == {"train_tasks.txt": 1, "test_tasks.txt": 1, "task1_a.json": 1, "task2_b.json": 1}
