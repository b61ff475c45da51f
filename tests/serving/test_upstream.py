"""The upstream engine gives the embedded engine's answers through servers, of which some fail."""

import asyncio
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tagi.backbones.causal import CausalBackbone
from tagi.errors import ConfigError
from tagi.serving.protocol import EngineError, PromptError, Request, Sampling
from tagi.serving.upstream import UpstreamEngine
from tests.models import INPUTS, tiny_generator
from tests.serving.fake_vllm import CONTEXT, MODEL, FakeVllm, serving
from tests.serving.served import NEW_TOKENS, Served, answer, answers, chat, pieces, tiny_served

T = TypeVar("T")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return tiny_served(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder from which the servers read adapters."""
    return tmp_path / "adapters"


@pytest.fixture
def fakes(found: Served, folder: Path) -> Iterator[list[FakeVllm]]:
    """Two servers."""
    backbone = found.generator.backbone
    assert isinstance(backbone, CausalBackbone)
    with serving(FakeVllm(backbone, folder)) as first, serving(FakeVllm(backbone, folder)) as second:
        yield [first, second]


def asked(
    found: Served,
    folder: Path,
    fakes: list[FakeVllm],
    use: Callable[[UpstreamEngine], Awaitable[T]],
    **options: Any,
) -> T:
    """What `use` returns of a running engine that knows all adapters."""

    async def ask() -> T:
        given = {"retry_seconds": 1000.0, **options}
        engine = UpstreamEngine([fake.url for fake in fakes], folder, MODEL, found.generator, **given)
        await engine.start()
        try:
            for name in found.adapters:
                await engine.add(name, found.folder / name)
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(ask())


def predicted(found: Served, request: Request) -> str:
    adapter = found.adapters[request.adapter or ""]
    adapter = adapter.alone() if request.alone else adapter
    return str(adapter.predict(request.prompt[0].content, max_new_tokens=NEW_TOKENS))  # type: ignore[union-attr]


REQUEST = chat(INPUTS[0], "adapter0")


def test_the_servers_give_the_answers_of_the_adapters(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    requests = [
        chat(text, name, alone=alone) for text in INPUTS[:2] for name in found.adapters for alone in (False, True)
    ]
    answered = asked(found, folder, fakes, lambda engine: answers(engine, requests))
    assert [text.strip() for text in answered] == [predicted(found, request) for request in requests]
    assert sorted(len(fake.bodies) for fake in fakes) == [6, 6]
    assert sorted(path.name for path in folder.iterdir()) == sorted(found.adapters)
    config = json.loads((folder / "adapter0" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == MODEL


def test_raw_text_and_the_bare_model(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    sampling = Sampling(2, temperature=0.7, top_p=0.9, seed=-1, stop=("x", ""))
    asked(found, folder, fakes[:1], lambda engine: answer(engine, Request("w1 w2", sampling)))
    assert fakes[0].bodies == [
        {
            "model": MODEL,
            "prompt": found.generator.backbone.tokenizer("w1 w2")["input_ids"],
            "max_tokens": 2,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": 2**63 - 1,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_usage_log_probabilities_and_the_end(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    request = chat(INPUTS[0], "adapter0", logprobs=2)
    *parts, last = asked(found, folder, fakes, lambda engine: pieces(engine, request))
    tokens = [token for piece in parts for token in piece.tokens]
    assert "".join(token.text for token in tokens) == "".join(piece.text for piece in parts)
    assert all(token.top == (("w2", -0.5), ("w1", -2.0)) and token.logprob == -0.5 for token in tokens)
    body = next(fake.bodies[0] for fake in fakes if fake.bodies)
    assert (last.finish, last.prompt_tokens, last.cached_tokens) == ("stop", len(body["prompt"]), 3)
    assert last.generated_tokens == len(tokens) < NEW_TOKENS


@pytest.mark.parametrize("fails", ["status", "before"])
def test_a_request_moves_on_from_a_replica_that_fails(
    found: Served, folder: Path, fakes: list[FakeVllm], fails: str
) -> None:
    fakes[0].fails = fails

    async def use(engine: UpstreamEngine) -> list[str]:
        given = [await answer(engine, REQUEST) for _ in range(4)]
        assert engine.load().details["failed_replicas"] == 1
        return given

    assert [text.strip() for text in asked(found, folder, fakes, use)] == [predicted(found, REQUEST)] * 4
    assert [len(fake.bodies) for fake in fakes] == [1, 4]


def test_a_replica_that_is_not_there_is_reported_and_tried_again(
    found: Served, folder: Path, fakes: list[FakeVllm]
) -> None:
    """From the start, and later: one that is well again is asked again."""
    nowhere = FakeVllm(fakes[0].backbone, folder)
    nowhere.url = "http://127.0.0.1:9"

    async def use(engine: UpstreamEngine) -> None:
        await answers(engine, [REQUEST] * 2)
        fakes[0].fails = "health"
        first, second = await engine.healthy()
        assert re.match(r"http://127.0.0.1:9: ConnectError", first)
        assert second.startswith(f"{fakes[0].url}: HTTPStatusError: Server error '503")
        with pytest.raises(EngineError, match="no upstream server answers: all have failed a moment ago"):
            await answer(engine, REQUEST)
        fakes[0].fails = None
        assert len(await engine.healthy()) == 1
        await answer(engine, REQUEST)

    asked(found, folder, [nowhere, fakes[0]], use)


def test_a_replica_is_tried_again_after_a_while(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    async def use(engine: UpstreamEngine) -> None:
        fakes[0].fails = "status"
        with pytest.raises(EngineError, match="no upstream server answers: status 500: no memory"):
            await answer(engine, REQUEST)
        with pytest.raises(EngineError, match="no upstream server answers: all have failed a moment ago"):
            await answer(engine, REQUEST)
        fakes[0].fails = None
        await asyncio.sleep(0.3)
        await answer(engine, REQUEST)
        assert engine.load().details["failed_replicas"] == 0

    asked(found, folder, fakes[:1], use, retry_seconds=0.3)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("after", "the upstream server stopped answering: RemoteProtocolError"),
        ("odd", "no upstream server answers: expected a part of an answer, got the engine is dead"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(
    found: Served, folder: Path, fakes: list[FakeVllm], fails: str, message: str
) -> None:
    for fake in fakes:
        fake.fails = fails
    with pytest.raises(EngineError, match=message):
        asked(found, folder, fakes, lambda engine: answer(engine, REQUEST))
    assert sum(len(fake.bodies) for fake in fakes) == (1 if fails == "after" else 2)


def test_what_is_wrong_with_the_request_leaves_no_replica_out(
    found: Served, folder: Path, fakes: list[FakeVllm]
) -> None:
    async def use(engine: UpstreamEngine) -> None:
        assert engine.context == CONTEXT
        with pytest.raises(PromptError, match="expected the id of an adapter, got 'adapter9'"):
            await answer(engine, chat("w1", "adapter9"))
        with pytest.raises(PromptError, match=f"expected a prompt of fewer than {CONTEXT} tokens"):
            await answer(engine, Request("w1 " * CONTEXT, Sampling(1)))
        (folder / "adapter1").rename(folder.parent / "elsewhere")  # the servers do not find it
        with pytest.raises(EngineError, match="no upstream server answers: status 404: The model `adapter1` does not"):
            await answer(engine, chat("w1", "adapter1"))
        engine._encoder.context = 2 * CONTEXT
        with pytest.raises(PromptError, match="too long"):
            await answer(engine, Request("w1 w1", Sampling(CONTEXT)))
        assert engine.load().details["failed_replicas"] == engine.load().running == 0

    asked(found, folder, fakes, use)


def test_a_removed_adapter_is_unloaded_everywhere(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    """Also where that fails at first."""

    async def use(engine: UpstreamEngine) -> None:
        fakes[1].fails = "health"
        await engine.remove("adapter1")
        assert engine.load().details["failed_replicas"] == 1
        assert not (folder / "adapter1").exists()
        assert fakes[0].unloaded == ["adapter1"]
        with pytest.raises(PromptError, match="expected the id of an adapter, got 'adapter1'"):
            await answer(engine, chat("w1", "adapter1"))
        fakes[1].fails = None
        await engine.healthy()
        assert fakes[1].unloaded == ["adapter1"]
        await engine.remove("unknown")
        assert [fake.unloaded for fake in fakes] == [["adapter1"]] * 2

    asked(found, folder, fakes, use)


def test_closing_an_answer_ends_it_on_the_server(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    fakes[0].fails = "endless"

    async def use(engine: UpstreamEngine) -> None:
        stream = engine.stream(REQUEST)
        await anext(stream)
        assert engine.load().running == 1
        await stream.aclose()  # type: ignore[attr-defined]
        assert engine.load().running == 0
        assert await asyncio.to_thread(fakes[0].disconnected.wait, 10)

    asked(found, folder, fakes[:1], use)


def test_closing_the_engine_ends_what_runs(found: Served, folder: Path, fakes: list[FakeVllm]) -> None:
    fakes[0].fails = "endless"

    async def use(engine: UpstreamEngine) -> None:
        stream = engine.stream(REQUEST)
        await anext(stream)
        rest = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        await engine.close()
        with pytest.raises(EngineError, match="the upstream server stopped answering"):
            await rest

    asked(found, folder, fakes[:1], use)


def test_what_cannot_be_served_upstream_is_refused(
    found: Served, folder: Path, fakes: list[FakeVllm], tmp_path: Path
) -> None:
    for generator, message in [
        (tiny_generator(), "expected a generator of a decoder-only base model, got one of tiny"),
        (
            tiny_served(tmp_path / "stock", cache="stock").generator,
            "got one with fusion with the instruction in the layers",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            UpstreamEngine(["http://127.0.0.1:9"], folder, MODEL, generator)
    with pytest.raises(ConfigError, match="expected the address of an upstream server, got none"):
        UpstreamEngine([], folder, MODEL, found.generator)
    other = tiny_served(tmp_path / "qwen2", "qwen2")

    async def start(model: str) -> None:
        engine = UpstreamEngine([fakes[0].url], folder, model, found.generator)
        try:
            await engine.start()
            with pytest.raises(EngineError, match="cannot give adapter a to the servers: expected an adapter"):
                await engine.add("a", other.folder / "adapter0")
            with pytest.raises(EngineError, match=r"cannot give adapter a to the servers: .* got no such file"):
                await engine.add("a", other.folder / "adapter9")
            damaged = shutil.copytree(found.folder / "adapter0", tmp_path / f"damaged {model}")
            (damaged / "adapter_config.json").write_text("{")
            with pytest.raises(EngineError, match=r"cannot give adapter a .* expected the configuration"):
                await engine.add("a", damaged)
            with pytest.raises(ValueError, match=r"expected an id that names a folder, got '\.\./a'"):
                await engine.add("../a", found.folder / "adapter0")
        finally:
            await engine.close()

    with pytest.raises(EngineError, match=f"expected the model 'another' at {fakes[0].url}, got {MODEL}"):
        asyncio.run(start("another"))
    asyncio.run(start(MODEL))
    assert list(folder.iterdir()) == []
