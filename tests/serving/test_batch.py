"""Rows that join, leave and grow compute what each computes by itself, on models with and without sliding windows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.bank import as_lora
from tagi.adapters.merge import merge
from tagi.api.generator import AdapterGenerator
from tagi.backbones.causal import CausalBackbone
from tagi.hypernetwork.states import TaskStates
from tagi.serving import row_cache
from tagi.serving.adapter_memory import LoadedAdapter
from tagi.serving.batch import Prompt, RowBatch
from tests.causal_models import close, exact_causal
from tests.hypernetwork.test_causal_generator import made, opened, prepared

WINDOWED = ("gemma2", "mistral")


@dataclass
class Known:
    """A row, and all tokens that it has read."""

    prompt: Prompt
    tokens: list[int]
    states: TaskStates | None


def random_tokens(seed: int, count: int) -> list[int]:
    return torch.randint(5, 60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def generator_on(kind: str) -> AdapterGenerator:
    """Inputs follow an instruction where the model's window has room for both."""
    cache = "none" if kind in WINDOWED else "adapted"
    return opened(made(exact_causal(kind), fusion="none", fusion_every=1, instruction_cache=cache))


def rows_of(generator: AdapterGenerator) -> Iterator[Known]:
    """Rows with three adapters, with one of them without its instruction, and without any."""
    states = prepared(generator)
    for number, (task, length) in enumerate([(0, 7), (None, 4), (2, 11), (0, 1), (1, 3)]):
        own = None if task is None else states.select(torch.tensor([task]))
        adapter = None if own is None else LoadedAdapter.of_states(own)
        known = adapter.prefix if adapter and number != 3 else None
        ids = random_tokens(number, length)
        before = own.ids[0].tolist() if known and own and own.ids is not None else []
        yield Known(Prompt(ids, adapter, known), [*before, *ids], own)


def alone(generator: AdapterGenerator, row: Known) -> Tensor:
    """The logits after all of a row's tokens, in one pass without a cache and with merged weights."""
    backbone = generator.backbone
    assert isinstance(backbone, CausalBackbone)
    model: Any = backbone.model
    if row.states is not None:
        model = merge(model, as_lora(row.states.bank, "test"))
    ids = torch.tensor([row.tokens])
    with torch.no_grad():
        return backbone.run(model, ids, torch.ones_like(ids, dtype=torch.bool)).logits[0, -1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", *WINDOWED])
def test_rows_that_join_and_leave_compute_what_they_compute_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "_FREE_COLUMNS", 2)
    generator = generator_on(kind)
    first, second, third, fourth, fifth = rows_of(generator)
    batch, running = RowBatch(generator, 4), list[Known]()

    def check(logits: Tensor, rows: list[Known]) -> None:
        assert len(logits) == len(rows)
        for found, row in zip(logits, rows, strict=True):
            close(found, alone(generator, row))

    def join(*rows: Known) -> None:
        check(batch.read([row.prompt for row in rows]), list(rows))
        running.extend(rows)

    def step(seed: int) -> None:
        tokens = random_tokens(seed, len(running))
        logits = batch.step(tokens)
        for row, token in zip(running, tokens, strict=True):
            row.tokens.append(token)
        check(logits, running)

    def leave(number: int) -> None:
        batch.remove(number)
        running[number] = running[-1]
        running.pop()

    first.prompt = batch.read_start(batch.read_start(first.prompt, 4), 2)
    join(first)
    step(10)
    third.prompt = batch.read_start(third.prompt, 3)
    for group in [[second], [third]] if kind in WINDOWED else [[second, third]]:
        join(*group)
    step(11)
    step(12)
    leave(0)
    join(fourth)
    for seed in range(13, 17):
        step(seed)
    leave(len(running) - 1)
    join(fifth)
    step(17)
    assert list(batch.lengths) == [len(row.tokens) for row in running]
    for _ in range(3):
        leave(0)
    assert batch.rows == 0


def test_a_row_without_numbers_does_not_reach_the_others() -> None:
    """Nor those that later take its place in the buffers."""
    generator = generator_on("llama")
    first, second, _, _, fifth = rows_of(generator)
    batch = RowBatch(generator, 3)
    assert second.prompt.adapter is None
    assert first.prompt.adapter is not None
    broken = replace(
        first.prompt.adapter, prefix=None, bank=first.prompt.adapter.bank.map(lambda part: part * torch.nan)
    )
    assert not batch.read([second.prompt, Prompt(random_tokens(3, 20), broken)])[1].isfinite().any()
    batch.step([5, 5])
    second.tokens += [5, 6]
    batch.remove(1)
    batch.read([fifth.prompt])
    fifth.tokens.append(7)
    logits = batch.step([6, 7])
    for found, row in zip(logits, (second, fifth), strict=True):
        close(found, alone(generator, row))


def test_a_pass_that_fails_leaves_the_batch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_on("llama")
    first, second, third, *_ = rows_of(generator)
    batch = RowBatch(generator, 3)
    batch.read([first.prompt])
    layer = batch.backbone.fusion_places[1]
    failing = layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        batch.read([second.prompt, third.prompt])
    with pytest.raises(ZeroDivisionError):
        batch.step([8])
    failing.remove()
    assert batch.rows == 1
    first.tokens.append(9)
    close(batch.step([9])[0], alone(generator, first))
    # A row that was computed and for which the buffers could not grow.
    add, calls = batch._cache.add, []

    def add_once(layers: Any) -> None:
        calls.append(layers)
        if len(calls) > 1:
            raise MemoryError
        add(layers)

    monkeypatch.setattr(batch._cache, "add", add_once)
    with pytest.raises(MemoryError):
        batch.read([second.prompt, third.prompt])
    assert batch.rows == 1
    first.tokens.append(6)
    close(batch.step([6])[0], alone(generator, first))


def test_nothing_is_left_on_the_generator() -> None:
    """The batch has hooks and modes of its own."""
    generator = generator_on("gpt2").train()
    first, *_ = rows_of(generator)
    batch = RowBatch(generator, 2)
    batch.read([first.prompt])
    generator.backbone.model.register_forward_hook(lambda *_: 1 / 0)
    batch.step([7])
    assert generator.backbone.model.training
    assert not batch.backbone.model.training
