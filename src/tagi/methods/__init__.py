"""Methods: ways to do tasks from instructions, behind one protocol."""

from tagi.methods.concatenation import Concatenation
from tagi.methods.denoiser import Denoiser
from tagi.methods.load import load_method, start_from
from tagi.methods.protocol import Method, Trainable
from tagi.methods.tagi import TAGI

__all__ = ["TAGI", "Concatenation", "Denoiser", "Method", "Trainable", "load_method", "start_from"]
