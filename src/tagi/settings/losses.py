"""The terms of the finetuning loss (eq. 6)."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, NotNegative, Positive, Table


@dataclass(frozen=True)
class LossSettings(Table):
    """Weights of the terms of the finetuning loss (eq. 6), 0 for off, and how each is computed.

    Args:
        prediction: Weight of the cross-entropy of the target, L_pred.
        kl: Weight of the divergence from the teacher's distributions, L_kl (lambda_1).
        teacher: Teacher of L_kl: the category's LoRA teacher ("lora"), the meta-trained model ("metatrained"), or
            FiD-ICL with demonstrations ("fid-icl").
        temperature: Temperature of both distributions in L_kl.
        top_k: Compute the teacher's distributions once, before training, and keep only so many of their largest
            entries. Without a value the teacher runs in every step.
        ins: Weight of the distance between generated and teacher LoRA, L_ins (lambda_2).
        alignment: What L_ins compares: A and B ("factors", eq. 4), or their product, the update ("product").
        ins_normalized: Divide L_ins by the teacher's distance from where both started, so that it is 1 there and 0 at
            the teacher. Otherwise it is a mean over elements (eq. 4 as it stands), too small to affect training.
        alignment_split: Apply L_ins only to the tasks of this split of Figure 3 (a number of categories or data sets).
        contrast: Weight of a term of ours: the right instruction's adapter shall explain the target better than
            another task's.
        contrast_margin: Margin of `contrast` in nats per token.
        alone: Weight of a term of ours. Every example makes two rows, one with the instruction before the input and one
            with the adapter alone; this is the weight of the latter's cross-entropy.
        alone_kl: In the same pairs of rows, weight of the divergence of the row with the adapter alone from what the
            same weights say with the instruction.
    """

    later: ClassVar[frozenset[str]] = frozenset({"alone", "alone_kl", "ins_normalized"})

    prediction: NotNegative = 1.0
    kl: NotNegative = 0.0
    teacher: Literal["lora", "metatrained", "fid-icl"] = "lora"
    temperature: Positive = 1.0
    top_k: Count | None = None
    ins: NotNegative = 0.0
    alignment: Literal["factors", "product"] = "factors"
    ins_normalized: Flag = False
    alignment_split: Count | None = None
    contrast: NotNegative = 0.0
    contrast_margin: NotNegative = 0.0
    alone: NotNegative = 0.0
    alone_kl: NotNegative = 0.0

    @property
    def pairs(self) -> bool:
        """Whether every example makes two rows, with the instruction and with the adapter alone."""
        return bool(self.alone or self.alone_kl)
