"""Losses against hand computations."""

import math

import torch

from tagi.methods.losses import prediction_loss


def test_prediction_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 1.0, -2.0, 0.5], [3.0, 0.0, 0.0, 1.0], [9.0, 9.0, 9.0, -9.0]]] * 2)
    logits[1] = logits[1] * -0.5
    labels = torch.tensor([[1, 3, -100], [0, -100, -100]])
    total = 0.0
    for row, at in ((0, 0), (0, 1), (1, 0)):
        scores = [float(number) for number in logits[row, at]]
        total += math.log(sum(math.exp(number) for number in scores)) - scores[int(labels[row, at])]
    assert math.isclose(float(prediction_loss(logits, labels)), total / 3, rel_tol=1e-6)


def test_padding_counts_for_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 7, generator=random), torch.tensor([[1, 2, 3, 4, -100]] * 3)
    before = prediction_loss(logits, labels)
    logits[:, 4] = 1e6
    assert torch.equal(prediction_loss(logits, labels), before)
    logits[:, 3] = 1e6
    assert not torch.equal(prediction_loss(logits, labels), before)


def test_narrow_logits_are_summed_in_single_precision() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 999, generator=random).bfloat16(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert prediction_loss(logits, labels).dtype == torch.float32
    assert torch.equal(prediction_loss(logits, labels), prediction_loss(logits.float(), labels))
