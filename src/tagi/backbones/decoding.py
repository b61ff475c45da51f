"""Greedy and beam decoding by transformers, decided by the call alone."""

import copy
from typing import Any

from torch import Tensor
from transformers import GenerationConfig


def decode(
    model: Any,
    special: dict[str, Any],
    *,
    max_new_tokens: int,
    min_new_tokens: int | None,
    num_beams: int,
    **given: Any,
) -> Tensor:
    """Tokens that `model` generates; `special` names its special tokens, `given` is what it reads.

    What a configuration leaves open transformers takes from the model's own, which on the hub may hold penalties and
    lengths: this call's view of the model has an empty one.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        use_cache=True,
        early_stopping=num_beams > 1,
        **special,
    )
    view = copy.copy(model)
    view.generation_config = GenerationConfig()
    answer: Tensor = view.generate(generation_config=config, **given)
    return answer
