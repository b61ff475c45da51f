"""Encoding of control tokens in user text, such as `</s>` or `<|im_end|>`, as ordinary text.

A tokenizer converts the text of a special token to that token anywhere in a text. `split_special_tokens=True` does not
fully prevent this: it does not cover added tokens that are not special, and tokens of the base vocabulary (T5's
`</s>`). User text is therefore escaped first: `BREAK` is inserted after the first character of every control token. A
text with breaks is tokenized piece by piece. Text that a template adds around user text has no breaks.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

BREAK = "\udfff"
"""A lone surrogate, which does not occur in valid text and which no tokenizer can read."""

_CONTEXTS = ("0", "x", ")", "\n")
"""A piece is tokenized after one of these that does not merge with its tokens, so that it is not treated as the start
of a text."""


class UserTextTokenizer:
    """A tokenizer for texts with breaks. Without breaks, it gives exactly the tokens of the wrapped tokenizer.

    Args:
        tokenizer: One of transformers' tokenizers.
        added: Whether added tokens that are not special, such as Qwen3's `<think>`, count as control tokens too.
            Special tokens always do. Tokens of white space or of one character never do.
    """

    def __init__(self, tokenizer: Any, *, added: bool = False) -> None:
        self.tokenizer = tokenizer
        self.control: tuple[str, ...] = tuple(sorted(_control(tokenizer, added=added)))
        self._starts = {token[0] for token in self.control}
        self._last: tuple[tuple[str, bool] | None, tuple[int, ...]] = (None, ())
        self._normalizer: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)

    def __call__(self, text: str, /, *, add_special_tokens: bool = True) -> Mapping[str, Any]:
        """Return the text's tokens under `input_ids`; with `add_special_tokens`, including start and end tokens.

        The last text is cached, because callers first check its length and then encode it.
        """
        asked, (last, ids) = (
            (text, add_special_tokens),
            self._last,
        )  # one attribute: threads may share this
        if asked != last:
            ids = tuple(self._ids(text, add_special_tokens))
            self._last = (asked, ids)
        return {"input_ids": list(ids)}

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        if BREAK not in text:
            given = {} if add_special_tokens else {"add_special_tokens": False}
            found: list[int] = self.tokenizer(text, **given)["input_ids"]
            return found
        first, *rest = [piece for piece in text.split(BREAK) if piece] or [""]
        ids = self._bare(first)
        before, after = self._around(first, ids) if add_special_tokens else ([], [])
        for piece in rest:
            ids = [*ids, *self._following(piece)]
        return [*before, *ids, *after]

    def following(self, text: str, before: str = "") -> list[int]:
        """Return the token ids of a text that continues another one, which ends with `before`."""
        pieces = [piece for piece in text.split(BREAK) if piece]
        contexts = [(before, *_CONTEXTS) if before and not at else _CONTEXTS for at in range(len(pieces))]
        return [token for piece, tried in zip(pieces, contexts, strict=True) for token in self._following(piece, tried)]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of the tokens. Without special tokens it is user text, and is escaped again."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return self.escape(text) if skip_special_tokens else text

    def escape(self, text: str) -> str:
        """Return the text with a break in every control token. Most texts have none and are not changed."""
        if self._holds(text):
            found = (re.finditer(f"(?={re.escape(token)})", text) for token in self.control)  # overlapping ones too
            places = {match.start() + 1 for matches in found for match in matches}
            text = _broken(text, places)
        if self._normalizer is None:
            return text
        return BREAK.join(self._escape_normalized(piece) for piece in text.split(BREAK))

    def _escape_normalized(self, piece: str) -> str:
        """Insert breaks where normalization would create a control token, such as from full-width brackets."""
        if not self._holds(self._normalizer.normalize_str(piece)):
            return piece
        read = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(read["input_ids"], read["offset_mapping"], strict=True)
        # The unknown token's id stands for every unknown character.
        control = set(self.tokenizer.convert_tokens_to_ids(list(self.control))) - {self.tokenizer.unk_token_id}
        places = {start + 1 for token, (start, end) in spans if token in control and end - start > 1}
        return BREAK.join(map(self._escape_normalized, _broken(piece, places).split(BREAK))) if places else piece

    def _holds(self, text: str) -> bool:
        return any(start in text for start in self._starts) and any(token in text for token in self.control)

    def _bare(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _around(self, text: str, ids: list[int]) -> tuple[list[int], list[int]]:
        """Return the tokens that the tokenizer adds before and after a text's own."""
        whole: list[int] = self.tokenizer(text)["input_ids"]
        extra = len(whole) - len(ids)
        start = next((at for at in range(extra + 1) if whole[at : at + len(ids)] == ids), 0)
        return whole[:start], whole[start + len(ids) :]

    def _following(self, piece: str, contexts: Sequence[str] = _CONTEXTS) -> list[int]:
        """Return the token ids of a piece inside a text; some tokenizers mark the start of a text."""
        for context in contexts:
            before, whole = self._bare(context), self._bare(context + piece)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self._bare(piece)


def _control(tokenizer: Any, *, added: bool) -> set[str]:
    known = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in known if added or token.special)}
    return {token for token in tokens if len(token) > 1 and not token.isspace()}


def _broken(text: str, places: set[int]) -> str:
    cuts = [0, *sorted(places), len(text)]
    return BREAK.join(text[start:end] for start, end in pairwise(cuts))
