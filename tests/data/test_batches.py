"""Micro-batches are a pure function of (seed, index)."""

from collections import Counter
from dataclasses import replace

import pytest

from tagi.data.batches import Sample, TaskBatches, with_shuffled_inputs
from tagi.data.task import Instance, Task
from tagi.errors import DataError

TASKS = [
    Task(
        f"t{at}",
        "c",
        f"instruction {at}",
        tuple(Instance(f"{at}-{n}", f"input {at} {n}", (f"out {at} {n}", f"alt {at} {n}")) for n in range(11)),
        paraphrases=tuple(f"paraphrase {at} {n}" for n in range(at)),
    )
    for at in range(5)
]


def batches(tasks: list[Task] = TASKS, **changed: int) -> TaskBatches:
    return TaskBatches(tasks, **{"length": 13, "tasks_per_batch": 3, "queries_per_task": 4, "seed": 7, **changed})


def test_an_item_depends_on_seed_and_index_alone() -> None:
    one, two = batches(), batches(length=99)
    backwards = [one[at] for at in reversed(range(13))]
    assert backwards[::-1] == [two[at] for at in range(13)] == list(one)
    assert len({str(item) for item in one}) == 13
    assert one[3] != batches(seed=8)[3]


def test_a_batch_mixes_tasks() -> None:
    for items in batches(length=50):
        counts = Counter(sample.task.name for sample in items)
        assert sorted(counts.values()) == [4, 4, 4]
        for name in counts:
            own = [sample for sample in items if sample.task.name == name]
            assert len({sample.instruction for sample in own}) == 1
        for sample in items:
            assert sample.instruction in (sample.task.instruction, *sample.task.paraphrases)
            instance = next(one for one in sample.task.instances if one.input == sample.input)
            assert sample.target in instance.outputs


def test_every_wording_instance_and_output_is_drawn() -> None:
    samples = [sample for items in batches(length=400) for sample in items]
    assert {sample.instruction for sample in samples} == {
        text for task in TASKS for text in (task.instruction, *task.paraphrases)
    }
    assert {sample.target for sample in samples} == {
        output for task in TASKS for instance in task.instances for output in instance.outputs
    }
    counts = Counter(sample.task.name for sample in samples)
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_fewer_tasks_than_asked_are_all_taken() -> None:
    assert len(batches(tasks_per_batch=9)[0]) == 5 * 4


def test_the_ends() -> None:
    one = batches()
    assert len(one) == 13
    assert isinstance(one[12][0], Sample)
    for index in (13, -1):
        with pytest.raises(IndexError):
            one[index]


def test_tasks_without_instances_are_refused() -> None:
    with pytest.raises(DataError, match="got no task"):
        batches([])
    with pytest.raises(DataError, match="got t1 without"):
        batches([TASKS[0], replace(TASKS[1], instances=())])


def test_shuffled_inputs_keep_everything_but_the_pairs() -> None:
    shuffled = with_shuffled_inputs(TASKS, seed=3)
    assert shuffled == with_shuffled_inputs(TASKS, seed=3) != with_shuffled_inputs(TASKS, seed=4)
    for before, after in zip(TASKS, shuffled, strict=True):
        assert replace(after, instances=before.instances) == before
        assert [(one.id, one.outputs) for one in after.instances] == [(one.id, one.outputs) for one in before.instances]
        found = [one.input for one in after.instances]
        assert sorted(found) == sorted(one.input for one in before.instances)
        assert found != [one.input for one in before.instances]
