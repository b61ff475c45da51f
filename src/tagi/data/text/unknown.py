"""The share of unknown tokens in a text. To a model, all unknown tokens are the same."""

import logging
from collections.abc import Iterable
from typing import Any

_MOST = 0.5
_SHOWN = 60
_SPACE = "\u2581"
_log = logging.getLogger(__name__)


def unknown_share(tokenizer: Any, text: str) -> float:
    """Return the share of unknown tokens among those of a text; 0 for a tokenizer that knows every text.

    A run of unknown characters is one token. A token that only marks a space is not counted.
    """
    if tokenizer.unk_token_id is None:
        return 0.0
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    told = [one for one in ids if tokenizer.convert_ids_to_tokens(one) != _SPACE]
    return told.count(tokenizer.unk_token_id) / len(told) if told else 0.0


def warn_of_unknown(tokenizer: Any, texts: Iterable[str], what: str = "instruction") -> None:
    """Log a warning for every text with at least half unknown tokens. `what` names the kind of text."""
    for text in dict.fromkeys(texts):
        share = unknown_share(tokenizer, text)
        if share >= _MOST:
            short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
            _log.warning(
                "%.0f%% of the tokens of the %s %r are unknown to the model's tokenizer: other such %ss look the same "
                "to it",
                100 * share,
                what,
                short,
                what,
            )
