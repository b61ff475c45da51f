"""Table 11 and the splits of Figure 3 (Table 10 is tested with the reader of its data)."""

from itertools import pairwise
from pathlib import Path

import pytest

from tagi.data.splits import (
    P3_SPLIT_SIZES,
    limit_to_split,
    p3_datasets,
    p3_key,
    sni_categories,
    table11,
)
from tagi.data.task import Task
from tagi.errors import DataError


def tasks(*categories: str) -> tuple[Task, ...]:
    return tuple(Task(f"t{at}", category, "Do.", ()) for at, category in enumerate(categories))


def test_table11_is_the_papers(data_dir: Path) -> None:
    lines = (data_dir / "paper" / "table11.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:] if line]
    training = rows[1 : next(at for at, row in enumerate(rows) if row[0] == "Meta-Test")]
    assert [(p3_key(name), count) for name, count in table11().items()] == [
        (p3_key(name), int(count)) for name, count in training if count
    ]
    # The paper's misprint is read as the dataset's own name.
    assert set(table11()) ^ {name for name, count in training if count} == {"samsum", "samsun"}
    headings = [index for index, (_, count) in enumerate(training) if not count]
    assert [index - above for above, index in enumerate(headings)] == [0, *P3_SPLIT_SIZES[:-1]]


def test_table11_sums_to_289_prompts() -> None:
    assert (len(table11()), sum(table11().values())) == (36, 289)


def test_splits_of_p3_are_cumulative() -> None:
    for smaller, larger in pairwise(P3_SPLIT_SIZES):
        assert p3_datasets(larger)[:smaller] == p3_datasets(smaller)
    assert [p3_datasets(size)[-1] for size in P3_SPLIT_SIZES] == ["common_gen", "gigaword", "wiki_bio", "xsum"]
    assert [len(p3_datasets(size)) for size in P3_SPLIT_SIZES] == [5, 10, 20, 36]
    with pytest.raises(DataError, match="P3 split: expected 5, 10, 20, 36 datasets, got 6"):
        p3_datasets(6)


def test_p3_names_in_one_spelling() -> None:
    assert p3_key("cnn_dailymail_3.0.0") == p3_key("cnn_dailymail_3_0_0")
    assert p3_key("samsun") == p3_key("samsum") == "samsum"
    for name in (*table11(), "samsun_x"):
        assert len(p3_key(name)) == len(name)
    assert len(set(map(p3_key, table11()))) == 36


@pytest.mark.parametrize(("size", "kept"), [(6, [1]), (15, [0, 1]), (30, [0, 1]), (60, [0, 1, 3])])
def test_tasks_of_a_split_of_sni(size: int, kept: list[int]) -> None:
    every = tasks("Text Matching", "Question Answering", "xsum", "Poem Generation")
    assert limit_to_split(every, "sni", size) == tuple(every[at] for at in kept)


@pytest.mark.parametrize(("size", "kept"), [(5, [3]), (10, [3, 4]), (20, [3, 4]), (36, [0, 1, 3, 4])])
def test_tasks_of_a_split_of_p3(size: int, kept: list[int]) -> None:
    every = tasks("samsum", "samsun", "trec", "cnn_dailymail_3_0_0", "dream", "Question Answering")
    assert limit_to_split(every, "p3", size) == tuple(every[at] for at in kept)


def test_splits_that_hold_none_of_the_tasks() -> None:
    with pytest.raises(DataError, match=r"sni split: expected tasks of its 6 categories, got none of them \(of 'xsum'"):
        limit_to_split(tasks("xsum"), "sni", 6)
    with pytest.raises(DataError, match="got none of them"):
        limit_to_split((), "p3", 36)
    with pytest.raises(DataError, match="SNI split: expected 6, 15, 30, 60 categories, got 5"):
        limit_to_split(tasks(*sni_categories(60)), "sni", 5)
    with pytest.raises(DataError, match="P3 split: expected 5, 10, 20, 36 datasets, got 6"):
        limit_to_split(tasks("xsum"), "p3", 6)
