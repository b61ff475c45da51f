"""Responses of OpenAI's API for chats and completions, whole or streamed."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tagi.serving.protocol import Finish, Piece, Token

_LEAST = -9999.0
"""Replaces a log-probability of minus infinity, which JSON does not have."""


def usage(piece: Piece) -> dict[str, Any]:
    """Return the `usage` object from the last piece of an answer."""
    return {
        "prompt_tokens": piece.prompt_tokens,
        "completion_tokens": piece.generated_tokens,
        "total_tokens": piece.prompt_tokens + piece.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": piece.cached_tokens},
    }


@dataclass
class Form:
    """Builds the response to one chat.

    Args:
        model: The model name that the client sent.
        logprobs: Report log-probabilities.
    """

    model: str
    logprobs: bool = False
    id: str = field(init=False)
    created: int = field(init=False)
    kind, part, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the response for a complete answer."""
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        choice = self.choice(text, tokens, pieces[-1].finish)
        return {**self._head(self.kind), "choices": [choice], "usage": usage(pieces[-1])}

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks before the first piece."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None})]

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a piece."""
        found = []
        if piece.text or piece.tokens:
            logprobs = self.chat_logprobs(piece.tokens)
            found.append(self._chunk({"delta": {"content": piece.text}, "logprobs": logprobs, "finish_reason": None}))
        if piece.finish is not None:
            found.append(self._chunk({"delta": {}, "logprobs": None, "finish_reason": piece.finish}))
        return found

    def counted(self, piece: Piece) -> dict[str, Any]:
        """Return the chunk with the numbers of tokens."""
        return {**self._head(self.part), "choices": [], "usage": usage(piece)}

    def choice(self, text: str, tokens: Sequence[Token], finish: Finish | None) -> dict[str, Any]:
        """Return the choice of a complete answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": self.chat_logprobs(tokens), "finish_reason": finish}

    def chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Return the log-probabilities of tokens, or None if they were not requested."""
        if not self.logprobs:
            return None
        content = [
            {**_scored(token.text, token.logprob), "top_logprobs": [_scored(*other) for other in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": None}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head(self.part), "choices": [{"index": 0, **choice}]}


@dataclass
class CompletionForm(Form):
    """Builds the response to one completion of raw text."""

    kind = part = "text_completion"
    prefix = "cmpl"
    _written: int = field(default=0, init=False)

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks before the first piece."""
        return []

    def parts(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a piece."""
        if not (piece.text or piece.tokens or piece.finish):
            return []
        choice = self.choice(piece.text, piece.tokens, piece.finish)
        return [{**self._head(self.part), "choices": [choice]}]

    def choice(self, text: str, tokens: Sequence[Token], finish: Finish | None) -> dict[str, Any]:
        """Return the choice of an answer or of a part of it."""
        return {"index": 0, "text": text, "logprobs": self._completion_logprobs(tokens), "finish_reason": finish}

    def _completion_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._written)
            self._written += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [{text: _finite(value) for text, value in token.top} or None for token in tokens],
            "text_offset": offsets,
        }


def _scored(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
