"""Losses, each one equation.

Losses of logits are means over target tokens whose label is not -100 (padding), in nats. Other positions affect
neither value nor gradient, even if they are not finite. Sums are computed in fp32 or higher precision. Teachers get no
gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softplus

from tagi.adapters.bank import Factors, LoraBank
from tagi.backbones.shapes import Labels, Logits, Scalar
from tagi.settings.text import IGNORED


def prediction_loss(logits: Logits, labels: Labels) -> Scalar:
    """`L_pred = -mean log P(c | b; generator(a))` over target tokens, in nats (eq. 3, with its missing sign).

    Labels of -100 are padding.
    """
    counted = labels != IGNORED
    return cross_entropy(logits[counted].float(), labels[counted])


def row_losses(logits: Logits, labels: Labels) -> Float[Tensor, " row"]:
    """Each row's `-mean log P(c | b; generator(a))` over its own target tokens, in nats per token.

    A row whose labels are all -100 gives 0.
    """
    flat = cross_entropy(_wide(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return flat.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def distillation_loss(
    student_logits: Logits, teacher_logits: Logits, labels: Labels, temperature: float = 1.0
) -> Scalar:
    """`L_kl = T^2 mean KL(P_teacher(. | a; b) || P_student(. | b))`, both `softmax(logits / T)`, in nats (eq. 5).

    The mean is over target tokens and not over the vocabulary; T^2 keeps the gradient's size when T changes. As
    `prediction_loss`, it is NaN when no label counts.
    """
    counted = labels != IGNORED
    student = _log_probabilities(student_logits[counted], temperature)
    teacher = _log_probabilities(teacher_logits[counted].detach(), temperature)
    return temperature**2 * _divergence(teacher, student)


@dataclass(frozen=True)
class TopLogits:
    """The k most likely tokens of a teacher's distributions at one temperature.

    `values` are log-probabilities in nats and `indices` their tokens. Values kept narrower than fp32 shift the
    remainder by their rounding, and the loss with it.
    """

    values: Float[Tensor, "row target k"]
    indices: Int[Tensor, "row target k"]

    @property
    def remainder(self) -> Float[Tensor, "row target"]:
        """Log-probability of any other token, `log(1 - sum exp values)`; -inf where rounding leaves nothing."""
        kept = _wide(self.values).logsumexp(-1).clamp(max=0)
        return torch.log(-torch.expm1(kept))


def top_logits(logits: Logits, k: int, temperature: float = 1.0) -> TopLogits:
    """The k likeliest tokens of `softmax(logits / T)`, likeliest first, without gradient.

    Raises `ValueError` unless 1 <= k <= vocabulary.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"expected k between 1 and the {logits.shape[-1]} tokens of the vocabulary, got {k}")
    values, indices = _log_probabilities(logits.detach(), temperature).topk(k)
    return TopLogits(values, indices)


def top_distillation_loss(student_logits: Logits, top: TopLogits, labels: Labels, temperature: float = 1.0) -> Scalar:
    """`distillation_loss` over k + 1 events: each token in `top`, and any other token (eq. 5), in nats.

    Never more than the loss of the whole distribution, since joining events loses information, and equal to it from
    k = vocabulary - 1 on. `temperature` must be the one that `top` was made with.
    """
    counted = labels != IGNORED
    student = _log_probabilities(student_logits[counted], temperature)
    indices, teacher = top.indices[counted].long(), _wide(top.values[counted].detach())
    events = student.gather(-1, indices)
    if indices.shape[-1] < student.shape[-1]:  # otherwise the remainder is 0, and the gradient of its logarithm is NaN
        others = student.scatter(-1, indices, float("-inf")).logsumexp(-1, keepdim=True)
        events = torch.cat([events, others], -1)
        teacher = torch.cat([teacher, top.remainder[counted].detach().unsqueeze(-1)], -1)
    return temperature**2 * _divergence(teacher, events)


def factor_alignment(generated: LoraBank, teacher: LoraBank, start: LoraBank | None = None) -> Scalar:
    """`L_ins = MSE(Delta_i, Hypernetwork(a))` over the factors (eq. 4). Task i is compared with task i.

    Scales are ignored, and equal updates `BA = (BM)(M^-1 A)` have a distance here: see `product_alignment`.

    Args:
        generated: The generated LoRA of every task.
        teacher: The LoRA of every task's teacher, of the same rank.
        start: Where generated LoRA and teacher both started (A0, and B = 0). With it, the squared distance to the
            teacher, `||A - A'||^2 + ||B - B'||^2` summed over target modules, is divided by the start's: 1 at the start
            and 0 at the teacher, as a mean over tasks. Without it, the mean square over all elements of a target module
            and all tasks, in squared weights; then the mean over target modules.

    Raises `ValueError` naming a target module that only one bank has, or whose factors differ in shape.
    """
    return _alignment(_factor_distances, generated, teacher, start)


def product_alignment(generated: LoraBank, teacher: LoraBank, start: LoraBank | None = None) -> Scalar:
    """`L_ins = ||scale B A - scale' B' A'||_F^2`: eq. 4 on the update Delta W itself. Task i is compared with task i.

    Scales and ranks may differ. Delta W is not formed: the difference is one product `DC` of the joined ranks, and
    `||DC||^2 = sum (D^T D) * (C C^T)`.

    Computed in fp32 or better, also under autocast. With W = scale ||B|| ||A|| of the larger update and eps the
    precision's, rounding moves the squared distance by a few eps W^2; what it moves below 0 is clamped and has no
    gradient. Factors of equal rank that are near each other, as a shared A0 has it, do better: the distance itself is
    right to a few eps W, as if Delta W had been formed.

    Args:
        generated: The generated LoRA of every task.
        teacher: The LoRA of every task's teacher.
        start: Where generated LoRA and teacher both started. With it, the squared distance to the teacher, summed over
            target modules, is divided by the start's: 1 at the start and 0 at the teacher, as a mean over tasks.
            Without it, the mean over elements of Delta W, tasks and target modules, in squared weights.

    Raises `ValueError` naming a target module that only one bank has, or whose tasks or widths differ.
    """
    return _alignment(_product_distances, generated, teacher, start)


Distances = dict[str, tuple[Float[Tensor, " task"], int]]
"""By target module: every task's squared distance, and the elements that it sums over."""


def _alignment(
    distances: Callable[[LoraBank, LoraBank], Distances],
    generated: LoraBank,
    teacher: LoraBank,
    start: LoraBank | None,
) -> Scalar:
    found = distances(generated, teacher)
    if start is None:
        return torch.stack([squares.mean() / elements for squares, elements in found.values()]).mean()
    with torch.no_grad():
        whole = _total(distances(start, teacher))
    # A teacher at the common start gives no signal.
    return (_total(found) / whole.where(whole > 0, torch.inf)).mean()


def _total(distances: Distances) -> Float[Tensor, " task"]:
    return torch.stack([squares for squares, _ in distances.values()]).sum(0)


def _factor_distances(generated: LoraBank, teacher: LoraBank) -> Distances:
    _check_alike(generated, teacher, ranks=True)
    found: Distances = {}
    for module, pair in generated.factors.items():
        pairs = zip(pair, teacher.factors[module], strict=True)
        gaps = torch.cat([(_wide(ours) - _wide(theirs.detach())).flatten(1) for ours, theirs in pairs], 1)
        found[module] = gaps.square().sum(1), gaps.shape[1]
    return found


def _product_distances(generated: LoraBank, teacher: LoraBank) -> Distances:
    _check_alike(generated, teacher, ranks=False)
    found: Distances = {}
    for module, (a, b) in generated.factors.items():
        teacher_a, teacher_b = (_wide(factor.detach()) for factor in teacher.factors[module])
        with torch.autocast(a.device.type, enabled=False):
            down, up = _difference((_wide(a), generated.scale * _wide(b)), (teacher_a, teacher.scale * teacher_b))
            squares = ((up.mT @ up) * (down @ down.mT)).sum((1, 2))
        found[module] = squares.clamp(min=0), a.shape[2] * b.shape[1]
    return found


def contrast_loss(right: Float[Tensor, " row"], wrong: Float[Tensor, " row"], margin: float = 0.0) -> Scalar:
    """`mean log(1 + exp(margin + right - wrong))` over rows, in nats (not in the paper).

    `right` and `wrong` are `row_losses` of the same rows, in nats per token, under the right instruction's adapter and
    under another task's: small where the right instruction makes the target likelier by more than `margin`.
    """
    return softplus(margin + _wide(right) - _wide(wrong)).mean()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _log_probabilities(logits: Float[Tensor, "*position vocabulary"], temperature: float) -> Tensor:
    return log_softmax(_wide(logits) / temperature, -1)


def _divergence(teacher: Float[Tensor, "token event"], student: Float[Tensor, "token event"]) -> Scalar:
    """Mean over tokens of KL(teacher || student), from log-probabilities."""
    gap = (teacher - student).masked_fill(teacher == float("-inf"), 0)  # 0 log 0 = 0
    return (teacher.exp() * gap).sum(-1).mean()


def _difference(
    generated: tuple[Float[Tensor, "task rank d_in"], Float[Tensor, "task d_out rank"]],
    teacher: tuple[Float[Tensor, "task teacher_rank d_in"], Float[Tensor, "task d_out teacher_rank"]],
) -> tuple[Float[Tensor, "task joined d_in"], Float[Tensor, "task d_out joined"]]:
    """C and D of `DC = BA - B'A'`, the ranks joined.

    Of equal ranks `(B - B')A + B'(A - A')` is taken: it is small term by term when the factors are near each other,
    where `BA - B'A'` would leave only rounding.
    """
    (a, b), (teacher_a, teacher_b) = generated, teacher
    if a.shape == teacher_a.shape:
        return torch.cat([a, a - teacher_a], 1), torch.cat([b - teacher_b, teacher_b], 2)
    return torch.cat([a, teacher_a], 1), torch.cat([b, -teacher_b], 2)


def _check_alike(generated: LoraBank, teacher: LoraBank, *, ranks: bool) -> None:
    lonely = sorted(generated.factors.keys() ^ teacher.factors.keys())
    if lonely:
        has, lacks = ("generated", "teacher") if lonely[0] in generated.factors else ("teacher", "generated")
        raise ValueError(f"the {has} bank has factors for {lonely[0]!r}, the {lacks} bank has none")
    for module, ours in generated.factors.items():
        theirs = teacher.factors[module]
        if _sizes(ours, ranks) != _sizes(theirs, ranks):
            shapes = [f"A {tuple(a.shape)} and B {tuple(b.shape)}" for a, b in (theirs, ours)]
            raise ValueError(f"at {module!r} expected factors that fit the teacher's {shapes[0]}, got {shapes[1]}")


def _sizes(factors: Factors, ranks: bool) -> list[int]:
    a, b = factors
    return [*a.shape, *b.shape] if ranks else [a.shape[0], a.shape[2], b.shape[0], b.shape[1]]
