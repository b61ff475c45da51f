"""A deterministic engine and maker, and a server that runs them in a thread: no model, the same answers every time."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from tagi.api.lora_training import Refinement
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.serving.access import Keys, Limits
from tagi.serving.app import application
from tagi.serving.making import Made
from tagi.serving.protocol import EngineError, Load, Piece, PromptError, Request, Token
from tagi.serving.service import Service
from tagi.serving.store import AdapterStore
from tagi.training.progress import Report
from tests.serving.drafts import GENERATOR, write_files

BASE = "tiny/base"
CONTEXT = 512
LAYERS = {"layers.0.q": 0.5, "layers.0.v": 0.25, "layers.1.q": 1.5, "layers.1.v": 0.125}


class FakeEngine:
    """Answers with words that name the adapter, the kind of prompt and what decides the sampling, one per token.

    The answer to a prompt that holds `fail` is an `EngineError`, to one with `refuse` a `PromptError`, to one with
    `break` an error nobody foresaw; `late` in it lets one token come before.
    """

    def __init__(self, seconds_per_token: float = 0.0) -> None:
        self.base_model = BASE
        self.context = CONTEXT
        self.seconds_per_token = seconds_per_token
        self.folders: dict[str, Path] = {}
        self.running = self.closed = self.waiting = 0
        self.most_at_once = 0
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.details = {"cache_bytes": 7}
        self.refuses_adapters = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def add(self, adapter: str, folder: Path) -> None:
        if self.refuses_adapters:
            raise EngineError("the engine takes no adapter now")
        assert (folder / "weights.bin").is_file()
        self.folders[adapter] = folder

    async def remove(self, adapter: str) -> None:
        self.folders.pop(adapter, None)

    def load(self) -> Load:
        return Load(self.running, self.waiting, self.details)

    async def healthy(self) -> Sequence[str]:
        return self.problems

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        self.requests.append(request)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            async for piece in self._answer(request):
                yield piece
        finally:
            self.running -= 1
            self.closed += 1

    async def _answer(self, request: Request) -> AsyncIterator[Piece]:
        if request.adapter is not None and request.adapter not in self.folders:
            raise PromptError("expected a loaded adapter")
        text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
        sampling, prompt_tokens = request.sampling, len(text.split()) + 3
        if "late" not in text:
            _fail(text)
        said, tokens = "", words(request)[: sampling.max_tokens]
        for number, word in enumerate(tokens, start=1):
            await asyncio.sleep(self.seconds_per_token)
            if number == 2:
                _fail(text)
            cut = min((at for stop in sampling.stop if (at := (said + word).find(stop)) >= 0), default=None)
            written = word if cut is None else (said + word)[len(said) : cut]
            said += word
            scored: tuple[Token, ...] = ()
            if sampling.logprobs is not None:
                top = tuple((f"w{at}", -float(at)) for at in range(sampling.logprobs))
                scored = (Token(word, float("-inf") if number == 3 else -0.5 * number, top),)
            last = number == len(tokens) or cut is not None
            piece = Piece(written, scored)
            if last:
                finish = "stop" if cut is not None or len(words(request)) <= sampling.max_tokens else "length"
                piece = replace(
                    piece, finish=finish, prompt_tokens=prompt_tokens, cached_tokens=2, generated_tokens=number
                )
            yield piece
            if last:
                return


def words(request: Request) -> list[str]:
    """The words of an answer, which depend on all that should decide it."""
    prompt = request.prompt if isinstance(request.prompt, str) else [(m.role, m.content) for m in request.prompt]
    sampling = request.sampling
    drawn = (sampling.seed, sampling.temperature, sampling.top_p) if sampling.temperature else None
    decided = hashlib.sha256(repr((prompt, request.adapter, request.alone, drawn)).encode()).hexdigest()
    who = "base" if request.adapter is None else request.adapter[:6]
    kind = "raw" if isinstance(request.prompt, str) else "alone" if request.alone else "chat"
    return [who, f" {kind}", *(f" {decided[at : at + 4]}" for at in range(0, 24, 4)), " é", "."]


def _fail(text: str) -> None:
    if "fail" in text:
        raise EngineError("the engine cannot answer now")
    if "refuse" in text:
        raise PromptError("expected a shorter prompt")
    if "break" in text:
        raise RuntimeError(f"a secret: {text}")


@dataclass
class FakeMaker:
    """Makes adapters of a few bytes that depend on the instruction."""

    identity: str = GENERATOR
    seconds: float = 0.0
    passes: list[int] = field(default_factory=list)

    def make(self, tasks: Sequence[Task], *, truncate: bool) -> list[Made]:
        for task in tasks:
            if not task.instruction.strip():
                raise InputError("expected an instruction, got an empty text")
            if len(task.instruction.split()) > 40 and not truncate:
                raise InputError("expected at most 40 words")
        self.passes.append(len(tasks))
        time.sleep(self.seconds)
        return [self._made(task.instruction, task.examples) for task in tasks]

    def check_examples(self, examples: Sequence[Example], settings: Refinement) -> None:
        if any(not one.input.strip() for one in examples):
            raise InputError("example 1: expected an input, got an empty text")

    def refine(self, folder: Path, examples: Sequence[Example], settings: Refinement, report: Report) -> Made:
        before = (folder / "weights.bin").read_bytes()
        pause = self.seconds / settings.steps
        for step in range(settings.steps):
            time.sleep(pause)
            report(step + 1, settings.steps)
        return self._made(before[:10].decode("latin-1") + "refined", tuple(examples))

    def export(self, folder: Path, out: Path, *, lossy: bool) -> None:
        out.mkdir()
        (out / "adapter_config.json").write_text("{}")
        (out / "adapter_model.safetensors").write_bytes((folder / "weights.bin").read_bytes())

    def _made(self, instruction: str, examples: tuple[Example, ...]) -> Made:
        def write(folder: Path) -> None:
            write_files(folder, instruction)

        facts = {"rank": 5, "parameters": 460, "base_model": BASE, "layers": LAYERS}
        return Made(write, facts, instruction, examples)


@dataclass
class Running:
    """A server in a thread.

    Args:
        address: Where it listens.
        service: What it serves.
    """

    address: str
    service: Service

    @property
    def engine(self) -> Any:
        return self.service.engine

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.address, headers=headers, timeout=30, **options)


@contextmanager
def running(
    root: Path,
    *,
    engine: Any = None,
    maker: Any = None,
    keys: Keys | None = None,
    limits: Limits | None = None,
) -> Iterator[Running]:
    """Run a server on a free port of this machine."""
    maker = maker or FakeMaker()
    store = AdapterStore(root, maker.identity)
    service = Service(store, maker, engine or FakeEngine(), limits)
    server = _Stoppable()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(service, keys)), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.port > 0 or not thread.is_alive())
        assert server.port
        yield Running(f"http://127.0.0.1:{server.port}", service)
    finally:
        if server.uvicorn is not None:
            server.uvicorn.should_exit = True
        thread.join(30)
        store.close()
        assert not thread.is_alive()


class _Stoppable:
    """A server that a test can stop."""

    def __init__(self) -> None:
        self.uvicorn: uvicorn.Server | None = None
        self.port = 0

    async def serve(self, service: Service, keys: Keys | None) -> None:
        async with application(service, keys) as app:
            config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
            self.uvicorn = uvicorn.Server(config)
            serving = asyncio.ensure_future(self.uvicorn.serve())
            while not self.uvicorn.started and not serving.done():
                await asyncio.sleep(0.005)
            self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
            await serving


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds; fail if it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.005)


@contextlib.contextmanager
def taking_at_most(seconds: float) -> Iterator[None]:
    """Fail if the body takes longer."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds
