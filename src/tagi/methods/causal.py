"""A decoder-only backbone with the instruction before every input: the "GPT-2 / OPT style" row of the rivals.

Untrained it is a language model asked with a prompt, fully fine-tuned its counterpart of Tk-Instruct.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tagi.backbones import CausalBackbone, Reduction, score_after
from tagi.data.text import CausalTextEncoder, TextSettings
from tagi.errors import ConfigError
from tagi.methods.causal_costs import CausalShapes, causal_concatenation_cost
from tagi.methods.costs import Cost, Lengths
from tagi.methods.lora import LoraShape
from tagi.methods.prompted import Prompted


class CausalConcatenation(Prompted[CausalBackbone]):
    """One text of instruction, input and answer, each token read with those before it.

    Raises `ConfigError` if the limits of prompt and target together pass the model's positions.
    """

    name = "causal-concatenation"
    family = CausalBackbone
    encoder = CausalTextEncoder

    def __init__(self, backbone: CausalBackbone, text: TextSettings, lora: LoraShape | None = None) -> None:
        if text.max_input_tokens + text.max_target_tokens > backbone.max_tokens:
            raise ConfigError(
                f"{backbone.identity.name}: expected limits of prompt and target that make at most "
                f"{backbone.max_tokens} tokens together (the model's positions), "
                f"got {text.max_input_tokens} and {text.max_target_tokens}"
            )
        super().__init__(backbone, text, lora)

    def _logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        return self.backbone.logits(ids, mask, labels)

    def _answers(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None,
        num_beams: int,
    ) -> Int[Tensor, "row answer"]:
        return self.backbone.generate(
            ids, mask, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams
        )

    def _scores(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction,
    ) -> Float[Tensor, "row choice"]:
        return score_after(self.backbone, self.backbone.read(ids, mask), labels, reduction)

    def cost(self, lengths: Lengths) -> Cost:
        """Instruction and input read together for every example; a LoRA is not merged.

        Raises `ConfigError` for a model whose layers are not an attention and a feed-forward alone.
        """
        rank = 0 if self.lora is None else self.lora.rank
        per_token = sum(2 * rank * (site.d_in + site.d_out) for site in self.backbone.sites)
        shapes = CausalShapes.of(self.backbone.model)
        return causal_concatenation_cost(shapes, lengths, prefix_cached=False, per_token=per_token)
