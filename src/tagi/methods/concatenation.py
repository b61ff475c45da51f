"""An encoder-decoder backbone with the instruction concatenated to every input.

Without training it is No FT; fully fine-tuned it is Tk-Instruct.
"""

from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.methods.prompted import Prompted


class EncoderDecoder(Prompted[T5Backbone]):
    """Base of methods whose encoder reads a prompt and whose decoder generates the answer."""

    family = T5Backbone
    encoder = TextEncoder


class Concatenation(EncoderDecoder):
    """Instruction and input in one text."""

    name = "concatenation"
