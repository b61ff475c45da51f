"""Documents cut at random points."""

from collections import Counter
from itertools import combinations
from math import comb

import pytest

from tagi.data.pretraining import cut
from tagi.errors import DataError


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [4, 5, 17, 230])
def test_the_parts_are_the_document(parts: int, length: int) -> None:
    ids = list(range(100, 100 + length))
    for index in range(60):
        found = cut(ids, parts, 7, index)
        assert len(found) == parts
        assert all(found)
        assert [token for part in found for token in part] == ids


def test_it_depends_on_seed_and_index_alone() -> None:
    ids = tuple(range(90))
    once = [cut(ids, 3, 7, index) for index in range(40)]
    assert [cut(ids, 3, 7, index) for index in reversed(range(40))][::-1] == once
    assert len({str(parts) for parts in once}) > 35
    assert [cut(ids, 3, 8, index) for index in range(40)] != once
    lengths = [list(map(len, parts)) for parts in once]
    assert [list(map(len, cut([5] * 90, 3, 7, index))) for index in range(40)] == lengths


@pytest.mark.parametrize(("parts", "length"), [(3, 6), (4, 7)])
@pytest.mark.parametrize("by", ["index", "seed"])
def test_every_choice_of_points_is_as_likely(parts: int, length: int, by: str) -> None:
    draws = 4000
    counts: Counter[tuple[int, ...]] = Counter()
    for at in range(draws):
        pieces = cut(range(length), parts, *((3, at) if by == "index" else (at, 3)))
        counts[tuple(piece[0] for piece in pieces[1:])] += 1
    expected = draws / comb(length - 1, parts - 1)
    assert set(counts) == set(combinations(range(1, length), parts - 1))
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # Degrees of freedom 9 and 19: the 99.9% points are 27.9 and 43.8.
    assert chi_square < (27.9 if parts == 3 else 43.8)


@pytest.mark.parametrize(("ids", "parts"), [([], 1), ([4, 5], 3), ([4, 5, 6], 4), ([4], 0)])
def test_too_short_to_cut(ids: list[int], parts: int) -> None:
    with pytest.raises(DataError, match=f"document 12: expected .* for {parts} parts, got {len(ids)}"):
        cut(ids, parts, 1, 12)
