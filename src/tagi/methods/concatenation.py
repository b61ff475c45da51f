"""An encoder-decoder backbone with the instruction concatenated to every input.

Untrained it is No FT, fully fine-tuned Tk-Instruct.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.backbones.protocol import KeysValues, Reduction
from tagi.backbones.t5 import T5Backbone, score_cached
from tagi.data.text.encoder import TextEncoder
from tagi.methods.prompted import Prompted


class EncoderDecoder(Prompted[T5Backbone]):
    """The encoder reads a prompt, the decoder writes the answer."""

    family = T5Backbone
    encoder = TextEncoder

    def _logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        return self.backbone.logits(self.backbone.encode(ids, mask), mask, labels)

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """The decoder's keys and values over the encoded prompts."""
        ids, mask = super()._read(states, rows, inputs, truncate)
        return self.backbone.cross_keys_values(self.backbone.encode(ids, mask)), mask

    def _answers(
        self,
        read: KeysValues,
        mask: Bool[Tensor, "row memory"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None,
        num_beams: int,
    ) -> Int[Tensor, "row answer"]:
        return self.backbone.generate(
            read, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams
        )

    def _scores(
        self,
        read: KeysValues,
        mask: Bool[Tensor, "row memory"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction,
    ) -> Float[Tensor, "row choice"]:
        return score_cached(self.backbone, read, mask, labels, reduction)


class Concatenation(EncoderDecoder):
    """Instruction and input in one text."""

    name = "concatenation"
