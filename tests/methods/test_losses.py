"""Losses against hand computations: loops over numbers, not the calls under test."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.methods.objective.losses import (
    TopLogits,
    contrast_loss,
    distillation_loss,
    factor_alignment,
    prediction_loss,
    product_alignment,
    row_losses,
    top_distillation_loss,
    top_logits,
)

TASKS, RANK, SCALE, TEACHER_SCALE = 2, 3, 2.5, 0.75
WIDTHS = {"q": (7, 5), "v": (4, 11)}
"""d_in and d_out by target module."""

VOCABULARY = 6
LABELS = torch.tensor([[1, 5, 3, -100], [2, -100, 0, -100], [4, -100, -100, -100]])
COUNTED = [(row, at) for row, at in product(range(3), range(4)) if LABELS[row, at] != -100]


def random(*shape: int, seed: int, factor: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * factor


def logits(seed: int) -> Tensor:
    return random(*LABELS.shape, VOCABULARY, seed=seed, factor=2)


def bank(seed: int, scale: float = SCALE, rank: int = RANK, tasks: int = TASKS) -> LoraBank:
    factors = {
        module: (random(tasks, rank, d_in, seed=seed + at), random(tasks, d_out, rank, seed=seed + at + 50))
        for at, (module, (d_in, d_out)) in enumerate(WIDTHS.items())
    }
    return LoraBank(factors, scale)


def near(found: Tensor, wanted: float, relative: float = 1e-12) -> None:
    assert found.shape == ()
    assert math.isclose(found.item(), wanted, rel_tol=relative), (found.item(), wanted)


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


def divergence(teacher: Sequence[float], student: Sequence[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def distillation(student: Tensor, teacher: Tensor, temperature: float, kept: int | None = None) -> float:
    """`T^2 mean KL` by loops; with `kept`, all but the teacher's likeliest so many tokens are one event."""
    total = 0.0
    for row, at in COUNTED:
        p = softmax(teacher[row, at].tolist(), temperature)
        q = softmax(student[row, at].tolist(), temperature)
        if kept is not None:
            order = sorted(range(VOCABULARY), key=lambda token: -p[token])
            p, q = ([x[t] for t in order[:kept]] + [sum(x[t] for t in order[kept:])] for x in (p, q))
        total += divergence(p, q)
    return temperature**2 * total / len(COUNTED)


def top_loss(k: int, temperature: float = 1.0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`distillation_loss` as it is when the teacher's k likeliest tokens are kept."""
    return lambda student, teacher, labels: top_distillation_loss(
        student, top_logits(teacher, k, temperature), labels, temperature
    )


DISTILLATIONS = [distillation_loss, *(top_loss(k) for k in (1, 4, 5, 6))]


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
    wide, teacher = logits.float(), torch.randn(2, 3, 999, generator=random).bfloat16()
    assert prediction_loss(logits, labels).dtype == torch.float32
    assert torch.equal(prediction_loss(logits, labels), prediction_loss(wide, labels))
    assert torch.equal(row_losses(logits, labels), row_losses(wide, labels))
    for loss in (distillation_loss, top_loss(4)):
        assert loss(logits, teacher, labels).dtype == torch.float32
        assert torch.equal(loss(logits, teacher, labels), loss(wide, teacher.float(), labels))


def test_row_losses_by_hand() -> None:
    """Rows of 3, 2 and 1 counted tokens, and two of none; what is at the others is garbage."""
    labels = torch.full((5, 6), -100)
    labels[:3, :4] = LABELS
    scores = torch.full((5, 6, VOCABULARY), 1e6, dtype=torch.float64)
    wanted = [0.0] * 5
    for row, at in COUNTED:
        scores[row, at] = logits(1)[row, at]
        wanted[row] -= math.log(softmax(scores[row, at].tolist())[int(LABELS[row, at])]) / (3 - row)
    found = row_losses(scores, labels)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(wanted, rel=1e-12, abs=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 0.5])
def test_distillation_by_hand(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    wanted = distillation(student, teacher, temperature)
    near(distillation_loss(student, teacher, LABELS, temperature), wanted)
    near(distillation_loss(student.float(), teacher.float(), LABELS, temperature), wanted, relative=1e-5)


def test_direction_and_temperature_by_numbers() -> None:
    """Of a coin that falls 9 to 1 and one that falls 1 to 1: `0.9 ln 1.8 + 0.1 ln 0.2`, reversed `ln(5/3)`."""
    fair, biased = (torch.tensor([[[score, 0.0]]], dtype=torch.float64) for score in (0.0, math.log(9)))
    label = torch.tensor([[0]])
    near(distillation_loss(fair, biased, label), 0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    near(distillation_loss(biased, fair, label), math.log(5 / 3))
    near(distillation_loss(fair, biased, label, 2.0), 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))  # 3 to 1
    near(distillation_loss(biased, fair, label, 2.0), 4 * math.log(2 / math.sqrt(3)))


def test_a_teacher_diverges_from_others_and_not_from_itself() -> None:
    scores, other = logits(1), logits(2)
    for loss in DISTILLATIONS:
        assert abs(float(loss(scores, scores, LABELS))) < 1e-15
        assert abs(float(loss(scores + 3, scores, LABELS))) < 1e-15
        assert float(loss(other, scores, LABELS)) > 0.1


@pytest.mark.parametrize("loss", DISTILLATIONS)
@pytest.mark.parametrize("garbage", [1e6, float("inf"), float("nan")])
def test_ignored_labels_and_padding_change_no_value_and_no_gradient(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], garbage: float
) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    wanted = loss(student, teacher, LABELS)
    (gradient,) = torch.autograd.grad(wanted, student)

    blank = torch.full((3, 2, VOCABULARY), garbage).double()
    ignored = LABELS == -100
    padded = torch.cat([student.detach().masked_fill(ignored.unsqueeze(-1), garbage), blank], 1).requires_grad_()
    padded_teacher = torch.cat([teacher.masked_fill(ignored.unsqueeze(-1), garbage), blank], 1)
    labels = torch.cat([LABELS, torch.full((3, 2), -100)], 1)
    found = loss(padded, padded_teacher, labels)
    (padded_gradient,) = torch.autograd.grad(found, padded)
    assert torch.equal(found, wanted)
    assert torch.equal(padded_gradient[:, :4], gradient)
    assert not padded_gradient[:, 4:].any()
    assert gradient[~ignored].any(-1).all()

    changed = teacher.clone()
    changed[0, 2, 4] += 1
    assert not torch.equal(loss(student, changed, LABELS), wanted)
    assert loss(student, teacher, torch.full_like(LABELS, -100)).isnan()


def test_nothing_flows_into_the_teacher() -> None:
    for loss in DISTILLATIONS:
        student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
        loss(student, teacher, LABELS).backward()
        assert teacher.grad is None
        assert student.grad is not None
    kept = top_logits(logits(2), 4)
    kept.values.requires_grad_()
    top_distillation_loss(logits(1).requires_grad_(), kept, LABELS).backward()
    assert kept.values.grad is None
    for alignment in (factor_alignment, product_alignment):
        ours, theirs = (bank(seed).map(Tensor.requires_grad_) for seed in (1, 20))
        alignment(ours, theirs).backward()
        assert all(factor.grad is None for pair in theirs.factors.values() for factor in pair)
        assert all(factor.grad is not None for pair in ours.factors.values() for factor in pair)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("k", range(1, VOCABULARY + 1))
def test_kept_tokens_by_hand(k: int, temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    found = top_loss(k, temperature)(student, teacher, LABELS)
    wanted = distillation(student, teacher, temperature, kept=k if k < VOCABULARY else None)
    near(found, wanted)
    whole = distillation(student, teacher, temperature)
    if k >= VOCABULARY - 1:
        near(found, whole)
    else:
        assert float(found) < whole * 0.999


def test_what_is_kept() -> None:
    kept = top_logits(logits(2).requires_grad_(), 4, 2.0)
    assert not kept.values.requires_grad
    for row, at in product(range(3), range(4)):
        p = softmax(logits(2)[row, at].tolist(), 2.0)
        order = sorted(range(VOCABULARY), key=lambda token: -p[token])
        assert kept.indices[row, at].tolist() == order[:4]
        assert kept.values[row, at].tolist() == pytest.approx([math.log(p[token]) for token in order[:4]])
        assert float(kept.remainder[row, at]) == pytest.approx(math.log(p[order[4]] + p[order[5]]))
    for k in (0, VOCABULARY + 1):
        with pytest.raises(ValueError, match=f"between 1 and the {VOCABULARY} tokens .* got {k}"):
            top_logits(logits(2), k)


@pytest.mark.parametrize("k", range(1, VOCABULARY + 1))
@pytest.mark.parametrize("sharpness", [1.0, 60.0])
def test_kept_tokens_leave_gradients_finite(k: int, sharpness: float) -> None:
    """Also where rounding leaves the remainder no probability, at the teacher or at the student."""
    student, teacher = (logits(1) * sharpness).float().requires_grad_(), (logits(2) * sharpness).float()
    loss = top_loss(k)(student, teacher, LABELS)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    assert gradient[LABELS != -100].any()
    near(loss, distillation(student.detach(), teacher, 1.0, kept=k if k < VOCABULARY else None), relative=1e-5)


def test_kept_tokens_may_be_stored_narrowly() -> None:
    student = logits(1).float()
    for k in (4, VOCABULARY):
        kept = top_logits(logits(2).float(), k)
        narrow = TopLogits(kept.values.half(), kept.indices.short())
        rounded = TopLogits(narrow.values.float(), kept.indices)
        found = top_distillation_loss(student, narrow, LABELS)
        near(found, top_distillation_loss(student, kept, LABELS).item(), relative=1e-2)
        assert torch.equal(found, top_distillation_loss(student, rounded, LABELS))
    certain = TopLogits(torch.zeros(3, 4, 1).half(), LABELS.clamp(min=0).unsqueeze(-1))
    assert (certain.remainder == -math.inf).all()  # the student's cross-entropy is left
    near(top_distillation_loss(student, certain, LABELS), float(prediction_loss(student, LABELS)), relative=1e-6)
    above = TopLogits(torch.full((3, 4, 1), 1e-3), LABELS.clamp(min=0).unsqueeze(-1))
    assert (above.remainder == -math.inf).all()


@pytest.mark.parametrize("loss", [distillation_loss, *(top_loss(k, 1.5) for k in (2, 5, 6))])
def test_gradient_of_distillation(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(lambda student: loss(student, logits(2), LABELS), logits(1).requires_grad_())


def test_factor_alignment_by_hand() -> None:
    ours, theirs = bank(1), bank(20)
    wanted = 0.0
    for module, (d_in, d_out) in WIDTHS.items():
        squares = [
            (x - y) ** 2
            for mine, other in zip(ours.factors[module], theirs.factors[module], strict=True)
            for x, y in zip(mine.flatten().tolist(), other.flatten().tolist(), strict=True)
        ]
        wanted += sum(squares) / (TASKS * RANK * (d_in + d_out)) / len(WIDTHS)
    near(factor_alignment(ours, theirs), wanted)
    assert float(factor_alignment(ours, ours)) == 0


def explicit(ours: LoraBank, theirs: LoraBank) -> float:
    """Mean square of Delta W - Delta W' by loops over both matrices, mean over tasks and target modules."""
    total = 0.0
    for module, (d_in, d_out) in WIDTHS.items():
        for task, row, column in product(range(ours.tasks), range(d_out), range(d_in)):
            gap = 0.0
            for its, sign in ((ours, 1), (theirs, -1)):
                a, b = (factor[task].tolist() for factor in its.factors[module])
                gap += sign * its.scale * sum(b[row][rank] * a[rank][column] for rank in range(its.rank))
            total += gap**2 / (d_in * d_out * ours.tasks * len(WIDTHS))
    return total


@pytest.mark.parametrize("rank", [RANK, 2, 6])
@pytest.mark.parametrize("scale", [SCALE, TEACHER_SCALE])
def test_product_alignment_is_the_distance_of_the_updates(rank: int, scale: float) -> None:
    ours, theirs = bank(1), bank(20, scale, rank)
    near(product_alignment(ours, theirs), explicit(ours, theirs))
    near(product_alignment(theirs, ours), explicit(ours, theirs))
    near(product_alignment(ours.zero(), theirs), explicit(ours.zero(), theirs))


@pytest.mark.parametrize("alignment", [factor_alignment, product_alignment])
def test_normalized_alignment_is_one_at_the_start_and_zero_at_the_teacher(
    alignment: Callable[..., Tensor],
) -> None:
    start, theirs = bank(3).zero(), bank(20)
    assert float(alignment(start, theirs, start)) == pytest.approx(1)
    assert float(alignment(theirs, theirs, start)) == 0
    nothing_learnt = LoraBank(start.factors, theirs.scale)
    assert float(alignment(bank(1), nothing_learnt, start)) == 0


def test_normalized_factor_alignment_by_hand() -> None:
    ours, theirs, start = bank(1), bank(20), bank(3).zero()

    def squares(its: LoraBank, task: int) -> float:
        return sum(
            float((factor[task] - other[task]).square().sum())
            for module in WIDTHS
            for factor, other in zip(its.factors[module], theirs.factors[module], strict=True)
        )

    ratios = [squares(ours, task) / squares(start, task) for task in range(TASKS)]
    near(factor_alignment(ours, theirs, start), sum(ratios) / TASKS)


def test_equal_updates_are_apart_in_factors_alone() -> None:
    """`(BM)(M^-1 A)` is `BA`; so is the same update at another scale, or at another rank."""
    ours = bank(1)
    change = random(RANK, RANK, seed=9) + 2 * torch.eye(RANK)
    turned = LoraBank({s: (change.inverse() @ a, b @ change) for s, (a, b) in ours.factors.items()}, SCALE)
    rescaled = LoraBank({s: (a, b * SCALE / TEACHER_SCALE) for s, (a, b) in ours.factors.items()}, TEACHER_SCALE)
    joined = {s: (torch.cat([a, a], 1), torch.cat([b, b], 2) / 2) for s, (a, b) in ours.factors.items()}
    size = explicit(ours, ours.zero())
    for other in (turned, rescaled, LoraBank(joined, SCALE)):
        assert 0 <= float(product_alignment(ours, other)) < 1e-13 * size
    assert float(factor_alignment(ours, turned)) > 0.1
    assert float(product_alignment(ours, LoraBank(ours.factors, TEACHER_SCALE))) > 0.1 * size
    assert float(product_alignment(ours, ours)) == 0


@pytest.mark.parametrize("offset", [1e-3, 1e-5])
def test_near_factors_keep_their_distance_in_single_precision(offset: float) -> None:
    """The root is right to a few eps of ||B|| ||A||; summing the squares of both would lose it below sqrt(eps)."""
    theirs = bank(1).map(Tensor.float)
    ours = theirs.map(lambda x: (x * (1 + offset * random(*x.shape, seed=7).float())).requires_grad_())
    wanted = explicit(ours.map(Tensor.double), theirs.map(Tensor.double))
    found = product_alignment(ours, theirs)
    assert found.dtype == torch.float32
    size = sum(
        (SCALE * (a.norm() * b.norm()).item()) ** 2 / (a.shape[2] * b.shape[1]) for a, b in ours.factors.values()
    )
    bound = 4 * torch.finfo(torch.float32).eps * math.sqrt(size)
    assert bound < 0.2 * math.sqrt(wanted)
    assert abs(math.sqrt(found.item()) - math.sqrt(wanted)) < bound

    precise = ours.map(lambda factor: factor.detach().double().requires_grad_())
    gradients = [
        torch.autograd.grad(loss, [factor for pair in its.factors.values() for factor in pair])
        for its, loss in ((ours, found), (precise, product_alignment(precise, theirs.map(Tensor.double))))
    ]
    for narrow, wide in zip(*gradients, strict=True):
        assert (narrow - wide).norm() < 0.1 * wide.norm()


def test_rounding_never_makes_a_negative_distance() -> None:
    """Equal updates from unlike factors cancel to rounding of either sign: the value is clamped, within its bound."""
    for seed in range(40):
        ours = bank(seed).map(Tensor.float)
        turn = torch.linalg.qr(random(RANK, RANK, seed=seed))[0].float()
        theirs = LoraBank({s: (turn.T @ a, b @ turn) for s, (a, b) in ours.factors.items()}, SCALE)
        size = sum((SCALE * a.norm() * b.norm()).item() ** 2 for a, b in ours.factors.values())
        assert 0 <= product_alignment(ours, theirs).item() < 4 * torch.finfo(torch.float32).eps * size


def test_autocast_does_not_narrow_the_alignments() -> None:
    ours, theirs = bank(1).map(Tensor.float).map(Tensor.requires_grad_), bank(20, TEACHER_SCALE).map(Tensor.float)
    for alignment in (product_alignment, factor_alignment):
        wanted = alignment(ours, theirs)
        with torch.autocast("cpu", torch.bfloat16):
            assert (ours.factors["q"][0] @ theirs.factors["q"][0].mT).dtype == torch.bfloat16
            found = alignment(ours, theirs)
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
        narrow = [its.map(lambda factor: factor.detach().bfloat16()) for its in (ours, theirs)]
        assert torch.equal(alignment(*narrow), alignment(*(its.map(Tensor.float) for its in narrow)))


@pytest.mark.parametrize(
    ("alignment", "rank"), [(factor_alignment, RANK), (product_alignment, RANK), (product_alignment, 2)]
)
def test_gradient_of_the_alignments(alignment: Callable[[LoraBank, LoraBank], Tensor], rank: int) -> None:
    theirs = bank(20, TEACHER_SCALE, rank)

    def loss(*factors: Tensor) -> Tensor:
        return alignment(LoraBank({"q": factors[:2], "v": factors[2:]}, SCALE), theirs)

    factors = [factor.requires_grad_() for pair in bank(1).factors.values() for factor in pair]
    assert torch.autograd.gradcheck(loss, factors)


def test_banks_that_do_not_fit_are_named_by_site() -> None:
    ours, less = bank(1), LoraBank({"q": bank(1).factors["q"]}, SCALE)
    wide = LoraBank({**ours.factors, "v": (random(TASKS, RANK, 8, seed=1), ours.factors["v"][1])}, SCALE)
    for alignment in (factor_alignment, product_alignment):
        with pytest.raises(ValueError, match="the generated bank has factors for 'v', the teacher bank has none"):
            alignment(ours, less)
        with pytest.raises(ValueError, match="the teacher bank has factors for 'v', the generated bank has none"):
            alignment(less, ours)
        with pytest.raises(ValueError, match=r"at 'q' expected .* A \(1, 3, 7\) and B \(1, 5, 3\), got A \(2, 3, 7\)"):
            alignment(ours, bank(20, tasks=1))  # would broadcast
        with pytest.raises(ValueError, match="at 'v' expected"):
            alignment(ours, wide)
    with pytest.raises(ValueError, match=r"at 'q' expected .* A \(2, 1, 7\)"):
        factor_alignment(ours, bank(20, rank=1))  # would broadcast


def test_contrast_by_hand_and_its_gradient() -> None:
    right, wrong = [0.5, 2.0, 1.25], [0.75, 0.5, 40.0]
    for margin in (0.0, 0.3):
        wanted = sum(math.log1p(math.exp(margin + x - y)) for x, y in zip(right, wrong, strict=True)) / 3
        near(contrast_loss(torch.tensor(right).double(), torch.tensor(wrong).double(), margin), wanted)
    assert contrast_loss(torch.tensor(right).bfloat16(), torch.tensor(wrong).bfloat16()).dtype == torch.float32
    pair = random(5, seed=1).requires_grad_(), random(5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *losses: contrast_loss(*losses, 0.3), pair)
