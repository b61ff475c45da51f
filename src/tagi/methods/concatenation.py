"""An encoder-decoder backbone with the instruction concatenated to every input.

Untrained it is No FT, fully fine-tuned Tk-Instruct.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.backbones import Reduction, T5Backbone, score_cached
from tagi.data.text import TextEncoder
from tagi.methods.costs import Cost, Lengths
from tagi.methods.prompted import Prompted
from tagi.methods.t5_costs import T5Shapes, concatenation_cost


class Concatenation(Prompted[T5Backbone]):
    """The encoder reads instruction and input in one text, the decoder writes the answer."""

    name = "concatenation"
    family = T5Backbone
    encoder = TextEncoder

    def _logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        return self.backbone.logits(self.backbone.encode(ids, mask), mask, labels)

    def _answers(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None,
        num_beams: int,
    ) -> Int[Tensor, "row answer"]:
        cross = self.backbone.cross_keys_values(self.backbone.encode(ids, mask))
        return self.backbone.generate(
            cross, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams
        )

    def _scores(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction,
    ) -> Float[Tensor, "row choice"]:
        cross = self.backbone.cross_keys_values(self.backbone.encode(ids, mask))
        return score_cached(self.backbone, cross, mask, labels, reduction)

    def cost(self, lengths: Lengths) -> Cost:
        """Instruction and input read together for every example; a LoRA is not merged."""
        shapes = T5Shapes.of(self.backbone.model.config)
        return concatenation_cost(shapes, lengths, None if self.lora is None else self.lora.rank)
