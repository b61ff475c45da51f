"""Documents split at random points: pretraining of hypernetworks on unlabelled text (eq. 3 of the paper)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tagi.errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """An unlabelled text and its index in an endless stream. In every pass over the corpus it has another index."""

    index: int
    text: str


def cut(ids: Sequence[int], parts: int, seed: int, index: int) -> list[list[int]]:
    """Split token ids into `parts` non-empty parts at distinct points, drawn uniformly.

    Three parts are a, b and c of eq. 3; four are HyperTuning's A, B, C and D. The points depend only on `seed`, the
    document's `index`, and the numbers of ids and parts. Raises `DataError` if there are fewer ids than parts.
    """
    if parts < 1 or len(ids) < parts:
        raise DataError(f"document {index}: expected at least {max(parts, 1)} tokens for {parts} parts, got {len(ids)}")
    rng = random.Random(f"cut {seed} {index}")
    points = sorted(rng.sample(range(1, len(ids)), parts - 1))
    return [list(ids[start:end]) for start, end in zip([0, *points], [*points, len(ids)], strict=True)]
