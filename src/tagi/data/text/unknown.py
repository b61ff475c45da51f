"""How much of a text a tokenizer does not know: texts of unknown tokens all look alike to a model."""

import logging
from collections.abc import Iterable
from typing import Any

_MOST = 0.5
_SHOWN = 60
_SPACE = "\u2581"
_log = logging.getLogger(__name__)


def unknown_share(tokenizer: Any, text: str) -> float:
    """Return the share of unknown tokens among those of a text; 0 for a tokenizer that knows every text.

    A run of unknown characters is one token, and a mark of a space by itself counts for none.
    """
    if tokenizer.unk_token_id is None:
        return 0.0
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    told = [one for one in ids if tokenizer.convert_ids_to_tokens(one) != _SPACE]
    return told.count(tokenizer.unk_token_id) / len(told) if told else 0.0


def warn_of_unknown(tokenizer: Any, texts: Iterable[str], what: str = "instruction") -> None:
    """Log a warning for every text of which at least half is unknown to the tokenizer; `what` names its kind."""
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
