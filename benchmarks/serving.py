"""What the embedded engine gives 32 clients that ask 32 adapters at the same time.

    python benchmarks/serving.py OUT [--clients 32] [--tokens 16] [--repeats 3]

Loads: every client asks an adapter of its own, all at the same time; the same requests one after another; all clients
ask one adapter; and, with the adapters alone (no instruction before the input), all at the same time, beside PEFT's
`adapter_names` with the same adapters and prompts in one batch. Answers are greedy, in fp32. All in turns on one
thread's processor clock, which a busy machine disturbs little; ratios of medians are the result. The answers at the
same time must be those one after another, and PEFT's those of the adapters alone.
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
KINDS = ("a fruit", "a town", "a tool", "a colour", "a bird", "a river", "a song", "a game")
WAYS = (
    "Write a story about what is named.",
    "Explain to a child what is named.",
    "Write a letter to what is named.",
    "List facts about what is named, one a line.",
)


@dataclass(frozen=True)
class Given:
    """What a load gave: the answers, and their tokens, the one that ends an answer included."""

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
    names, ends = [request.adapter for request in asked], set(generator.backbone.end_tokens)  # type: ignore[arg-type]

    async def load() -> Given:
        with torch.no_grad():
            found = model.generate(
                input_ids=ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=tokens,
                pad_token_id=tokenizer.eos_token_id, eos_token_id=sorted(ends), adapter_names=names,
            )  # fmt: skip
        rows = found[:, ids.shape[1] :].tolist()
        lengths = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in rows]
        texts = [tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(rows, lengths, strict=True)]
        return Given(texts, sum(lengths))

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


async def run(clients: int, tokens: int, repeats: int) -> dict[str, Any]:
    generator = AdapterGenerator.from_pretrained(GENERATOR, device="cpu", dtype=torch.float32)
    adapters = generator.adapt(instructions(clients))
    assert isinstance(adapters, list)
    engine = EmbeddedEngine(generator, EmbeddedLimits(rows=clients))
    await engine.start()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for at, adapter in enumerate(adapters):
            adapter.save_pretrained(folder / "adapters" / str(at))
            await engine.add(str(at), folder / "adapters" / str(at))
        many = requests(clients, tokens, adapters=clients)
        alone = requests(clients, tokens, adapters=clients, alone=True)
        peft = peft_model(adapters, folder / "peft")
        given, seconds = await measured(
            {
                "many_adapters": lambda: at_once(engine, many),
                "one_by_one": lambda: one_by_one(engine, many),
                "one_adapter": lambda: at_once(engine, requests(clients, tokens, adapters=1)),
                "alone": lambda: at_once(engine, alone),
                "peft": peft_load(peft, generator, alone, tokens),
            },
            repeats,
        )
    await engine.close()
    rates = {name: given[name].tokens / statistics.median(times) for name, times in seconds.items()}
    return {
        "generator": GENERATOR,
        "clients": clients,
        "most_tokens": tokens,
        "tokens": {name: found.tokens for name, found in given.items()},
        "seconds": seconds,
        "tokens_per_second": rates,
        "over_one_by_one": rates["many_adapters"] / rates["one_by_one"],
        "over_one_adapter": rates["many_adapters"] / rates["one_adapter"],
        "alone_over_peft": rates["alone"] / rates["peft"],
        "different_answers": differing(given["many_adapters"], given["one_by_one"]),
        "different_answers_peft": differing(given["alone"], given["peft"]),
    }


def differing(first: Given, second: Given) -> int:
    return sum(one != other for one, other in zip(first.texts, second.texts, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the record")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = {**asyncio.run(run(asked.clients, asked.tokens, asked.repeats)), "environment": environment()}
    write_text(asked.out / "serving.json", json.dumps(result, indent=2) + "\n")
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in result["tokens_per_second"].items())
    print(f"tokens per second of processor time: {rates}")
    print(
        f"{asked.clients} adapters at the same time: {result['over_one_by_one']:.2f} times one after another, "
        f"{result['over_one_adapter']:.2f} of one adapter; alone {result['alone_over_peft']:.2f} times PEFT's; "
        f"{result['different_answers']} answers differ from those one after another, "
        f"{result['different_answers_peft']} from PEFT's"
    )


if __name__ == "__main__":
    main()
