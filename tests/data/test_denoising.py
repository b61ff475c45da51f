"""Span corruption: source and target together are the text."""

import random

import pytest

from tagi.data.denoising import corrupt_spans

EOS = 1
SENTINELS = list(range(1000, 1020))


def reassembled(source: list[int], target: list[int]) -> list[int]:
    """Every sentinel of the source replaced by what follows it in the target."""
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    return [one for token in source[:-1] for one in spans.get(token, [token])]


@pytest.mark.parametrize("length", [2, 3, 5, 7, 20, 61, 150, 400])
@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 2.0), (0.9, 1.0)])
def test_source_and_target_are_the_text(length: int, density: float, mean: float) -> None:
    ids = list(range(10, 10 + length))
    lengths = []
    for seed in range(20):
        found = corrupt_spans(ids, SENTINELS, EOS, random.Random(seed), density=density, mean_length=mean)
        assert found.source[-1] == found.target[-1] == EOS
        assert reassembled(found.source, found.target) == ids
        used = [token for token in found.source if token in SENTINELS]
        assert used == [token for token in found.target if token in SENTINELS] == SENTINELS[: len(used)]
        assert found.target[0] == SENTINELS[0]
        noisy = len(found.target) - 1 - len(used)
        assert noisy == min(max(1, round(length * density)), length - 1)
        assert not any(a in SENTINELS and b in SENTINELS for a, b in zip(found.source, found.source[1:], strict=False))
        assert not any(a in SENTINELS and b in SENTINELS for a, b in zip(found.target, found.target[1:], strict=False))
        lengths.append(noisy / len(used))
    if length == 150 and density < 0.9:
        assert sum(lengths) / len(lengths) == pytest.approx(mean, rel=0.2 if density == 0.15 else 1)


def test_it_is_random_and_repeatable() -> None:
    ids = list(range(10, 80))
    found = [corrupt_spans(ids, SENTINELS, EOS, random.Random(seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("ids", [[], [10]])
def test_the_shortest_texts(ids: list[int]) -> None:
    found = corrupt_spans(ids, SENTINELS, EOS, random.Random(0))
    assert found.source == [SENTINELS[0], EOS]
    assert found.target == [SENTINELS[0], *ids, EOS]


def test_no_more_spans_than_sentinels() -> None:
    ids = list(range(10, 410))
    found = corrupt_spans(ids, SENTINELS[:3], EOS, random.Random(0))
    assert [token for token in found.source if token in SENTINELS] == SENTINELS[:3]
    assert reassembled(found.source, found.target) == ids
    assert len(found.target) == 60 + 3 + 1
