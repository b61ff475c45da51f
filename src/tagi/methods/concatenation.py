"""An encoder-decoder backbone with the instruction concatenated to every input.

Untrained it is No FT, fully fine-tuned Tk-Instruct.
"""

from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.methods.prompted import Prompted


class EncoderDecoder(Prompted[T5Backbone]):
    """The encoder reads a prompt, the decoder writes the answer."""

    family = T5Backbone
    encoder = TextEncoder


class Concatenation(EncoderDecoder):
    """Instruction and input in one text."""

    name = "concatenation"
