"""Greedy and beam decoding by transformers, decided by the call alone."""

import copy
from typing import Any, Unpack

from torch import Tensor
from transformers import GenerationConfig

from tagi.backbones.protocol import Decoding


def decode(model: Any, special: dict[str, Any], given: dict[str, Any], **decoding: Unpack[Decoding]) -> Tensor:
    """Generate token ids.

    Where a configuration is silent transformers takes the model's own, which on the hub may hold penalties and lengths:
    this call's view of the model has an empty one.

    Args:
        model: One of transformers' models.
        special: Ids of special tokens, by their names in a generation configuration.
        given: Further arguments of `model.generate`: what it reads.
        **decoding: How answers are generated.
    """
    beams = decoding.get("num_beams", 1)
    config = GenerationConfig(do_sample=False, use_cache=True, early_stopping=beams > 1, **special, **decoding)
    view = copy.copy(model)
    view.generation_config = GenerationConfig()
    answer: Tensor = view.generate(generation_config=config, **given)
    return answer
