"""`tagi serve` in front of a real vLLM gives the tokens of `tagi serve` alone, in fp32.

`TAGI_VLLM_PYTHON` names the Python of an environment with vLLM for CPUs, which is not this one: `make test-engines`.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engines.vllm_server import START_SECONDS, running_vllm, vllm_python
from tests.prompted_adapters import NEW_TOKENS, TASKS, smollm2_base, smollm2_generator

pytestmark = pytest.mark.slow

ADAPTERS, CHATS = 16, 64
INSTRUCTIONS = [*TASKS, *(f"{instruction} Be brief." for instruction in TASKS)]


@dataclass(frozen=True)
class Folders:
    """A generator and its base model on disk, the folder from which vLLM reads adapters, and the address of vLLM."""

    generator: Path
    base: Path
    shared: Path
    vllm: str


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """vLLM runs, and has no adapter."""
    vllm_python()
    folder = tmp_path_factory.mktemp("upstream")
    base, shared = smollm2_base(folder / "base"), folder / "shared"
    smollm2_generator(base).save_pretrained(folder / "generator")
    shared.mkdir()
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(shared),
    }
    options = ("--max-num-seqs", "32", "--max-loras", "16", "--max-cpu-loras", "16", "--api-server-count", "1")
    with running_vllm(base, folder / "vllm.log", *options, environment=environment) as address:
        yield Folders(folder / "generator", base, shared, address)


@contextmanager
def serving(folders: Folders, store: Path, *options: str) -> Iterator[str]:
    """`tagi serve` as a process on a free port; yields its address when it is ready."""
    command = (sys.executable, "-m", "tagi", "serve", str(folders.generator), "--port", "0", "--dtype", "float32")
    given = [*command, "--store", str(store), *options]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip().rstrip("/")
            until = time.monotonic() + START_SECONDS
            while httpx2.get(f"{address}/ready", timeout=START_SECONDS).status_code != 200:
                assert time.monotonic() < until, "tagi serve is not ready"
                assert server.poll() is None, "tagi serve ended"
                time.sleep(1)
            yield address
        finally:
            server.terminate()


def in_front(folders: Folders) -> tuple[str, ...]:
    """The options that send requests to vLLM."""
    return "--upstream", folders.vllm, "--adapter-dir", str(folders.shared), "--upstream-model", str(folders.base)


def create(address: str) -> list[str]:
    """Sixteen adapters in one request; returns their ids."""
    body = [{"instruction": instruction} for instruction in INSTRUCTIONS]
    made = httpx2.post(f"{address}/v1/adapters", json=body, timeout=START_SECONDS).raise_for_status().json()
    return [adapter["id"] for adapter in made["data"]]


async def answers(address: str, models: Sequence[str], inputs: Sequence[str]) -> list[tuple[str, int, int]]:
    """Chats at the same time: each answer's text, tokens of its prompt and of the answer. Prints tokens per second."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=START_SECONDS, limits=limits) as client:

        async def one(model: str, text: str) -> tuple[str, int, int]:
            messages = [{"role": "user", "content": text}]
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS}
            found: Any = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
            usage = found["usage"]
            return found["choices"][0]["message"]["content"], usage["prompt_tokens"], usage["completion_tokens"]

        begun = time.perf_counter()
        found = await asyncio.gather(*map(one, models, inputs))
        print(f"{sum(tokens for _, _, tokens in found) / (time.perf_counter() - begun):.1f} tokens per second")
        return found


def test_vllm_gives_the_tokens_of_the_embedded_engine(folders: Folders, tmp_path: Path) -> None:
    """64 chats at the same time: every adapter four times, each time with an input of its task, the last time alone."""
    texts = [inputs[at] for at in range(CHATS // ADAPTERS) for inputs in 2 * list(TASKS.values())]
    found = []
    for name, options in (("upstream", in_front(folders)), ("embedded", ())):
        with serving(folders, tmp_path / name, *options) as address:
            ids = create(address)
            models = [*(ids * 3), *(f"{adapter}:alone" for adapter in ids)]
            print(name, end=": ")
            found.append(asyncio.run(answers(address, models, texts)))
    different = [(text, theirs, ours) for text, theirs, ours in zip(texts, *found, strict=True) if theirs != ours]
    assert len(set(found[0])) > CHATS // 2
    assert different == []


def test_a_deleted_adapter_is_gone(folders: Folders, tmp_path: Path) -> None:
    """Also in vLLM, which had loaded it."""
    with serving(folders, tmp_path / "store", *in_front(folders)) as address:
        adapter, *_ = create(address)
        asyncio.run(answers(address, [adapter], ["apple, pear, hammer, plum"]))
        assert adapter in loaded(folders.vllm)
        httpx2.delete(f"{address}/v1/adapters/{adapter}", timeout=60).raise_for_status()
        assert adapter not in loaded(folders.vllm)
        body = {"model": adapter, "messages": [{"role": "user", "content": "apple"}]}
        assert httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code == 404


def loaded(vllm: str) -> set[str]:
    """The models that a server names."""
    return {model["id"] for model in httpx2.get(f"{vllm}/v1/models", timeout=60).raise_for_status().json()["data"]}
