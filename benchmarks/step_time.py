"""Step time of TAGI's finetuning against meta-training's, on the same backbone and batch.

How it grows with the tasks of a batch (each distinct instruction is encoded once, and its adapter generated once) and
with the length of the instruction (meta-training reads it with every row). Times of forward and backward, medians of
interleaved repeats in one run; only their ratios mean anything on a noisy machine.

    python benchmarks/step_time.py OUT [--repeats 7] [--rows 32]

Writes OUT/step_time.json and OUT/step_time.png.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import build_t5
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.files import write_text
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings

FIELDS: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 24,
    "d_ff": 320,
    "num_layers": 3,
    "num_heads": 4,
    "vocab_size": 4000,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
INPUT, TARGET, INSTRUCTION = 128, 16, 256
TASKS = (1, 2, 4, 8, 16, 32)
LENGTHS = (64, 128, 256, 512, 1024)


class _NoTokenizer:
    """Batches are made of token ids here; nothing is read."""

    pad_token_id = 0


def backbone() -> T5Backbone:
    torch.manual_seed(0)
    return T5Backbone(build_t5(FIELDS), _NoTokenizer(), BaseModel("benchmark", "none"))


def tokens(rows: int, length: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, FIELDS["vocab_size"], (rows, length))
    return ids, torch.ones(rows, length, dtype=torch.bool)


def batches(rows: int, tasks: int, length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same rows for TAGI and with the instruction before every input."""
    instruction_ids, instruction_mask = tokens(tasks, length)
    input_ids, input_mask = tokens(rows, INPUT)
    labels, _ = tokens(rows, TARGET)
    of = torch.arange(rows) % tasks
    apart = {
        "instruction_ids": instruction_ids,
        "instruction_mask": instruction_mask,
        "rows": of,
        "input_ids": input_ids,
        "input_mask": input_mask,
        "labels": labels,
    }
    together = {
        "input_ids": torch.cat([instruction_ids[of], input_ids], 1),
        "input_mask": torch.cat([instruction_mask[of], input_mask], 1),
        "labels": labels,
    }
    return apart, together


def seconds(step: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def compare(methods: dict[str, Any], rows: int, tasks: int, length: int, repeats: int) -> dict[str, float]:
    """Median seconds of forward and backward of each method, taken in turns."""
    apart, together = batches(rows, tasks, length)
    steps = {
        name: lambda method=method, name=name: method(**(together if name == "metatrain" else apart))["loss"].backward()
        for name, method in methods.items()
    }
    for step in steps.values():
        step()  # the first is always slow
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return {name: statistics.median(own) for name, own in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=32)
    given = parser.parse_args()
    text = TextSettings(encoding="plain")
    settings = {"kind": "query", "rank": 32, "alpha": 64.0, "hidden": 64, "width": 64, "heads": 4, "tune": "all"}
    methods = {
        "metatrain": Concatenation(backbone(), text),
        "tagi": TAGI(AdapterGenerator(backbone(), GeneratorSettings(**settings), text)),
        "tagi, LoRA alone": TAGI(AdapterGenerator(backbone(), GeneratorSettings(fusion="none", **settings), text)),
    }
    by_tasks = {tasks: compare(methods, given.rows, tasks, INSTRUCTION, given.repeats) for tasks in TASKS}
    by_length = {length: compare(methods, given.rows, 4, length, given.repeats) for length in LENGTHS}
    result = {
        "rows": given.rows,
        "input_tokens": INPUT,
        "target_tokens": TARGET,
        "repeats": given.repeats,
        "threads": torch.get_num_threads(),
        "by_tasks": {"instruction_tokens": INSTRUCTION, "seconds": by_tasks},
        "by_instruction_length": {"tasks": 4, "seconds": by_length},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / "step_time.json", json.dumps(result, indent=2) + "\n")
    draw(by_tasks, by_length, given.out / "step_time.png")
    for title, table in (("tasks per batch", by_tasks), ("instruction tokens", by_length)):
        print(f"{title:>20}  " + "  ".join(f"{name:>16}" for name in methods) + "   tagi / metatrain")
        for at, row in table.items():
            shown = "  ".join(f"{row[name]:16.3f}" for name in methods)
            print(f"{at:>20}  {shown}   {row['tagi'] / row['metatrain']:.2f}")


def draw(by_tasks: dict[int, dict[str, float]], by_length: dict[int, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    panels = zip(axes, (by_tasks, by_length), ("tasks per batch", "instruction tokens, 4 tasks"), strict=True)
    for axis, table, label in panels:
        for name in next(iter(table.values())):
            axis.plot(list(table), [row[name] for row in table.values()], marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(table), [str(at) for at in table])
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds, forward and backward")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
