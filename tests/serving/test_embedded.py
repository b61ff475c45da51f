"""The embedded engine gives every request what it gets by itself, whatever else is in the batch."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.serving.protocol import Request, Sampling
from tests.models import INPUTS
from tests.serving.served import CACHES, NEW_TOKENS, Served, answers, chat, running, tiny_served

GENERATORS = [("llama", cache) for cache in CACHES] + [("qwen2", "adapted"), ("gpt2", "adapted")]


def mixed(found: Served) -> list[Request]:
    """Every input with every adapter, and with the adapter alone; raw texts with adapters and of the bare base model."""
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
    """Rows join at different times: few tokens are read in a turn, and there are fewer rows than requests."""
    found = tiny_served(tmp_path, kind, cache)
    requests = mixed(found)
    wanted = [by_itself(found, request) for request in requests]

    async def ask(**limits: Any) -> list[str]:
        async with running(found, **limits) as engine:
            return [text.strip() for text in await answers(engine, requests)]

    assert asyncio.run(ask(rows=64, prompt_tokens=4096)) == wanted
    assert asyncio.run(ask(rows=5, prompt_tokens=9)) == wanted
    # Adapters and inputs are told apart, and some answers end by themselves.
    assert len(set(wanted)) > len(wanted) / 2
