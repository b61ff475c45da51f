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
        rows: Requests that are decoded at the same time. Others wait.
        waiting: Requests that may wait; further ones are refused.
        context: Tokens of prompt and answer together; None for what the base model can read.
        adapter_bytes: Memory of adapters and the keys and values of their instructions. The least recently used ones
            are loaded again when they are asked for.
        prompt_tokens: Tokens of new prompts that are read between two steps of the running requests. Longer prompts
            are read in parts.
    """

    rows: int = 32
    waiting: int = 256
    context: int | None = None
    adapter_bytes: int = 2**30
    prompt_tokens: int = 512


class EmbeddedEngine:
    """Answers with the generator's base model and its adapters, in this process; an `Engine`.

    A thread decodes all running requests in one batch (`DecodingLoop`). Another one loads adapters and encodes prompts.

    Args:
        generator: The generator that made the adapters, of a decoder-only base model. It may make others meanwhile.
        limits: Limits of memory and waiting.
        name: The base model's name among the models; by default the name that the generator knows it by.

    Raises `ConfigError` for a generator of an encoder-decoder.
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
        """The base model's name among the models."""
        return self._name

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._encoder.context

    async def start(self) -> None:
        """Begin to answer. Raises `EngineError` if the device's memory does not suffice."""
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
        """End what runs; requests that run or wait get an `EngineError`."""
        if self._decoding is not None:
            self._decoding.close()
            await asyncio.to_thread(self._decoding.join)
        self._preparing.shutdown(wait=False)

    async def add(self, adapter: str, folder: Path) -> None:
        """Make an adapter's folder available under its id; it is loaded when it is first asked for."""
        await self._prepare(self._memory.add, adapter, folder)

    async def remove(self, adapter: str) -> None:
        """Forget an adapter. Requests that run with it go on; new ones raise `PromptError`."""
        await self._prepare(self._memory.remove, adapter)

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Answer a prompt piece by piece; closing the iterator frees its row.

        Raises `PromptError` for a prompt at fault, and `EngineError` for an adapter that cannot be loaded, for too many
        requests that wait, if memory does not suffice, and if the engine does not run.
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
        """Return how many requests run and wait, the adapters in memory and the tokens generated so far."""
        details = {
            "rows": self.limits.rows,
            "adapters_in_memory": len(self._memory.loaded),
            "adapter_bytes": self._memory.bytes,
            "generated_tokens": self._decoding.generated_tokens if self._decoding else 0,
        }
        return Load(self._running, self._waiting, details)

    async def healthy(self) -> Sequence[str]:
        """Return why nothing is decoded; nothing if all is well."""
        if self._decoding is None:
            return ["the engine was not started"]
        return [] if self._decoding.ended is None else [self._decoding.ended]

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Wait for a row that is free, in the order of asking, and hold it for the body."""
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
        """Do what may take a while in the thread for it, where adapters are loaded one after another."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._preparing, work, *arguments)
        except (PromptError, EngineError):
            raise
        except Exception as error:
            raise EngineError(f"cannot prepare the request: {reason_of(error)}") from error

    def _row(self, request: Request) -> Row:
        """Return a request as a row of the loop."""
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
