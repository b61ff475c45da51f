"""What the HTTP application asks of an engine, and what it gets: the same for this process and for other servers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is sampled.

    Args:
        max_tokens: Generated tokens at most.
        temperature: 0 is greedy.
        top_p: Probability mass that is sampled from.
        seed: The same seed gives the same answer, whatever else is in the batch.
        stop: Strings that end the answer; they are not part of it.
        logprobs: Number of most probable tokens that are reported with each generated one; None reports nothing.
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
        prompt: Raw text, which is encoded as it stands, or the messages of a chat, written as the base model's chat
            template writes them. With an adapter a chat is one user message, the input of the task.
        adapter: Id of an adapter that was loaded; None asks the base model.
        alone: With an adapter and a chat: leave the instruction out.
    """

    prompt: str | tuple[Message, ...]
    sampling: Sampling
    adapter: str | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token with its log-probability and the most probable tokens in its place, best first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    Args:
        text: The text since the last piece; never half of a character, never a part of a stop string.
        tokens: The tokens since the last piece, where log-probabilities were asked for.
        finish: Why the answer ended; with the last piece only.
        prompt_tokens: With the last piece: the prompt's tokens, instruction included.
        cached_tokens: With the last piece: those of them whose keys and values were cached.
        generated_tokens: With the last piece: the generated tokens.
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
    """The engine cannot answer now: its message says why. The application answers 503."""


class PromptError(ValueError):
    """The prompt is at fault: its message says what was expected and what was given. The application answers 400."""


@runtime_checkable
class Engine(Protocol):
    """Answers prompts with adapters. All methods are called from one event loop and never block it."""

    @property
    def base_model(self) -> str:
        """The base model's name among the models."""
        ...

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together at most."""
        ...

    async def start(self) -> None:
        """Begin to answer. Raises `EngineError` if that is impossible."""
        ...

    async def close(self) -> None:
        """End what runs; requests that wait get an `EngineError`."""
        ...

    async def add(self, adapter: str, folder: Path) -> None:
        """Make an adapter's folder, as `TaskAdapter.save_pretrained` writes it, available under its id; it may load
        later, when it is first asked for.
        """
        ...

    async def remove(self, adapter: str) -> None:
        """Forget an adapter. Requests that run with it may end; new ones raise `PromptError`."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Answer a prompt piece by piece; closing the iterator frees what the request holds.

        Raises `PromptError` or `EngineError` before the first piece.
        """
        ...

    def load(self) -> Load:
        """Return how busy the engine is."""
        ...

    async def healthy(self) -> Sequence[str]:
        """Return what is wrong, a sentence each; nothing if all is well."""
        ...
