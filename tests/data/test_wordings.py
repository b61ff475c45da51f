"""Named wordings of tasks: where they come from, what they are called, and when they count."""

from dataclasses import replace
from pathlib import Path

import pytest

from tagi.data.digest import tasks_digest
from tagi.data.readers.sni import read_sni
from tagi.data.task import Instance, Task, Wording
from tagi.data.wordings import WORDINGS, _all_wordings, sni_wordings

TASK = Task("t", "c", "do it", (Instance("0", "x", ("y",)),), paraphrases=("please do", "do so"))
NAMED = replace(TASK, wordings=(Wording("terse", "it"), Wording("plain", "just do it")))


def test_the_shipped_file_is_whole() -> None:
    every = _all_wordings()
    assert len(every) == 691 + 55
    for task, wordings in every.items():
        assert tuple(wording.name for wording in wordings) == WORDINGS, task
        texts = [wording.text for wording in wordings]
        assert all(text == text.strip() != "" for text in texts), task
        assert len(set(texts)) == 5, task


def test_wordings_of_one_task() -> None:
    assert sni_wordings("task002_quoref_answer_generation")[0] == Wording(
        "terse", "Coreference QA: extract answer from passage"
    )
    assert sni_wordings("task0_nothing") == ()


@pytest.mark.parametrize(("split", "count"), [("train", 691), ("test", 55)])
def test_every_real_task_has_five_names(data_dir: Path, split: str, count: int) -> None:
    read = read_sni(data_dir / "natural-instructions", split, instances_per_task=1)  # type: ignore[arg-type]
    named = [task for task in read.tasks if tuple(wording.name for wording in task.wordings) == WORDINGS]
    assert len(named) == len(read.tasks) == count
    assert all(task.instruction not in {wording.text for wording in task.wordings} for task in named)


def test_all_texts_have_names() -> None:
    assert NAMED.texts == {
        "definition": "do it",
        "1": "please do",
        "2": "do so",
        "terse": "it",
        "plain": "just do it",
    }


def test_a_digest_sees_wordings_where_they_are_used() -> None:
    # As it was before tasks had named wordings.
    assert tasks_digest([TASK]) == "sha256:8e89d95112a2a41a"
    assert tasks_digest([TASK], wordings=True) == tasks_digest([NAMED]) == tasks_digest([TASK])
    other = replace(NAMED, wordings=NAMED.wordings[:1])
    digests = {tasks_digest([TASK]), tasks_digest([NAMED], wordings=True), tasks_digest([other], wordings=True)}
    assert len(digests) == 3
