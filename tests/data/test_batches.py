"""Micro-batches are a pure function of (seed, index)."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tagi.data.batches import Sample, StreamBatches, TaskBatches, draw_examples, hold_out, with_shuffled_inputs
from tagi.data.digest import tasks_digest
from tagi.data.task import Example, Instance, Task, Wording
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


# Categories of 11, 4 and 1 tasks, mixed.
UNEVEN = [replace(TASKS[at % 5], name=f"u{at}", category=category) for at, category in enumerate("abaaabaacaaabbaa")]


def batches(tasks: list[Task] = TASKS, **changed: Any) -> TaskBatches:
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


def test_the_natural_order_is_what_it_always_was() -> None:
    assert list(batches(balance="natural")) == list(batches())
    items = [(sample.instruction, sample.input, sample.target) for sample in batches(queries_per_task=2)[5]]
    assert items == [
        ("instruction 1", "input 1 3", "out 1 3"),
        ("instruction 1", "input 1 7", "alt 1 7"),
        ("paraphrase 4 2", "input 4 8", "out 4 8"),
        ("paraphrase 4 2", "input 4 2", "out 4 2"),
        ("paraphrase 3 2", "input 3 9", "out 3 9"),
        ("paraphrase 3 2", "input 3 4", "alt 3 4"),
    ]


def test_categories_are_drawn_uniformly_and_then_their_tasks() -> None:
    draw_examples = [
        items[0].task
        for items in batches(UNEVEN, length=3000, tasks_per_batch=1, queries_per_task=2, balance="category")
    ]
    categories = Counter(task.category for task in draw_examples)
    assert all(900 < categories[category] < 1100 for category in "abc")
    for category, size in (("a", 11), ("b", 4)):
        counts = Counter(task.name for task in draw_examples if task.category == category)
        assert len(counts) == size
        assert max(counts.values()) < 1.5 * min(counts.values())


@pytest.mark.parametrize("tasks_per_batch", [3, 7, 16, 19])
def test_no_task_twice_and_every_category_while_it_has_tasks(tasks_per_batch: int) -> None:
    seen = Counter[str]()
    items = batches(UNEVEN, length=200, tasks_per_batch=tasks_per_batch, queries_per_task=2, balance="category")
    for samples in items:
        names = [sample.task.name for sample in samples[::2]]
        assert len(set(names)) == len(names) == min(tasks_per_batch, 16)
        assert names == [sample.task.name for sample in samples[1::2]]
        seen.update(sample.task.category for sample in samples[::2])
    # The small ones are used up by larger micro-batches, the only task of "c" in every one of 7 tasks but a few.
    assert seen["c"] == 200 if tasks_per_batch >= 16 else 100 < seen["c"] < 200
    assert seen["b"] > 1.1 * seen["c"]


def test_balanced_items_depend_on_seed_and_index_alone() -> None:
    one = batches(UNEVEN, balance="category")
    two = batches(UNEVEN, length=99, balance="category")
    backwards = [one[at] for at in reversed(range(13))]
    assert backwards[::-1] == [two[at] for at in range(13)] == list(one)
    assert len({str(item) for item in one}) == 13
    assert one[3] != batches(UNEVEN, seed=8, balance="category")[3]
    assert one[3] != batches(UNEVEN)[3]


@pytest.mark.parametrize("count", range(16))
def test_holding_out_spares_every_categorys_last_task(count: int) -> None:
    for seed in range(20):
        training, validation = hold_out(UNEVEN, count, seed)
        assert len(validation) == count
        assert sorted([*training, *validation], key=UNEVEN.index) == UNEVEN
        for part in (training, validation):
            assert list(part) == sorted(part, key=UNEVEN.index)
        left = Counter(task.category for task in training)
        held = Counter(task.category for task in validation)
        if count <= 13:
            assert set(left) == set("abc")
        assert max(left.values()) == 1 or count <= 13
        # Spread: one of each in turn, as long as it has one to give.
        assert held["b"] >= min(count // 2, 3)
        assert held["a"] - held["b"] <= 1 or held["b"] >= 3


def test_holding_out_depends_on_seed_and_tasks_alone() -> None:
    chosen = [frozenset(task.name for task in hold_out(UNEVEN, 5, seed)[1]) for seed in range(30)]
    assert chosen == [frozenset(task.name for task in hold_out(UNEVEN[::-1], 5, seed)[1]) for seed in range(30)]
    assert len(set(chosen)) > 20
    assert {name for names in chosen for name in names} == {task.name for task in UNEVEN} - {"u8"}
    # With one to give, it is now this category's and now that one's.
    first = Counter(hold_out(UNEVEN, 1, seed)[1][0].category for seed in range(40))
    assert min(first["a"], first["b"]) > 8


def test_holding_out_leaves_something_to_train_on() -> None:
    assert hold_out(UNEVEN, 0, 3) == (tuple(UNEVEN), ())
    for tasks, count in ((UNEVEN, 16), (UNEVEN, -1), (UNEVEN[:1], 1), ([], 0)):
        with pytest.raises(
            DataError, match=f"hold-out: expected at least 0 and fewer than the {len(tasks)} tasks, got {count}"
        ):
            hold_out(tasks, count, 3)


def test_shuffled_inputs_keep_everything_but_the_pairs() -> None:
    shuffled = with_shuffled_inputs(TASKS, seed=3)
    assert shuffled == with_shuffled_inputs(TASKS, seed=3) != with_shuffled_inputs(TASKS, seed=4)
    for before, after in zip(TASKS, shuffled, strict=True):
        assert replace(after, instances=before.instances) == before
        assert [(one.id, one.outputs) for one in after.instances] == [(one.id, one.outputs) for one in before.instances]
        found = [one.input for one in after.instances]
        assert sorted(found) == sorted(one.input for one in before.instances)
        assert found != [one.input for one in before.instances]


def episodes(batch: list[Sample]) -> dict[str, list[Sample]]:
    by_task: dict[str, list[Sample]] = {}
    for sample in batch:
        by_task.setdefault(sample.task.name, []).append(sample)
    return by_task


def test_an_episode_shows_what_it_does_not_ask() -> None:
    seen: set[str] = set()
    for batch in batches(shots=3, length=60):
        for rows in episodes(batch).values():
            assert len(rows) == 4
            task, shots = rows[0].task, rows[0].shots
            assert all(row.shots is shots for row in rows)
            assert len({shot.input for shot in shots}) == len(shots) == 3
            assert not {shot.input for shot in shots} & {row.input for row in rows}
            answers = {instance.input: instance.outputs for instance in task.instances}
            assert all(shot.output in answers[shot.input] for shot in shots)
            assert rows[0].asked == replace(task, instruction=rows[0].instruction, shots=shots)
            seen |= {shot.input for shot in shots}
    assert len(seen) == 5 * 11


def test_an_episode_of_a_small_task_shows_what_is_left() -> None:
    small = [replace(task, instances=task.instances[:3]) for task in TASKS]
    sizes = set()
    for batch in batches(small, shots=7, length=60):
        for rows in episodes(batch).values():
            left = {one.input for one in rows[0].task.instances} - {row.input for row in rows}
            assert {shot.input for shot in rows[0].shots} == left
            sizes.add(len(left))
    assert sizes == {1, 2}  # one is kept whatever is asked
    twins = (replace(small[1].instances[0], id="a"), replace(small[1].instances[0], id="b"))
    with pytest.raises(DataError, match="t1: expected instances of at least 2 different inputs"):
        batches([small[0], replace(small[1], instances=twins)], shots=1)
    assert batches([replace(small[1], instances=twins)])[0]


def test_without_shots_nothing_is_drawn_for_them() -> None:
    assert list(batches(shots=0)) == list(batches())
    assert batches(shots=2)[3] == batches(shots=2, length=99)[3] != batches(shots=2, seed=8)[3]


def test_an_order_of_examples_is_each_ones_own() -> None:
    instances = TASKS[2].instances
    order = draw_examples("t2", instances, 5)
    assert sorted(order, key=str) == sorted((Example(one.input, one.outputs[0]) for one in instances), key=str)
    assert draw_examples("t2", instances[::-1], 5) == order
    assert draw_examples("t2", (*instances, replace(instances[0], id="twin", outputs=("other",))), 5) == order
    fewer = draw_examples("t2", instances[3:], 5)
    assert fewer == [one for one in order if one in fewer]
    others = [draw_examples(name, instances, seed) for name, seed in (("t2", 6), ("t3", 5))]
    assert order != others[0] != others[1] != order


def test_a_digest_sees_shots_and_nothing_where_there_are_none() -> None:
    shown = [replace(TASKS[0], shots=(Example("a", "b"),)), *TASKS[1:]]
    assert tasks_digest(TASKS) != tasks_digest(shown)
    # As it was before tasks had shots.
    assert tasks_digest(TASKS[:2]) == "sha256:40b99c5cb86466b9"
    measured = [replace(task, metric="exact") for task in TASKS]
    assert tasks_digest(measured) not in (tasks_digest(TASKS), tasks_digest(shown))


SHOWN = [
    replace(
        task,
        examples=tuple(Example(f"shown {at} {n}", f"answer {n}") for n in range(4)),
        wordings=(Wording("terse", f"terse {at}"), *([Wording("plain", f"plain {at}")] if at else [])),
    )
    for at, task in enumerate(TASKS)
]


def rows_of(found: TaskBatches) -> list[tuple[str, str, str]]:
    return [(sample.task.name, sample.input, sample.target) for batch in found for sample in batch]


def test_named_wordings_and_examples_change_nothing_unless_asked_for() -> None:
    rows = [replace(sample, task=TASKS[int(sample.task.name[1])]) for batch in batches(SHOWN) for sample in batch]
    assert rows == [sample for batch in batches() for sample in batch]
    assert {sample.examples for sample in rows} == {None}
    assert all(sample.asked.examples == sample.task.examples for sample in batches(SHOWN)[0])


def test_wordings_are_drawn_by_their_weights() -> None:
    weights = {"definition": 5.0, "terse": 3.0, "plain": 2.0, "detailed": 9.0}
    found = batches(SHOWN, length=3000, wordings=weights)
    counts: dict[str, Counter[str]] = {task.name: Counter() for task in SHOWN}
    for batch in found:
        assert len({(sample.task.name, sample.instruction) for sample in batch}) == 3
        for sample in batch[::4]:
            counts[sample.task.name][sample.instruction.split()[0]] += 1
    for name, own in counts.items():
        # No task has "detailed", and t0 has no "plain": the others keep their ratio.
        wanted = {"instruction": 5, "terse": 3} | ({"plain": 2} if name != "t0" else {})
        assert own.keys() == wanted.keys()
        for kind, weight in wanted.items():
            assert abs(own[kind] / own.total() - weight / sum(wanted.values())) < 0.04


def test_a_task_without_any_of_the_wordings_keeps_its_instruction() -> None:
    found = [sample for batch in batches(SHOWN, length=60, wordings={"plain": 1.0}) for sample in batch]
    assert {sample.instruction for sample in found if sample.task.name == "t0"} == {"instruction 0"}
    assert {sample.instruction for sample in found if sample.task.name == "t3"} == {"plain 3"}


def test_paraphrases_can_be_drawn_by_number() -> None:
    found = [sample for batch in batches(length=60, wordings={"2": 1.0, "3": 0.0}) for sample in batch]
    assert {sample.instruction for sample in found if sample.task.name == "t1"} == {"instruction 1"}
    assert {sample.instruction for sample in found if sample.task.name == "t4"} == {"paraphrase 4 1"}


def test_a_share_of_draws_carries_demonstrations() -> None:
    found = batches(SHOWN, length=1000, demonstrations=0.3, positives=3)
    counts: Counter[int] = Counter()
    orders: set[tuple[Example, ...]] = set()
    for batch in found:
        for start in range(0, 12, 4):
            (examples,) = {sample.examples for sample in batch[start : start + 4]}
            assert examples is not None
            assert len(set(examples)) == len(examples)
            assert set(examples) <= set(batch[start].task.examples)
            assert batch[start].asked.examples == examples
            counts[len(examples)] += 1
            if batch[start].task.name == "t2":
                orders.add(examples)
    assert abs(counts[0] / counts.total() - 0.7) < 0.03
    assert counts.keys() == {0, 1, 2, 3}
    assert all(abs(counts[n] / counts.total() - 0.1) < 0.025 for n in (1, 2, 3))
    assert len(orders) > 1 + 4 + 12  # of the 1 + 4 + 12 + 24 there are: their order is random, too


def test_no_more_demonstrations_than_a_task_has() -> None:
    found = [sample for batch in batches(SHOWN, length=60, demonstrations=1.0, positives=8) for sample in batch]
    assert {len(sample.examples or ()) for sample in found} == {1, 2, 3, 4}
    assert {sample.examples for sample in batches(demonstrations=1.0, positives=2)[0]} == {()}
    assert {sample.examples for sample in batches(SHOWN, demonstrations=0.0)[0]} == {()}


def test_wordings_and_demonstrations_are_drawn_apart_from_the_rows() -> None:
    changed: dict[str, Any] = {"wordings": {"terse": 1.0, "definition": 2.0}, "demonstrations": 0.5, "positives": 2}
    one = batches(SHOWN, **changed)
    assert rows_of(one) == rows_of(batches(SHOWN))
    assert [one[at] for at in reversed(range(13))][::-1] == list(batches(SHOWN, length=13, **changed)) == list(one)
    assert one[4] == batches(SHOWN, length=99, **changed)[4] != batches(SHOWN, seed=8, **changed)[4]
    other = batches(SHOWN, **{**changed, "demonstrations": 1.0})
    assert [row.instruction for batch in other for row in batch] == [row.instruction for batch in one for row in batch]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"wordings": {"terse": 0.0}}, r"wordings: weights must be at least 0 and not all 0, got {'terse': 0.0}"),
        ({"wordings": {"terse": 2.0, "plain": -1.0}}, "got {'terse': 2.0, 'plain': -1.0}"),
        ({"wordings": {}}, "not all 0, got {}"),
        ({"demonstrations": 1.5, "positives": 2}, "the share must be between 0 and 1, got 1.5"),
        ({"demonstrations": 0.5}, "a share of 0.5 needs at least 1 positive, got 0"),
    ],
)
def test_impossible_draws_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        batches(SHOWN, **changed)


def test_batches_of_a_stream_are_read_by_their_index() -> None:
    batches = StreamBatches(lambda index: (f"9 {index}", "x"), length=3)
    assert list(batches) == [["9 0", "x"], ["9 1", "x"], ["9 2", "x"]]
    assert len(batches) == 3
    for index in (3, -1):
        with pytest.raises(IndexError):
            batches[index]
