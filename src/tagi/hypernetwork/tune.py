"""Which of the backbone's parameters are trained."""

import re

from torch import nn

from tagi.settings.generator import Tune

_PATTERNS: dict[str, re.Pattern[str]] = {
    "none": re.compile(r"(?!)"),
    "norms+embeddings": re.compile(r"norm|(^|\.)(shared|wte|wpe|ln_\w+)\.|embed|lm_head"),
    "ffn": re.compile(r"DenseReluDense|\.mlp\.|\.fc[12]\."),
    "all": re.compile(r""),
}


def set_tuned(model: nn.Module, tune: Tune) -> None:
    """Set `requires_grad` of every parameter of the backbone according to `tune`."""
    pattern = _PATTERNS[tune]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(pattern.search(name) is not None)
