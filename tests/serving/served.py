"""Tiny generators to serve, their adapters in folders, and asking an engine."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.serving.embedded import EmbeddedEngine, EmbeddedLimits
from tagi.serving.protocol import Message, Piece, Request, Sampling
from tagi.settings.generator import GeneratorSettings
from tests.causal_models import tiny_causal
from tests.models import INSTRUCTIONS, text_settings

NEW_TOKENS = 6
CACHES: dict[str, dict[str, Any]] = {
    "adapted": {"instruction_cache": "adapted", "fusion": "none", "shared_rank": 2, "residual": "both"},
    "stock": {"instruction_cache": "stock", "fusion": "attention"},
    "none": {"instruction_cache": "none", "fusion": "none"},
    "older": {"fusion": "both"},
}
"""What inputs see of an instruction, as settings say it."""


@dataclass(frozen=True)
class Served:
    """A generator, its adapters by id, and their folders."""

    generator: AdapterGenerator
    adapters: dict[str, TaskAdapter]
    folder: Path


def tiny_served(
    folder: Path, kind: str = "llama", cache: str = "adapted", *, ends: bool = True, **fields: Any
) -> Served:
    """A generator on a tiny model whose tokens are words; its adapters differ and are told apart by their answers.

    `fields` are of the model's configuration. Without `ends` no answer ends by itself.
    """
    settings = GeneratorSettings(kind="query", rank=3, alpha=9.0, hidden=13, width=12, heads=3, **CACHES[cache])
    generator = AdapterGenerator(tiny_causal(kind, **fields), settings, text_settings()).eval()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for part in generator.own_parts:
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
        if not ends:
            generator.backbone.model.lm_head.weight[generator.backbone.tokenizer.eos_token_id] = 0
    return served(generator, INSTRUCTIONS, folder)


def served(generator: AdapterGenerator, instructions: Sequence[str], folder: Path) -> Served:
    """Adapters for instructions, each in a folder of its id."""
    adapters = {f"adapter{at}": generator.adapt(instruction) for at, instruction in enumerate(instructions)}
    for name, adapter in adapters.items():
        adapter.save_pretrained(folder / name)
    return Served(generator, adapters, folder)


@asynccontextmanager
async def running(found: Served, **limits: Any) -> AsyncIterator[EmbeddedEngine]:
    """An engine that knows the adapters, started and closed again."""
    engine = EmbeddedEngine(found.generator, EmbeddedLimits(**limits))
    await engine.start()
    try:
        for name in found.adapters:
            await engine.add(name, found.folder / name)
        yield engine
    finally:
        await engine.close()


def chat(text: str, adapter: str | None = None, *, alone: bool = False, **sampling: Any) -> Request:
    """A chat of one user message."""
    given = Sampling(**{"max_tokens": NEW_TOKENS, **sampling})
    return Request((Message("user", text),), given, adapter, alone)


async def pieces(engine: Any, request: Request) -> list[Piece]:
    """All pieces of an answer."""
    return [piece async for piece in engine.stream(request)]


async def answer(engine: Any, request: Request) -> str:
    """The text of an answer."""
    return "".join(piece.text for piece in await pieces(engine, request))


async def answers(engine: Any, requests: Sequence[Request]) -> list[str]:
    """The answers to requests that are sent at the same time."""
    return await asyncio.gather(*(answer(engine, request) for request in requests))
