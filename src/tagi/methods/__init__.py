"""Methods: ways to do tasks from instructions, behind one protocol."""

from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.costs import Components, Cost, Lengths
from tagi.methods.denoiser import Denoiser
from tagi.methods.fid import FidICL
from tagi.methods.in_context import ConcatICL, EnsembleICL
from tagi.methods.load import load_method, start_from
from tagi.methods.protocol import Method, Trainable
from tagi.methods.single import SingleTask
from tagi.methods.tagi import TAGI

__all__ = [
    "TAGI",
    "CausalConcatenation",
    "Components",
    "ConcatICL",
    "Concatenation",
    "Cost",
    "Denoiser",
    "EnsembleICL",
    "FidICL",
    "Lengths",
    "Method",
    "SingleTask",
    "Trainable",
    "load_method",
    "start_from",
]
