"""The embedded engine gives every request what it gets by itself, whatever else is in the batch."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from tagi.api.task_adapter import TaskAdapter
from tagi.errors import ConfigError
from tagi.serving.adapter_memory import LoadedAdapter
from tagi.serving.batch import Prompt, RowBatch
from tagi.serving.decoding_loop import DecodingLoop
from tagi.serving.embedded import EmbeddedEngine, EmbeddedLimits
from tagi.serving.protocol import EngineError, PromptError, Request, Sampling
from tests.models import INPUTS, tiny_generator
from tests.serving.served import CACHES, NEW_TOKENS, Served, answer, answers, chat, pieces, running, tiny_served

T = TypeVar("T")
GENERATORS = [("llama", cache) for cache in CACHES] + [("qwen2", "adapted"), ("gpt2", "adapted")]


def mixed(found: Served) -> list[Request]:
    """Inputs with every adapter, and with the adapter alone; raw texts with adapters and of the bare base model."""
    requests = []
    for at, text in enumerate(INPUTS[:3]):
        for name in found.adapters:
            requests += [chat(text, name), chat(text, name, alone=True)]
        sampling = Sampling(NEW_TOKENS)
        requests += [Request(text, sampling), Request(text, sampling, f"adapter{at % len(found.adapters)}")]
    return requests


def by_itself(found: Served, request: Request) -> str:
    """The answer of `TaskAdapter.predict`, or of the base model, to one request."""
    generator, adapter = found.generator, found.adapters.get(request.adapter or "")
    if isinstance(request.prompt, str):
        ids = torch.tensor([generator.backbone.tokenizer(request.prompt)["input_ids"]])
        backbone = generator.backbone
        if adapter is not None:
            backbone = backbone.viewed(adapter.alone().runner().backbone.model)
        found_ids = backbone.generate(ids, torch.ones_like(ids, dtype=torch.bool), max_new_tokens=NEW_TOKENS)
        return generator.text.decode(found_ids)[0]
    assert adapter is not None
    chosen = adapter.alone() if request.alone else adapter
    return str(chosen.predict(request.prompt[0].content, max_new_tokens=NEW_TOKENS))


@pytest.mark.parametrize(("kind", "cache"), GENERATORS)
def test_a_mixed_batch_gives_every_row_what_it_gets_alone(kind: str, cache: str, tmp_path: Path) -> None:
    """Rows join at different times: in a turn few tokens are read, fewer than some prompts have, by fewer rows."""
    found = tiny_served(tmp_path, kind, cache)
    requests = mixed(found)
    wanted = [by_itself(found, request) for request in requests]

    async def ask() -> list[str]:
        async with running(found, rows=9, prompt_tokens=8) as engine:
            return [text.strip() for text in await answers(engine, requests)]

    assert asyncio.run(ask()) == wanted
    # Adapters and inputs are told apart.
    assert len(set(wanted)) > len(wanted) / 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return tiny_served(tmp_path_factory.mktemp("small"), ends=False, max_position_embeddings=2003)


def endless(**changed: Any) -> Request:
    """A request whose answer does not end by itself."""
    return replace(chat(INPUTS[0], "adapter0", max_tokens=1900), **changed)


def asked(found: Served, use: Callable[[EmbeddedEngine], Awaitable[T]], **limits: Any) -> T:
    """What `use` returns of a running engine."""

    async def ask() -> T:
        async with running(found, **limits) as engine:
            return await use(engine)

    return asyncio.run(ask())


def loop_of(engine: EmbeddedEngine) -> DecodingLoop:
    assert engine._decoding is not None
    return engine._decoding


def test_prompt_tokens_and_cached_tokens_are_counted(small: Served) -> None:
    encoder, text = small.generator.text, INPUTS[0]
    told = len(encoder.instruction(small.adapters["adapter0"].instruction))
    requests = [chat(text, "adapter0"), chat(text, "adapter0", alone=True)]
    first, second = asked(small, lambda engine: asyncio.gather(*(pieces(engine, request) for request in requests)))
    assert (first[-1].prompt_tokens, first[-1].cached_tokens) == (told + len(encoder.continuation(text)), told)
    assert (second[-1].prompt_tokens, second[-1].cached_tokens) == (len(encoder.alone(text)), 0)
    assert first[-1].generated_tokens == second[-1].generated_tokens == NEW_TOKENS


def test_closing_an_answer_frees_its_row_at_once(small: Served) -> None:
    """With a single row the second request begins when the first is closed, long before its end."""

    async def use(engine: EmbeddedEngine) -> str:
        first = engine.stream(endless())
        assert (await anext(first)).finish is None
        second = asyncio.ensure_future(answer(engine, chat(INPUTS[1], "adapter1")))
        await asyncio.sleep(0.01)
        assert (engine.load().running, engine.load().waiting) == (1, 1)
        await first.aclose()  # type: ignore[attr-defined]
        found = await second
        assert (engine.load().running, engine.load().waiting) == (0, 0)
        assert loop_of(engine).generated_tokens < 1900
        return found

    wanted = small.adapters["adapter1"].predict(INPUTS[1], max_new_tokens=NEW_TOKENS)
    assert asked(small, use, rows=1).strip() == wanted


def test_cancelled_requests_free_their_rows(small: Served) -> None:
    """Those that run, and those that wait."""

    async def use(engine: EmbeddedEngine) -> None:
        tasks = [asyncio.ensure_future(answer(engine, endless())) for _ in range(4)]
        while loop_of(engine).batch.rows < 2:
            await asyncio.sleep(0.01)
        for task in reversed(tasks):
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
        )
        assert (engine.load().running, engine.load().waiting) == (0, 0)
        await answer(engine, chat(INPUTS[0], "adapter0"))
        assert loop_of(engine).batch.rows == 0

    asked(small, use, rows=2)


def test_the_same_seed_gives_the_same_answer_whatever_is_in_the_batch(small: Served) -> None:
    def sampled(seed: int) -> Request:
        return chat(INPUTS[2], "adapter2", temperature=1.5, top_p=0.95, seed=seed, max_tokens=12)

    alone = asked(small, lambda engine: answer(engine, sampled(5)))
    others = [*mixed(small)[:5], sampled(6)]
    *_, other, beside = asked(small, lambda engine: answers(engine, [*others, sampled(5)]))
    assert beside == alone
    assert other != alone


def test_log_probabilities_are_those_of_the_model(small: Served) -> None:
    request = chat(INPUTS[0], "adapter0", logprobs=3)
    found = [token for piece in asked(small, lambda engine: pieces(engine, request)) for token in piece.tokens]
    adapter, written = small.adapters["adapter0"], [token.text for token in found]
    assert len(found) == NEW_TOKENS
    score = adapter.score(INPUTS[0], [" ".join(written[:count]) for count in (1, 2)], reduction="sum")
    assert all(len(token.top) == 3 and token.top[0] == (token.text, token.logprob) for token in found)
    assert score[0] < found[0].logprob < 0
    assert sum(token.logprob for token in found[:2]) > score[1]


def test_an_answer_fills_the_context_and_no_more(small: Served) -> None:
    request = replace(endless(), sampling=Sampling(10**9))
    last = asked(small, lambda engine: pieces(engine, request), context=40)[-1]
    assert (last.finish, last.prompt_tokens + last.generated_tokens) == ("length", 40)


FAULTS: list[tuple[Request, type[Exception], str]] = [
    (chat("w1", "adapter9"), PromptError, "expected the id of an adapter, got 'adapter9'"),
    (
        chat("w1", "missing"),
        EngineError,
        "cannot load adapter missing: its folder: expected .*, got no such file or directory",
    ),
    (chat(" ".join(["w1"] * 30), "adapter0"), PromptError, "expected at most 21 tokens, got 31: shorten the input .*"),
    (Request("w1 " * 2003, Sampling(1)), PromptError, r"expected a prompt of fewer than 2003 tokens .*, got 2004"),
]


@pytest.mark.parametrize(("request_", "kind", "message"), FAULTS)
def test_a_faulty_request_ends_alone(small: Served, request_: Request, kind: type[Exception], message: str) -> None:
    async def use(engine: EmbeddedEngine) -> list[Any]:
        await engine.add("missing", small.folder / "missing")
        good = chat(INPUTS[1], "adapter1")
        calls = [answer(engine, request) for request in (good, request_, good)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert await engine.healthy() == []
        return found

    first, fault, last = asked(small, use)
    assert first == last != ""
    assert isinstance(fault, kind)
    assert re.fullmatch(message, str(fault))


def test_prompts_that_do_not_fit_into_memory_end_alone(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are read, in parts, alone or in a group, and later: then the longest row ends."""
    read, step = RowBatch.read, RowBatch.step

    def little_read(batch: RowBatch, prompts: Sequence[Prompt]) -> Tensor:
        if sum(len(prompt.ids) for prompt in prompts) > 40:
            raise torch.OutOfMemoryError
        return read(batch, prompts)

    def little_start(batch: RowBatch, prompt: Prompt, tokens: int) -> Prompt:
        raise MemoryError

    def little_step(batch: RowBatch, tokens: Sequence[int]) -> Tensor:
        if max(batch.lengths) > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return step(batch, tokens)

    monkeypatch.setattr(RowBatch, "read", little_read)
    monkeypatch.setattr(RowBatch, "read_start", little_start)
    monkeypatch.setattr(RowBatch, "step", little_step)
    requests = [
        chat(INPUTS[1], "adapter1"),
        Request("w3 " * 60, Sampling(2)),
        Request("w3 " * 45, Sampling(2)),
        endless(),
        Request("w3 " * 35, Sampling(2)),
    ]

    async def use(engine: EmbeddedEngine) -> list[Any]:
        found = await asyncio.gather(*(answer(engine, request) for request in requests), return_exceptions=True)
        assert await engine.healthy() == []
        return found

    good, long, unread, unfinished, other = asked(small, use, prompt_tokens=50)
    assert good.strip() == small.adapters["adapter1"].predict(INPUTS[1], max_new_tokens=NEW_TOKENS)
    assert str(long) == str(unread) == "cannot read the prompt: out of memory"
    assert str(unfinished) == "cannot go on: out of memory"
    assert isinstance(other, str)


def test_numbers_that_are_not_finite_end_their_row_alone(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy and sampled."""
    whole = LoadedAdapter.of_states
    monkeypatch.setattr(
        LoadedAdapter, "of_states", lambda states: replace(whole(states), bank=states.bank.map(torch.log))
    )
    broken = [chat(INPUTS[0], "adapter0", alone=True, temperature=value, top_p=0.9) for value in (0.0, 1.0)]

    async def use(engine: EmbeddedEngine) -> list[Any]:
        return await asyncio.gather(
            *(answer(engine, request) for request in [*broken, Request(INPUTS[1], Sampling(3))]), return_exceptions=True
        )

    *faults, good = asked(small, use)
    assert [str(fault) for fault in faults] == ["cannot go on: the model's logits are not finite"] * 2
    assert good == by_itself(small, Request(INPUTS[1], Sampling(3)))[: len(good)] != ""


def test_a_fault_of_the_loop_ends_every_request_and_shows(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: RowBatch, tokens: Sequence[int]) -> Tensor:
        raise ZeroDivisionError("nothing left")

    monkeypatch.setattr(RowBatch, "step", fail)
    wanted = "decoding stopped: ZeroDivisionError: nothing left"

    async def use(engine: EmbeddedEngine) -> None:
        assert await engine.healthy() == []
        calls = [answer(engine, chat(text, "adapter0")) for text in INPUTS]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        ends += await asyncio.gather(answer(engine, endless()), return_exceptions=True)
        assert [(type(end), str(end)) for end in ends] == [(EngineError, wanted)] * (len(INPUTS) + 1)
        assert await engine.healthy() == [wanted]

    asked(small, use, rows=2)


def test_requests_beyond_those_that_may_wait_are_refused(small: Served) -> None:
    async def use(engine: EmbeddedEngine) -> None:
        tasks = [asyncio.ensure_future(answer(engine, endless())) for _ in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(EngineError, match="2 requests wait already, which is the limit"):
            await answer(engine, endless())
        for task in tasks:
            task.cancel()

    asked(small, use, rows=1, waiting=2)


def test_closing_the_engine_ends_what_runs_and_what_waits(small: Served) -> None:
    async def close() -> list[Any]:
        engine = EmbeddedEngine(small.generator, EmbeddedLimits(rows=2))
        with pytest.raises(EngineError, match="the engine was not started"):
            await answer(engine, chat("w1"))
        assert await engine.healthy() == ["the engine was not started"]
        await engine.start()
        await engine.add("adapter0", small.folder / "adapter0")
        tasks = [asyncio.ensure_future(answer(engine, endless())) for _ in range(4)]
        while loop_of(engine).batch.rows < 2:
            await asyncio.sleep(0.01)
        await engine.close()
        assert await engine.healthy() == ["the engine was closed"]
        return await asyncio.gather(*tasks, return_exceptions=True)

    ends = asyncio.run(close())
    assert [(type(end), str(end)) for end in ends] == [(EngineError, "the engine was closed")] * 4


def test_adapters_are_forgotten_by_least_recent_use_and_removed(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instruction is read once while its adapter stays in memory."""
    loads, get = [], TaskAdapter.from_pretrained

    def counted(folder: Path, generator: Any) -> TaskAdapter:
        loads.append(folder.name)
        return get(folder, generator)

    monkeypatch.setattr(TaskAdapter, "from_pretrained", counted)
    size = max(LoadedAdapter.of_states(adapter.states).bytes for adapter in small.adapters.values())

    async def use(engine: EmbeddedEngine) -> None:
        for name in ("adapter0", "adapter1", "adapter0", "adapter2", "adapter0", "adapter1"):
            await answer(engine, chat("w1", name, max_tokens=1))
        assert loads == ["adapter0", "adapter1", "adapter2", "adapter1"]
        details = engine.load().details
        assert (details["adapters_in_memory"], details["adapter_bytes"] <= 2 * size) == (2, True)
        await engine.remove("adapter1")
        with pytest.raises(PromptError, match="expected the id of an adapter, got 'adapter1'"):
            await answer(engine, chat("w1", "adapter1"))
        assert engine.load().details["adapters_in_memory"] == 1

    asked(small, use, adapter_bytes=2 * size)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a generator of a decoder-only base model to serve, got"):
        EmbeddedEngine(tiny_generator())
