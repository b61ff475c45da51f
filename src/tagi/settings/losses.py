"""The terms of the finetuning loss (eq. 6)."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, NotNegative, Positive, Table


@dataclass(frozen=True)
class LossSettings(Table):
    """Weights and variants of the terms of the finetuning loss (eq. 6). A weight of 0 switches a term off.

    Args:
        prediction: Weight of the cross-entropy of the target, L_pred.
        kl: Weight of L_kl (lambda_1), the KL divergence from the teacher's to the student's distribution.
        teacher: Teacher of L_kl: the category's LoRA teacher ("lora"), the meta-trained model ("metatrained"), or
            FiD-ICL with demonstrations ("fid-icl").
        temperature: Temperature of both distributions in L_kl.
        top_k: Compute the teacher's distributions once before training and store this many of their largest
            probabilities. By default the teacher runs in every step.
        ins: Weight of L_ins (lambda_2), the distance between generated and teacher LoRA.
        alignment: What L_ins compares: the factors A and B ("factors", eq. 4), or their products ("product").
        ins_normalized: Divide L_ins by the teacher's distance from the common start, so that it is 1 at the start and 0
            at the teacher. Otherwise it is a mean over elements (eq. 4 literally), which is too small to affect
            training.
        alignment_split: Apply L_ins only to the tasks of this split of Figure 3 (a number of categories or data sets).
        contrast: Weight of a contrastive term, which is not in the paper: the target should be more likely with the
            task's own adapter than with another task's.
        contrast_margin: Margin of `contrast` in nats per token.
        alone: Weight of the cross-entropy with the adapter alone, which is not in the paper. Every example is then
            trained twice, with the instruction in the prompt and with the adapter alone.
        alone_kl: Weight of the KL divergence, in these pairs, from the distribution with the instruction to the one
            with the adapter alone. Not in the paper.
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
