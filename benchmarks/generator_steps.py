"""Training steps of the generator for SmolLM2: rows and tokens per second, with and without what makes them cheap.

Three ways of computing the same steps, interleaved in one run, one thread, by processor time:

- `padded`: one batch of all rows, instruction states computed at every step: as steps were computed before
- `grouped`: rows of similar length together
- `grouped, remembered`: besides, instruction states that were computed before are not computed again (as trained)

The first and the last have equal losses up to rounding. `stock recipe` is the step that was shipped before (8 rows, the
instruction's keys and values from the stock model, no pairs), on the same samples, for comparison.

    python benchmarks/generator_steps.py NATURAL_INSTRUCTIONS OUT [--steps 8] [--warm 60]

Remembered states depend on how often instructions recur: `--warm` micro-batches are read beforehand, the figure for
the first steps of a run (`--warm 0`) and for the rest of it (all instructions known) stand in the record as well.
Writes OUT/generator_steps.json.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import tagi.backbones.grouping as grouping
from tagi.files import write_text
from tagi.hypernetwork.states_memory import StatesMemory
from tagi.methods.tagi import TAGI
from tagi.stages.protocol import Job
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of

_OLD = (
    "generator.shared_rank=0",
    "generator.residual=low-rank",
    "generator.instruction_cache=stock",
    "generator.state_dropout=0.6",
    "losses.alone=0",
    "losses.alone_kl=0",
    "run.stages=['finetune']",
    "run.start=backbone",
    "training.tasks_per_batch=8",
)


def method_of(data: str, *overrides: str) -> tuple[TAGI, Any]:
    """The method that a recipe trains, its shared LoRA filled, and its micro-batches."""
    recipe = load_recipe("smollm2", [f"data.path={data}", *overrides])
    parts: Any = stage_of("finetune").build(Job.of(recipe, Path("none")))
    model = parts.model
    assert isinstance(model, TAGI)
    if model.generator.shared is not None:
        with torch.no_grad():
            for b in model.generator.shared.b:
                b.normal_(0, 0.01, generator=torch.Generator().manual_seed(1))
    return model.train(), parts.batches


@contextmanager
def together() -> Iterator[None]:
    """All rows in one group."""
    before = grouping.length_groups
    grouping.length_groups = lambda lengths, overhead: [list(range(len(lengths)))]
    try:
        yield
    finally:
        grouping.length_groups = before


def spent(step: Callable[[], float]) -> tuple[float, float]:
    """Processor seconds of a step, and its loss."""
    begun = time.process_time()
    loss = step()
    return time.process_time() - begun, loss


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, batches = method_of(given.data)
    memory = model.memory
    old, _ = method_of(given.data, *_OLD)

    def trained(method: TAGI, batch: dict[str, torch.Tensor], kept: StatesMemory | None) -> Callable[[], float]:
        def step() -> float:
            vars(method).pop("_read", None)
            if kept is None:
                method._read = method.generator.read_instructions  # type: ignore[method-assign]
            loss = method(**batch)["loss"]
            loss.backward()
            method.zero_grad()
            return float(loss.detach())

        return step

    for index in range(given.warm):
        batch = model.collate(batches[1000 + index])
        memory.read(model.generator, batch["instruction_ids"], batch["instruction_mask"])
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    rows = real = 0
    for index in range(given.steps):
        # Micro-batches whose instructions are all known: the state of most of a long run.
        samples = batches[1000 + index % max(1, given.warm)]
        batch, plain = model.collate(samples), old.collate([*samples, *samples])
        told = batch["instruction_mask"].sum(1)[batch["rows"]][~batch["alone"]].sum()
        rows += len(batch["labels"])
        real += int(batch["input_mask"].sum() + (batch["labels"] != -100).sum() + told)
        with together():
            for name, method, one in (("padded", model, batch), ("stock recipe", old, plain)):
                cost, loss = spent(trained(method, one, None))
                seconds.setdefault(name, []).append(cost)
                losses.setdefault(name, []).append(loss)
        for name, kept in (("grouped", None), ("grouped, remembered", memory)):
            cost, loss = spent(trained(model, batch, kept))
            seconds.setdefault(name, []).append(cost)
            losses.setdefault(name, []).append(loss)
    base = sum(seconds["padded"])
    table = {
        name: {
            "seconds": round(sum(own), 2),
            "rows_per_second": round(rows / sum(own), 3),
            "tokens_per_second": round(real / sum(own), 1),
            "speedup": round(base / sum(own), 2),
        }
        for name, own in seconds.items()
    }
    worst = max(abs(a - b) for a, b in zip(losses["padded"], losses["grouped, remembered"], strict=True))
    record = {
        "machine": platform.processor() or platform.machine(),
        "steps": given.steps,
        "rows": rows,
        "tokens": real,
        "largest_difference_of_losses": worst,
        "ways": table,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / "generator_steps.json", json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
