"""Incremental decoding of generated tokens to text: complete characters only, without stop strings."""

from collections.abc import Sequence
from typing import Any

from tagi.serving.protocol import Finish, Piece, Sampling, Token

_HALF = "\ufffd"
"""What a tokenizer writes for an incomplete character."""


class Answer:
    """One answer while it is generated.

    Args:
        tokenizer: One of transformers' tokenizers.
        sampling: Sampling parameters: stop strings, length limit and log-probabilities.
        ends: Tokens that end it.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: How many of them had cached keys and values.
    """

    def __init__(
        self, tokenizer: Any, sampling: Sampling, ends: Sequence[int], prompt_tokens: int, cached_tokens: int
    ) -> None:
        self.sampling = sampling
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._prompt_tokens, self._cached_tokens = prompt_tokens, cached_tokens
        self._text = TextStream(tokenizer)
        self._stop = tuple(stop for stop in sampling.stop if stop)
        self._generated = 0
        self._held = ""
        """Text that was generated and not given out: it may be the start of a stop string."""
        self._given = 0
        """Characters that were given out."""
        self._tokens: list[tuple[int, Token]] = []
        """Tokens that were not given out, each with the length of the text before it."""

    def add(self, token: int, logprob: float = 0.0, top: Sequence[tuple[int, float]] = ()) -> Piece | None:
        """Add a token and return the text that is final, if any. The last piece has the finish reason.

        Args:
            token: The token's id.
            logprob: Its log-probability in nats.
            top: The most probable tokens at this position with their log-probabilities, best first.
        """
        self._generated += 1
        if token in self._ends:
            return self._piece(len(self._held), "stop")
        if self.sampling.logprobs is not None:
            best = tuple((self._tokenizer.decode([other]), value) for other, value in top)
            before = self._given + len(self._held)
            self._tokens.append((before, Token(self._tokenizer.decode([token]), logprob, best)))
        self._held += self._text.add(token)
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        if found:
            return self._piece(min(found), "stop")
        if self._generated >= self.sampling.max_tokens:
            return self._piece(len(self._held), "length")
        return self._piece(len(self._held) - self._possible_stop(), None)

    def _piece(self, length: int, finish: Finish | None) -> Piece | None:
        """Return the first `length` characters of the held text, and the tokens that begin there."""
        text, self._held = self._held[:length], self._held[length:]
        self._given += length
        # While text is held back, a token at its very start is too: it may be the first of a stop string.
        whole = finish is not None and not self._held
        count = sum(whole or before < self._given for before, _ in self._tokens)
        tokens, self._tokens = tuple(token for _, token in self._tokens[:count]), self._tokens[count:]
        if finish is None:
            return Piece(text, tokens) if text or tokens else None
        return Piece(text, tokens, finish, self._prompt_tokens, self._cached_tokens, self._generated)

    def _possible_stop(self) -> int:
        """Return the length of the longest suffix of the held text that is a prefix of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class TextStream:
    """Decodes tokens to text, one token at a time.

    The text of a token depends on the tokens before it. A token is therefore decoded together with the tokens of the
    previous text, and its text is the difference. A character of several tokens is returned with its last token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        """Tokens of the last text, and those after it that have not become text."""
        self._known = 0
        """How many of them are of the last text."""

    def add(self, token: int) -> str:
        """Return the text that this token completes."""
        self._ids.append(token)
        known, text = self._decode(self._ids[: self._known]), self._decode(self._ids)
        if text.endswith(_HALF) or len(text) <= len(known):
            return ""
        self._ids, self._known = self._ids[self._known :], len(self._ids) - self._known
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
