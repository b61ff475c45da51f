"""Parsing of the event stream that a server sends for `/v1/completions`."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pydantic

from tagi.serving.protocol import Finish, Piece, Token
from tagi.serving.replicas import ReplicaError


class _LogProbabilities(pydantic.BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(pydantic.BaseModel):
    text: str
    logprobs: _LogProbabilities | None = None
    finish_reason: Finish | None = None


class _PromptDetails(pydantic.BaseModel):
    cached_tokens: int | None = None


class _Usage(pydantic.BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Event(pydantic.BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class Completion:
    """Collects one answer from its events.

    Args:
        logprobs: Number of most probable tokens that were requested; None for no log-probabilities.
    """

    def __init__(self, logprobs: int | None) -> None:
        self._count = logprobs
        self._finish: Finish | None = None
        self._usage: _Usage | None = None

    def add(self, data: str) -> Piece | None:
        """Return the piece that an event adds to the answer. Raises `ReplicaError` for an error or an invalid event."""
        try:
            event = _Event.model_validate_json(data)
        except pydantic.ValidationError as error:
            raise ReplicaError(f"expected a part of an answer, got {error_of(data.encode())}", lasting=False) from error
        self._usage = event.usage or self._usage
        for choice in event.choices:  # one, because no more were requested
            self._finish = choice.finish_reason or self._finish
            tokens = self._tokens(choice.logprobs)
            if choice.text or tokens:
                return Piece(choice.text, tokens)
        return None

    def last(self) -> Piece:
        """Return the last piece. Raises `ReplicaError` if the answer is incomplete."""
        if self._finish is None or self._usage is None:
            raise ReplicaError("the answer ended before its last event")
        details = self._usage.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        return Piece("", (), self._finish, self._usage.prompt_tokens, cached or 0, self._usage.completion_tokens)

    def _tokens(self, found: _LogProbabilities | None) -> tuple[Token, ...]:
        if found is None or self._count is None:
            return ()
        tops = found.top_logprobs or [None] * len(found.tokens)
        return tuple(
            Token(text, logprob, tuple(sorted((top or {}).items(), key=lambda pair: -pair[1])[: self._count]))
            for text, logprob, top in zip(found.tokens, found.token_logprobs, tops, strict=True)
        )


async def events(response: httpx2.Response) -> AsyncIterator[str]:
    """Yield the data of every server-sent event before `[DONE]`."""
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        if field == "data":
            if value.strip() == "[DONE]":
                return
            yield value.strip()


def error_of(body: bytes) -> str:
    """Return the message of OpenAI's error object, or else the first characters of the body."""
    try:
        found: Any = json.loads(body)
        return str((found.get("error") or found)["message"])
    except (ValueError, AttributeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
