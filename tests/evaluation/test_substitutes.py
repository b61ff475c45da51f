"""What stands in an instruction's place is drawn by names and a seed, and is never the right thing."""

from collections import Counter

import pytest

from tagi.data.task import Example, Instance, Task
from tagi.evaluation.substitutes import Substitutes, of_other_category, of_same_category, random_words, shuffled

CATEGORIES = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "x", "f": "y"}
DRAWS = [of_same_category, of_other_category, shuffled, random_words]


def tasks(names: str = "abcdef") -> list[Task]:
    return [
        Task(
            name,
            CATEGORIES[name],
            f"do {name} , then stop and do the rest of {name} .",
            (Instance("i", "in", ("out",)),),
            (Example(f"in {name}", "out"),),
        )
        for name in names
    ]


def by_name(own: list[Task], found: Substitutes) -> dict[str, str]:
    return {own[index].name: task.instruction for index, task in found.items()}


def test_another_task_of_the_same_category_where_there_is_one() -> None:
    own = tasks()
    found = of_same_category(own, 0)
    assert [own[index].name for index in found] == ["a", "b", "c", "e", "f"]  # d is alone in z
    for index, other in found.items():
        assert other.category == own[index].category
        assert other.name != own[index].name
        assert other.examples[0].input == f"in {other.name}"  # the other's demonstrations come along
    assert of_same_category(tasks("abd"), 0) == {}


def test_another_task_of_another_category() -> None:
    own = tasks()
    found = of_other_category(own, 0)
    assert list(found) == list(range(6))
    assert all(other.category != own[index].category for index, other in found.items())
    assert len({other.name for other in found.values()}) > 2
    assert of_other_category(tasks("ace"), 0) == {}


def test_a_task_with_the_same_instruction_is_no_other_task() -> None:
    twins = [Task(name, category, " do it ", ()) for name, category in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert of_same_category(twins, 0) == of_other_category(twins, 0) == {}


def test_another_task_stays_when_others_come_or_go() -> None:
    whole = {name: task.name for name, task in zip("abcdef", of_other_category(tasks(), 0).values(), strict=True)}
    for gone in "abcdef":
        left = tasks("abcdef".replace(gone, ""))
        for index, other in of_other_category(left, 0).items():
            if whole[left[index].name] != gone:
                assert other.name == whole[left[index].name]


def test_shuffled_words_are_the_own_ones_in_another_order() -> None:
    own = tasks()
    found = shuffled(own, 0)
    assert list(found) == list(range(6))
    for index, other in found.items():
        assert other.instruction != own[index].instruction
        assert Counter(other.instruction.split()) == Counter(own[index].instruction.split())
        assert (other.name, other.examples) == (own[index].name, ())
    assert shuffled([Task("a", "x", "go", ()), Task("b", "x", "go go", ())], 0) == {}
    two = [Task("a", "x", "go on", ())]
    assert all(shuffled(two, seed)[0].instruction == "on go" for seed in range(20))


def test_random_words_are_as_many_from_all_instructions() -> None:
    own = [*tasks(), Task("g", "x", "two words", ())]
    pool = {word for task in own for word in task.instruction.split()}
    found = random_words(own, 0)
    for index, other in found.items():
        assert len(other.instruction.split()) == len(own[index].instruction.split())
        assert set(other.instruction.split()) <= pool
        assert other.examples == ()
    assert set(" ".join(task.instruction for task in found.values()).split()) > set(own[0].instruction.split())
    assert random_words(own[:1], 0) == {}


def test_random_words_are_drawn_as_often_as_they_stand_there() -> None:
    own = [Task("a", "x", "often " * 900 + "rare " * 100, ()), Task("b", "x", "rare", ())]
    words = random_words(own, 3)[0].instruction.split()
    assert words.count("often") == pytest.approx(900, abs=40)  # 4 standard deviations


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_depend_on_names_and_seed_and_not_on_the_order_of_tasks(draw) -> None:  # type: ignore[no-untyped-def]
    own = tasks()
    first = by_name(own, draw(own, 0))
    assert first == by_name(own, draw(own, 0))
    assert first == by_name(own[::-1], draw(own[::-1], 0))
    assert any(first != by_name(own, draw(own, seed)) for seed in (1, 2, 3))
