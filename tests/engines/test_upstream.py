"""A real vLLM gives the tokens of the embedded engine, in fp32, with adapters that appear while it runs.

`TAGI_VLLM_PYTHON` names the Python of an environment with vLLM for CPUs, which is not this one: `make test-engines`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.serving.embedded import EmbeddedEngine
from tagi.serving.protocol import Message, Piece, PromptError, Request, Sampling
from tagi.serving.upstream import UpstreamEngine
from tests.engines.vllm_server import running_vllm, vllm_python
from tests.prompted_adapters import NEW_TOKENS, TASKS, smollm2_base, smollm2_generator

pytestmark = pytest.mark.slow

ADAPTERS, CHATS = 16, 64
INSTRUCTIONS = [*TASKS, *(f"{instruction} Be brief." for instruction in TASKS)]


@dataclass(frozen=True)
class Upstream:
    """A running vLLM, the folder from which it reads adapters, and the generator and adapters for it."""

    address: str
    folder: Path
    model: str
    generator: AdapterGenerator
    saved: dict[str, Path]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """The adapters are saved before vLLM starts; it has none of them."""
    vllm_python()
    folder = tmp_path_factory.mktemp("upstream")
    base, shared = smollm2_base(folder / "base"), folder / "shared"
    generator = smollm2_generator(base)
    saved = {f"adapter{at}": folder / f"adapter{at}" for at in range(ADAPTERS)}
    for adapter, path in zip(generator.adapt(INSTRUCTIONS), saved.values(), strict=True):
        adapter.save_pretrained(path)
    shared.mkdir()
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(shared),
    }
    options = ("--max-num-seqs", "32", "--max-loras", "16", "--max-cpu-loras", "16", "--api-server-count", "1")
    with running_vllm(base, folder / "vllm.log", *options, environment=environment) as address:
        yield Upstream(address, shared, str(base), generator, saved)


@asynccontextmanager
async def started(engine: Any, vllm: Upstream) -> AsyncIterator[Any]:
    await engine.start()
    try:
        for name, folder in vllm.saved.items():
            await engine.add(name, folder)
        yield engine
    finally:
        await engine.close()


async def answered(engine: Any, request: Request) -> tuple[str, Piece]:
    pieces = [piece async for piece in engine.stream(request)]
    return "".join(piece.text for piece in pieces), pieces[-1]


async def answers(engine: Any, vllm: Upstream, requests: list[Request]) -> list[tuple[str, Piece]]:
    """All at the same time; prints the tokens per second."""
    async with started(engine, vllm):
        begun = time.perf_counter()
        found = await asyncio.gather(*(answered(engine, request) for request in requests))
        seconds = time.perf_counter() - begun
        tokens = sum(last.generated_tokens for _, last in found)
        print(f"{type(engine).__name__}: {tokens / seconds:.1f} tokens per second")
        assert await engine.healthy() == []
        return found


def chats() -> list[Request]:
    """Every adapter four times, each time with an input of its task; every fourth time alone."""
    tasks = list(TASKS.values())
    return [
        Request(
            (Message("user", tasks[at % len(tasks)][at // ADAPTERS]),),
            Sampling(NEW_TOKENS),
            f"adapter{at % ADAPTERS}",
            alone=at // ADAPTERS == 3,
        )
        for at in range(CHATS)
    ]


def test_vllm_gives_the_tokens_of_the_embedded_engine(vllm: Upstream) -> None:
    """64 chats at the same time for 16 adapters, and two of the bare model."""
    requests = [
        *chats(),
        *(Request((Message("user", text),), Sampling(NEW_TOKENS)) for text in ("Hello!", "<|im_end|>")),
    ]
    engine = UpstreamEngine([vllm.address], vllm.folder, vllm.model, vllm.generator)
    found = asyncio.run(answers(engine, vllm, requests))
    wanted = asyncio.run(answers(EmbeddedEngine(vllm.generator), vllm, requests))
    different = [
        {"request": request, "vllm": theirs, "embedded": ours}
        for request, theirs, ours in zip(requests, found, wanted, strict=True)
        if (theirs[0], theirs[1].prompt_tokens) != (ours[0], ours[1].prompt_tokens)
    ]
    assert len(found) == CHATS + 2
    assert different == []


def test_a_removed_adapter_is_gone(vllm: Upstream) -> None:
    async def use() -> None:
        engine = UpstreamEngine([vllm.address], vllm.folder, vllm.model, vllm.generator)
        async with started(engine, vllm):
            request = chats()[0]
            await answered(engine, request)
            assert "adapter0" in await models(engine)
            await engine.remove("adapter0")
            assert "adapter0" not in await models(engine)
            with pytest.raises(PromptError):
                await answered(engine, request)

    async def models(engine: UpstreamEngine) -> set[str]:
        found = (await engine._client.get(f"{vllm.address}/v1/models")).json()
        return {model["id"] for model in found["data"]}

    asyncio.run(use())
