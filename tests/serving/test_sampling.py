"""Sampling: the right distribution, and the same tokens for a seed whatever is in the batch."""

import pytest
import torch
from torch import Tensor

from tagi.serving.protocol import Sampling
from tagi.serving.sampling import Sampler, choose, most_probable

WEIGHTS = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])


def sampler(seed: int | None = None, **sampling: float) -> Sampler:
    return Sampler(Sampling(**{"max_tokens": 9, "temperature": 1.0, "seed": seed, **sampling}))  # type: ignore[arg-type]


def drawn(count: int, **sampling: float) -> Tensor:
    """How often each token is chosen, each row with a seed of its own."""
    samplers = [sampler(seed, **sampling) for seed in range(count)]
    chosen = choose(WEIGHTS.log().expand(count, -1), samplers)
    return torch.bincount(torch.tensor(chosen), minlength=len(WEIGHTS)) / count


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, WEIGHTS),
        ({"temperature": 0.5}, WEIGHTS**2 / (WEIGHTS**2).sum()),
        ({"top_p": 0.69}, torch.tensor([0, 4 / 7, 0, 0, 3 / 7])),
        ({"top_p": 0.72}, torch.tensor([0, 0.4, 0, 0.25, 0.3]) / 0.95),
        ({"top_p": 0.0}, torch.tensor([0.0, 1, 0, 0, 0])),
        ({"temperature": 0.0}, torch.tensor([0.0, 1, 0, 0, 0])),
        ({"temperature": 1e-30}, torch.tensor([0.0, 1, 0, 0, 0])),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_probable(sampling: dict[str, float], expected: Tensor) -> None:
    found = drawn(4000, **sampling)
    assert (found - expected).abs().max() < 0.03
    assert found[expected == 0].sum() == 0


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_row_gets_the_same_tokens_whatever_is_in_the_batch(top_p: float) -> None:
    logits = torch.randn(6, 5, 31, generator=torch.Generator().manual_seed(1))
    alone, beside = sampler(7, top_p=top_p), sampler(7, top_p=top_p)
    others = [sampler(8), sampler(9, top_p=0.5), sampler(temperature=0.0), sampler(top_p=top_p)]
    for step in logits:
        by_itself = choose(step[2:3], [alone])
        assert choose(step, [*others[:2], beside, *others[2:]])[2] == by_itself[0]


def test_another_seed_gives_other_tokens_and_no_seed_new_ones() -> None:
    logits = torch.zeros(1, 1000)
    for seeds in [(1, 2), (None, None), (0, -1), (5, 2**63)]:
        first, second = (sampler(seed) for seed in seeds)
        assert [choose(logits, [first]) for _ in range(4)] != [choose(logits, [second]) for _ in range(4)]


def test_log_probabilities_are_those_of_the_model_best_first() -> None:
    logprob, top = most_probable(WEIGHTS.log() + 3, 3, 2)
    assert logprob == pytest.approx(float(WEIGHTS[3].log()), abs=1e-5)
    assert [token for token, _ in top] == [1, 4]
    assert [value for _, value in top] == pytest.approx(WEIGHTS[[1, 4]].log().tolist(), abs=1e-5)
    assert len(most_probable(WEIGHTS.log(), 0, 20)[1]) == len(WEIGHTS)
