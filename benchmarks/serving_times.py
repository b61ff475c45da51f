"""How long an instruction takes to its first answer, and whether an adapter's creation tells what other keys have.

    python benchmarks/serving_times.py OUT [--instructions 10] [--pairs 50] [--tokens 16] [--generator smollm2]

Starts `tagi serve` with two keys and asks it over HTTP. For each instruction in turn: from sending the instruction to
the end of the first answer; a second answer of the same adapter; the stock model's answer with the instruction as
system message, the first and a second time. Answers are greedy and as long as `--tokens` allows. Then, in pairs: one
key creates an adapter for an instruction that the other key has, and one for an instruction that nobody has; the paired
difference, as a share of the time of a creation, has an interval of 95%.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tagi.files import write_text
from tagi.formats.records import environment

KEYS = {"one": "sk-benchmark-one-0123456789", "two": "sk-benchmark-two-0123456789"}
KINDS = ("a fruit", "a town", "a tool", "a colour", "a bird", "a river", "a song", "a game")
LOADING_SECONDS = 600
RESAMPLES = 2000


def instruction(number: int) -> str:
    return f"The input is {KINDS[number % 8]}. Say in one sentence what it is like. This is request {number}."


@contextmanager
def server(generator: str, folder: Path) -> Iterator[str]:
    """`tagi serve` as a process; yields its address when it is ready."""
    keys = folder / "keys.txt"
    keys.write_text("".join(f"{name}:{key}\n" for name, key in KEYS.items()))
    command = [sys.executable, "-m", "tagi", "serve", generator, "--port", "0", "--dtype", "float32"]
    limits = ["--keys", str(keys), "--store", str(folder / "store")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().rstrip("/")
            httpx2.get(f"{address}/ready", timeout=LOADING_SECONDS).raise_for_status()
            yield address
        finally:
            process.terminate()
            process.wait(60)


class Client:
    """One key's requests, each with its seconds."""

    def __init__(self, address: str, key: str, tokens: int) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(base_url=address, headers=headers, timeout=LOADING_SECONDS)
        self._tokens = tokens

    def _post(self, path: str, body: dict[str, Any]) -> tuple[float, Any]:
        begun = time.perf_counter()
        found = self._client.post(path, json=body).raise_for_status().json()
        return time.perf_counter() - begun, found

    def create(self, text: str) -> tuple[float, str]:
        """Seconds and the id of an adapter for an instruction."""
        seconds, found = self._post("/v1/adapters", {"instruction": text})
        return seconds, found["id"]

    def chat(self, model: str, *messages: tuple[str, str]) -> float:
        """Seconds of an answer."""
        asked = [{"role": role, "content": text} for role, text in messages]
        return self._post(
            "/v1/chat/completions",
            {"model": model, "messages": asked, "temperature": 0, "max_tokens": self._tokens},
        )[0]

    def base_model(self) -> str:
        """The stock model's name."""
        return str(self._client.get("/v1/models").raise_for_status().json()["data"][0]["id"])


def first_answers(client: Client, count: int) -> dict[str, list[float]]:
    """Seconds of every kind of answer, for every instruction in turn."""
    stock, seconds = client.base_model(), {name: [] for name in ("creation", "first", "second", "stock", "stock again")}
    client.chat(stock, ("user", "Hello."))
    client.chat(client.create("Repeat the input.")[1], ("user", "Hello."))
    for number in range(count):
        text, asked = instruction(number), ("user", f"This one: number {number}.")
        created, adapter = client.create(text)
        seconds["creation"].append(created)
        seconds["first"].append(created + client.chat(adapter, asked))
        seconds["second"].append(client.chat(adapter, ("user", f"Another one: number {number}.")))
        seconds["stock"].append(client.chat(stock, ("system", text), asked))
        again = ("user", f"Another one: number {number}.")
        seconds["stock again"].append(client.chat(stock, ("system", text), again))
    return seconds


def creations(one: Client, two: Client, pairs: int) -> dict[str, list[float]]:
    """Seconds in which the second key creates what the first key has, and what nobody has, in changing order."""
    seconds: dict[str, list[float]] = {"known to another key": [], "new": []}
    for pair in range(pairs):
        known, new = instruction(10_000 + 2 * pair), instruction(10_001 + 2 * pair)
        one.create(known)
        for name, text in random.Random(pair).sample([("known to another key", known), ("new", new)], 2):
            seconds[name].append(two.create(text)[0])
    return seconds


def interval(differences: list[float], scale: float) -> list[float]:
    """The bootstrap 95% interval of the mean difference, as a share of `scale`."""
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return [round(means[int(RESAMPLES * share)] / scale, 4) for share in (0.025, 0.975)]


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--instructions", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--generator", default="smollm2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(given.generator, Path(folder)) as address:
        one, two = (Client(address, key, given.tokens) for key in KEYS.values())
        answers = first_answers(one, given.instructions)
        made = creations(one, two, given.pairs)
    medians = {name: statistics.median(values) for name, values in {**answers, **made}.items()}
    known, new = made["known to another key"], made["new"]
    differences = [a - b for a, b in zip(known, new, strict=True)]
    record = {
        "settings": {key: str(value) for key, value in vars(given).items() if key != "out"},
        "environment": {**environment(), "cores": os.cpu_count()},
        "seconds": {**answers, **made},
        "medians": {name: round(value, 4) for name, value in medians.items()},
        "against_stock": {
            "first": round(medians["first"] / medians["stock"], 3),
            "second": round(medians["second"] / medians["stock again"], 3),
        },
        "known_minus_new": {
            "mean": round(statistics.fmean(differences) / statistics.fmean(new), 4),
            "interval": interval(differences, statistics.fmean(new)),
            "pairs": len(differences),
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / "times.json", json.dumps(record, indent=2) + "\n")
    for name, value in record["medians"].items():
        print(f"{name:>22}  {value:8.3f} s")
    print(f"first answer against the stock model's: {record['against_stock']['first']}")
    print(f"second answer against the stock model's second: {record['against_stock']['second']}")
    print(f"creation of what another key has, less a new one, as a share: {record['known_minus_new']}")


if __name__ == "__main__":
    main()
