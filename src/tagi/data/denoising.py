"""Span corruption, T5's pretraining task, over any unlabelled text."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Token ids of a text with spans replaced by sentinels, and of the spans behind their sentinels."""

    source: list[int]
    target: list[int]


def corrupt_spans(
    ids: Sequence[int],
    sentinels: Sequence[int],
    eos: int,
    rng: random.Random,
    *,
    density: float = 0.15,
    mean_length: float = 3.0,
) -> Corrupted:
    """Corrupt about `density` of the tokens in spans, as in T5 (Raffel et al. 2020, section 3.1.4).

    `ids` must not include end-of-sequence; both results end with it. Lengths of spans are random with the given mean,
    and spans are at least one token apart.
    """
    noisy = min(max(1, round(len(ids) * density)), max(1, len(ids) - 1))
    spans = min(max(1, round(noisy / mean_length)), noisy, len(ids) - noisy, len(sentinels))
    spans = max(spans, 1)
    lengths = _partition(noisy, spans, rng)
    gaps = _partition(len(ids) - noisy, spans, rng) if len(ids) > noisy else [0] * spans
    source: list[int] = []
    target: list[int] = []
    at = 0
    for sentinel, gap, length in zip(sentinels, gaps, lengths, strict=False):
        source += [*ids[at : at + gap], sentinel]
        target += [sentinel, *ids[at + gap : at + gap + length]]
        at += gap + length
    return Corrupted([*source, *ids[at:], eos], [*target, eos])


def _partition(total: int, parts: int, rng: random.Random) -> list[int]:
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
