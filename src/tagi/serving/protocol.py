"""The interface between the HTTP application and an engine, whether embedded or upstream."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of an answer.

    Args:
        max_tokens: Maximum number of generated tokens.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Probability mass of nucleus sampling.
        seed: Seed. The same seed gives the same answer, independent of other requests in the batch.
        stop: Strings that end the answer. They are not part of it.
        logprobs: Number of most probable tokens to report per position; None for no log-probabilities.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Args:
        prompt: Raw text, which is encoded without a template, or the messages of a chat, which are rendered with the
            base model's chat template. With an adapter, a chat is one user message: the input.
        adapter: Id of an adapter that was added; None for the base model.
        alone: For a chat with an adapter: omit the instruction.
    """

    prompt: str | tuple[Message, ...]
    sampling: Sampling
    adapter: str | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token with its log-probability, and the most probable tokens at its position, best first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    Args:
        text: The text since the last piece. It never ends inside a character or contains part of a stop string.
        tokens: The tokens since the last piece, if log-probabilities were requested.
        finish: The finish reason, in the last piece only.
        prompt_tokens: In the last piece: number of prompt tokens, including the instruction.
        cached_tokens: In the last piece: number of prompt tokens with cached keys and values.
        generated_tokens: In the last piece: number of generated tokens.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is, for metrics and for refusing requests early."""

    running: int
    waiting: int
    details: Mapping[str, Any] = field(default_factory=dict)


class EngineError(Exception):
    """The engine cannot answer at the moment, for the reason in the message. Becomes status 503."""


class PromptError(ValueError):
    """The prompt is invalid. The message says what was expected and what was given. Becomes status 400."""


@runtime_checkable
class Engine(Protocol):
    """Answers prompts with adapters. All methods are called from one event loop and do not block it."""

    @property
    def base_model(self) -> str:
        """Model name of the base model."""
        ...

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        ...

    async def start(self) -> None:
        """Start the engine. Raises `EngineError` if it cannot start."""
        ...

    async def close(self) -> None:
        """Stop the engine. Waiting requests get an `EngineError`."""
        ...

    async def add(self, adapter: str, folder: Path) -> None:
        """Register an adapter's folder, as `TaskAdapter.save_pretrained` writes it, under its id.

        The folder may be loaded later, at the first request.
        """
        ...

    async def remove(self, adapter: str) -> None:
        """Remove an adapter. Running requests may finish; new ones raise `PromptError`."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Stream the answer to a prompt. Closing the iterator frees the request's resources.

        Raises `PromptError` or `EngineError` before the first piece.
        """
        ...

    def load(self) -> Load:
        """Return the engine's load."""
        ...

    async def healthy(self) -> Sequence[str]:
        """Return the current problems, one sentence each; an empty list if there are none."""
        ...
