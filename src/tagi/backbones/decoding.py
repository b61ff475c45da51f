"""Greedy and beam decoding with transformers, independent of the model's generation configuration."""

import copy
from typing import Any, Unpack

from torch import Tensor
from transformers import GenerationConfig

from tagi.backbones.protocol import Decoding


def decode(model: Any, special: dict[str, Any], given: dict[str, Any], **decoding: Unpack[Decoding]) -> Tensor:
    """Generate token ids.

    Uses a view of the model with an empty generation configuration, because transformers otherwise applies the model's
    own, which may have penalties and lengths.

    Args:
        model: A transformers model.
        special: Ids of special tokens, by their names in a generation configuration.
        given: Further arguments of `model.generate`, such as the inputs.
        **decoding: Decoding settings.
    """
    beams = decoding.get("num_beams", 1)
    config = GenerationConfig(do_sample=False, use_cache=True, early_stopping=beams > 1, **special, **decoding)
    view = copy.copy(model)
    view.generation_config = GenerationConfig()
    answer: Tensor = view.generate(generation_config=config, **given)
    return answer
