"""The embedded engine: the base model in this process, requests for different adapters in one batch."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tagi.api.generator import AdapterGenerator
from tagi.backbones.causal import CausalBackbone
from tagi.errors import ConfigError, first_line
from tagi.serving.adapter_memory import AdapterMemory
from tagi.serving.answers import Answer
from tagi.serving.batch import Prompt, RowBatch
from tagi.serving.decoding_loop import DecodingLoop, Outcome, Row, reason_of
from tagi.serving.prompts import PromptEncoder
from tagi.serving.protocol import EngineError, Load, Piece, PromptError, Request
from tagi.serving.sampling import Sampler

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EmbeddedLimits:
    """Limits of an embedded engine.

    Args:
        rows: Maximum batch size. Further requests wait.
        waiting: Maximum number of queued requests. Further ones are refused.
        context: Maximum number of tokens of prompt and answer together; None for the base model's limit.
        adapter_bytes: Memory for loaded adapters and their KV prefixes. The least recently used ones are dropped, and
            loaded again when they are needed.
        prompt_tokens: Maximum number of prompt tokens that are processed between two decoding steps. Longer prompts are
            processed in parts.
    """

    rows: int = 32
    waiting: int = 256
    context: int | None = None
    adapter_bytes: int = 2**30
    prompt_tokens: int = 512


class EmbeddedEngine:
    """Answers with the generator's base model and its adapters, in this process; an `Engine`.

    One thread decodes all running requests in one batch (`DecodingLoop`). Another loads adapters and encodes prompts.

    Args:
        generator: The generator of the adapters, with a decoder-only base model. It may generate others meanwhile.
        limits: Limits of memory and of the queue.
        name: Model name of the base model; by default the name that the generator uses.

    Raises `ConfigError` if the base model is an encoder-decoder.
    """

    def __init__(
        self, generator: AdapterGenerator, limits: EmbeddedLimits | None = None, *, name: str | None = None
    ) -> None:
        backbone = generator.backbone
        if backbone.encoder_decoder:
            raise ConfigError(
                f"expected a generator of a decoder-only base model to serve, got one of {backbone.identity.name}, an "
                "encoder-decoder"
            )
        assert isinstance(backbone, CausalBackbone)
        self.limits = limits or EmbeddedLimits()
        self.generator = generator
        self._ends = backbone.end_tokens
        self._name = name or backbone.identity.name
        context = min(self.limits.context or backbone.max_tokens, backbone.max_tokens)
        self._encoder = PromptEncoder(generator, context)
        self._memory = AdapterMemory(generator, self.limits.adapter_bytes)
        self._preparing = ThreadPoolExecutor(1, "tagi preparing")
        self._places = asyncio.Semaphore(self.limits.rows)
        self._running = self._waiting = 0
        self._pieces: dict[Row, asyncio.Queue[Outcome]] = {}
        self._decoding: DecodingLoop | None = None

    @property
    def base_model(self) -> str:
        """Model name of the base model."""
        return self._name

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return self._encoder.context

    async def start(self) -> None:
        """Start the engine. Raises `EngineError` if the device does not have enough memory."""
        loop = asyncio.get_running_loop()

        def deliver(outcomes: Sequence[tuple[Row, Outcome]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._deliver, outcomes)

        try:
            batch = await asyncio.to_thread(RowBatch, self.generator, self.limits.rows)
        except RuntimeError as error:
            raise EngineError(f"cannot start: {first_line(error)}") from error
        self._decoding = DecodingLoop(batch, self.limits.rows, self.limits.prompt_tokens, deliver)
        self._decoding.start()

    async def close(self) -> None:
        """Stop the engine. Running and waiting requests get an `EngineError`."""
        if self._decoding is not None:
            self._decoding.close()
            await asyncio.to_thread(self._decoding.join)
        self._preparing.shutdown(wait=False)

    async def add(self, adapter: str, folder: Path) -> None:
        """Register an adapter's folder under its id. It is loaded at the first request."""
        await self._prepare(self._memory.add, adapter, folder)

    async def remove(self, adapter: str) -> None:
        """Remove an adapter. Running requests continue; new ones raise `PromptError`."""
        await self._prepare(self._memory.remove, adapter)

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Stream the answer to a prompt. Closing the iterator frees its row.

        Raises `PromptError` for an invalid prompt. Raises `EngineError` if the adapter cannot be loaded, the queue is
        full, memory runs out, or the engine is not running.
        """
        async with self._place():
            decoding = self._decoding
            if decoding is None or decoding.ended is not None:
                raise EngineError((await self.healthy())[0])
            row = await self._prepare(self._row, request)
            pieces = self._pieces[row] = asyncio.Queue[Outcome]()
            try:
                decoding.submit(row)
                finish = None
                while finish is None:
                    outcome = await pieces.get()
                    if isinstance(outcome, EngineError):
                        raise outcome
                    yield outcome
                    finish = outcome.finish
            finally:
                row.abandoned = True
                del self._pieces[row]

    def load(self) -> Load:
        """Return the numbers of running and waiting requests, of adapters in memory, and of generated tokens so far."""
        details = {
            "rows": self.limits.rows,
            "adapters_in_memory": len(self._memory.loaded),
            "adapter_bytes": self._memory.bytes,
            "generated_tokens": self._decoding.generated_tokens if self._decoding else 0,
        }
        return Load(self._running, self._waiting, details)

    async def healthy(self) -> Sequence[str]:
        """Return why the engine does not decode; an empty list if it does."""
        if self._decoding is None:
            return ["the engine was not started"]
        return [] if self._decoding.ended is None else [self._decoding.ended]

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Wait for a free row, in the order of requests, and hold it for the duration of a `with` block."""
        if self._places.locked() and self._waiting >= self.limits.waiting:
            raise EngineError(f"{self._waiting} requests wait already, which is the limit")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._places.release()

    async def _prepare(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run slow work in the thread that loads adapters one after another."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._preparing, work, *arguments)
        except (PromptError, EngineError):
            raise
        except Exception as error:
            raise EngineError(f"cannot prepare the request: {reason_of(error)}") from error

    def _row(self, request: Request) -> Row:
        """Return the row of a request."""
        adapter = None if request.adapter is None else self._memory.get(request.adapter)
        if adapter is not None and (request.alone or isinstance(request.prompt, str)):
            adapter = replace(adapter, prefix=None, fusion=None)
        known = adapter.prefix if adapter else None
        prompt = Prompt(self._encoder.encode(request, alone=known is None), adapter, known)
        tokens = prompt.known_tokens + len(prompt.ids)
        sampling = replace(request.sampling, max_tokens=self._encoder.room(request, tokens))
        tokenizer = self.generator.backbone.tokenizer
        return Row(prompt, Answer(tokenizer, sampling, self._ends, tokens, prompt.known_tokens), Sampler(sampling))

    def _deliver(self, outcomes: Sequence[tuple[Row, Outcome]]) -> None:
        for row, outcome in outcomes:
            if row in self._pieces:
                self._pieces[row].put_nowait(outcome)
