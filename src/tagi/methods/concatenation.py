"""An encoder-decoder backbone with the instruction concatenated to every input.

Untrained it is No FT, fully fine-tuned Tk-Instruct.
"""

from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.methods.flops.costs import Cost, Lengths
from tagi.methods.flops.t5 import T5Shapes, concatenation_cost
from tagi.methods.prompted import Prompted


class EncoderDecoder(Prompted[T5Backbone]):
    """The encoder reads a prompt, the decoder writes the answer."""

    family = T5Backbone
    encoder = TextEncoder


class Concatenation(EncoderDecoder):
    """Instruction and input in one text."""

    name = "concatenation"

    def cost(self, lengths: Lengths) -> Cost:
        """Instruction and input read together for every example; a LoRA is not merged."""
        shapes = T5Shapes.of(self.backbone.model.config)
        return concatenation_cost(shapes, self._read_of(lengths), None if self.lora is None else self.lora.rank)
