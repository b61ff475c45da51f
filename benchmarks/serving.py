"""What the embedded engine gives 32 clients that ask 32 adapters at the same time.

    python benchmarks/serving.py OUT [--clients 32] [--tokens 16] [--repeats 3] [--adapters-only]

Loads: every client asks an adapter of its own, all at the same time; the same requests one after another; all clients
ask one adapter; and, with the adapters alone (no instruction before the input), all at the same time, beside PEFT's
`adapter_names` with the same adapters and prompts in one batch. Answers are greedy, in fp32, and all have as many
tokens, so that every load is the same work. All in turns on one thread's processor clock, which a busy machine disturbs
little; ratios of medians are the result. The answers at the same time must be those one after another, and PEFT's those
of the adapters alone. With `--adapters-only` many adapters are compared with one and nothing else is measured, which
takes a fifth of the time.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.load import load_backbone
from tagi.files import write_text
from tagi.formats.records import environment
from tagi.serving.embedded import EmbeddedEngine, EmbeddedLimits
from tagi.serving.protocol import Message, Request, Sampling

GENERATOR = "smollm2"
HALF = "\ufffd"
"""Half a character at the end of an answer, which the engine does not give."""
KINDS = ("a fruit", "a town", "a tool", "a colour", "a bird", "a river", "a song", "a game")
WAYS = (
    "Write a story about what is named.",
    "Explain to a child what is named.",
    "Write a letter to what is named.",
    "List facts about what is named, one a line.",
)


@dataclass(frozen=True)
class Given:
    """What a load gave: the answers, and how many tokens they have together."""

    texts: list[str]
    tokens: int


Load = Callable[[], Awaitable[Given]]


def instructions(count: int) -> list[str]:
    """As many instructions, each another."""
    return [f"The input is {KINDS[at % 8]}. {WAYS[at // 8 % 4]} Take {at + 3} lines at most." for at in range(count)]


def requests(count: int, tokens: int, *, adapters: int, alone: bool = False) -> list[Request]:
    """A request for every client, the adapters in turn."""
    sampling = Sampling(tokens)
    return [
        Request((Message("user", f"This one: {KINDS[at % 8]}, number {at}."),), sampling, str(at % adapters), alone)
        for at in range(count)
    ]


async def answered(engine: EmbeddedEngine, request: Request) -> Given:
    pieces = [piece async for piece in engine.stream(request)]
    return Given(["".join(piece.text for piece in pieces)], pieces[-1].generated_tokens)


async def at_once(engine: EmbeddedEngine, asked: Sequence[Request]) -> Given:
    return joined(await asyncio.gather(*(answered(engine, request) for request in asked)))


async def one_by_one(engine: EmbeddedEngine, asked: Sequence[Request]) -> Given:
    return joined([await answered(engine, request) for request in asked])


def joined(found: Sequence[Given]) -> Given:
    return Given([text for one in found for text in one.texts], sum(one.tokens for one in found))


def peft_model(adapters: Sequence[TaskAdapter], folder: Path) -> Any:
    """The base model with all adapters in PEFT."""
    for at, adapter in enumerate(adapters):
        adapter.export(folder / str(at), lossy=True)
    base = load_backbone(adapters[0].generator.backbone.identity.name).model
    model = PeftModel.from_pretrained(base, str(folder / "0"), adapter_name="0")
    for at in range(1, len(adapters)):
        model.load_adapter(str(folder / str(at)), adapter_name=str(at))
    return model.eval()


def peft_load(model: Any, generator: AdapterGenerator, asked: Sequence[Request], tokens: int) -> Load:
    """The same prompts of adapters alone in one batch of PEFT's."""
    encode, tokenizer = generator.input_encoder(alone=True), generator.backbone.tokenizer
    ids, mask = generator.text.batch([encode(request.prompt[0].content) for request in asked])  # type: ignore[union-attr]
    names, beyond = [request.adapter for request in asked], generator.backbone.vocabulary  # which is no token's id

    async def load() -> Given:
        with torch.no_grad():
            found = model.generate(
                input_ids=ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=tokens,
                pad_token_id=tokenizer.eos_token_id, eos_token_id=beyond, adapter_names=names,
            )  # fmt: skip
        rows = found[:, ids.shape[1] :].tolist()
        texts = [tokenizer.decode(row, skip_special_tokens=True).rstrip(HALF) for row in rows]
        return Given(texts, len(rows) * tokens)

    return load


async def measured(loads: dict[str, Load], repeats: int) -> tuple[dict[str, Given], dict[str, list[float]]]:
    """What each load gave, and its seconds of processor time, in turns after a warm-up."""
    given: dict[str, Given] = {}
    seconds: dict[str, list[float]] = {name: [] for name in loads}
    for turn in range(repeats + 1):
        for name, load in loads.items():
            begun = time.process_time()
            found = await load()
            if turn:
                seconds[name].append(time.process_time() - begun)
            if given.setdefault(name, found) != found:
                raise AssertionError(f"{name}: expected the same answers in every turn, got others")
    return given, seconds


async def run(clients: int, tokens: int, repeats: int, *, adapters_only: bool) -> dict[str, Any]:
    generator = AdapterGenerator.from_pretrained(GENERATOR, device="cpu", dtype=torch.float32)
    adapters = generator.adapt(instructions(clients))
    assert isinstance(adapters, list)
    engine = EmbeddedEngine(generator, EmbeddedLimits(rows=clients))
    engine._ends = []  # no token ends an answer
    await engine.start()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for at, adapter in enumerate(adapters):
            adapter.save_pretrained(folder / "adapters" / str(at))
            await engine.add(str(at), folder / "adapters" / str(at))
        many = requests(clients, tokens, adapters=clients)
        loads: dict[str, Load] = {
            "many_adapters": lambda: at_once(engine, many),
            "one_adapter": lambda: at_once(engine, requests(clients, tokens, adapters=1)),
        }
        if not adapters_only:
            alone = requests(clients, tokens, adapters=clients, alone=True)
            loads |= {
                "one_by_one": lambda: one_by_one(engine, many),
                "alone": lambda: at_once(engine, alone),
                "peft": peft_load(peft_model(adapters, folder / "peft"), generator, alone, tokens),
            }
        given, seconds = await measured(loads, repeats)
    await engine.close()
    rates = {name: given[name].tokens / statistics.median(times) for name, times in seconds.items()}
    result = {
        "generator": GENERATOR,
        "clients": clients,
        "most_tokens": tokens,
        "tokens": {name: found.tokens for name, found in given.items()},
        "seconds": seconds,
        "tokens_per_second": rates,
        "over_one_adapter": rates["many_adapters"] / rates["one_adapter"],
    }
    if not adapters_only:
        result |= {
            "over_one_by_one": rates["many_adapters"] / rates["one_by_one"],
            "alone_over_peft": rates["alone"] / rates["peft"],
            "different_answers": differing(given["many_adapters"], given["one_by_one"]),
            "different_answers_peft": differing(given["alone"], given["peft"]),
        }
    return result


def differing(first: Given, second: Given) -> int:
    return sum(one != other for one, other in zip(first.texts, second.texts, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the record")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--adapters-only", action="store_true", help="compare many adapters with one, nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = asyncio.run(run(asked.clients, asked.tokens, asked.repeats, adapters_only=asked.adapters_only))
    name = "adapters.json" if asked.adapters_only else "serving.json"
    write_text(asked.out / name, json.dumps({**result, "environment": environment()}, indent=2) + "\n")
    for key in ("tokens_per_second", "over_one_adapter", "over_one_by_one", "alone_over_peft", "different_answers"):
        print(f"{key}: {result.get(key)}")


if __name__ == "__main__":
    main()
