"""What an adapter costs on a real model: to be made, and to be used beside 31 others in one batch.

    python benchmarks/adapters.py OUT [--dtype bfloat16] [--repeats 5]

Making: `Generator.adapt` for one instruction and for 64, against one forward pass of the backbone over the same tokens.
Using: 32 rows with 32 different adapters (LoRA alone), greedy, against the bare backbone writing as many tokens, read
in our way and by transformers' `generate`, and against PEFT's `adapter_names` with the same adapters. All in turns on
one thread's processor clock, which a busy machine disturbs little; ratios of medians are the result. The generator is
not trained: its arithmetic is the same.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from tagi.api.generator import AdapterGenerator
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.files import write_text
from tagi.formats.peft import write_lora
from tagi.formats.records import environment
from tagi.hypernetwork.inference import answer, rows_runner
from tagi.hypernetwork.states import TaskStates
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings

BASE = "smollm2-135m-instruct"
ROWS, WRITTEN = 32, 16
WORDS = [
    "write",
    "the",
    "second",
    "word",
    "of",
    "the",
    "text",
    "in",
    "capital",
    "letters",
    "and",
    "say",
    "nothing",
    "else",
    "about",
    "it",
    "please",
]
TEXT = TextSettings(encoding="chat", max_instruction_tokens=256, max_input_tokens=256, max_target_tokens=32)


def instructions(count: int) -> list[str]:
    """As many instructions, each another."""
    return [f"Task {at}: {' '.join(WORDS[at % 5 :] * 3)}." for at in range(count)]


def opened(dtype: torch.dtype) -> AdapterGenerator:
    """A generator that writes something for every target module."""
    settings = GeneratorSettings(
        kind="query", rank=8, alpha=16.0, hidden=64, width=128, heads=4, fusion="none", fusion_every=1
    )
    generator = AdapterGenerator(load_backbone(BASE, CausalBackbone, dtype=dtype), settings, TEXT).eval()
    with torch.no_grad():
        for name, parameter in generator.hypernetwork.named_parameters():
            if parameter.ndim > 1 and "heads" in name:
                parameter.add_(0.01 * torch.randn(parameter.shape))
    return generator


def medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of processor time of each, in turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            if turn:
                seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(found) for name, found in seconds.items()}


def making(generator: AdapterGenerator, count: int, repeats: int) -> dict[str, float]:
    """`adapt` against a forward pass of the whole model, and of all but its head."""
    told = instructions(count)
    ids, mask = generator.text.batch_instructions([generator.text.instruction(text) for text in told])
    model = generator.backbone.model

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    @torch.no_grad()
    def body() -> None:
        generator.backbone.encode(ids, mask)

    found = medians({"adapt": lambda: generator.adapt(told), "forward": forward, "no_head": body}, repeats)
    return {**found, "tokens": int(mask.sum()), "ratio": found["adapt"] / found["forward"]}


def using(generator: AdapterGenerator, repeats: int) -> dict[str, float]:
    """32 adapters in one batch against none, and against PEFT's."""
    text, backbone = generator.text, generator.backbone
    assert isinstance(backbone, CausalBackbone)
    ids, mask = text.batch([text.input(f"The {word} stood on the table. {index}") for index, word in pairs()])
    told, told_mask = text.batch_instructions([text.instruction(one) for one in instructions(ROWS)])
    states: TaskStates = generator.prepare(told, told_mask)
    rows = torch.arange(ROWS)
    limits = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN}
    with tempfile.TemporaryDirectory() as folder:
        for row in range(ROWS):
            (Path(folder) / str(row)).mkdir()
            write_lora(Path(folder) / str(row), states.bank.select(torch.tensor([row])), backbone)  # type: ignore[arg-type]
        other = load_backbone(BASE, CausalBackbone, dtype=next(backbone.parameters()).dtype)
        peft = PeftModel.from_pretrained(other.model, str(Path(folder) / "0"), adapter_name="a0")
        for row in range(1, ROWS):
            peft.load_adapter(str(Path(folder) / str(row)), adapter_name=f"a{row}")
        peft = peft.eval().to(next(backbone.parameters()).dtype)

        @torch.no_grad()
        def bare(ids: Tensor, mask: Tensor) -> None:
            backbone.generate(*backbone.read_inputs(ids, mask), **limits)

        @torch.no_grad()
        def by_peft() -> None:
            peft.generate(
                input_ids=ids, attention_mask=mask.long(), do_sample=False, pad_token_id=0,
                adapter_names=[f"a{row}" for row in range(ROWS)], **limits,
            )  # fmt: skip

        calls = {
            "adapted": lambda: answer(rows_runner(generator, states, rows), ids, mask, **limits),
            "bare": lambda: bare(ids, mask),
            "generate": lambda: backbone.generate(ids, mask, **limits),
            "peft": by_peft,
        }
        found = medians(calls, repeats)
    return {
        **found,
        "ratio": found["adapted"] / found["bare"],
        "generate_ratio": found["adapted"] / found["generate"],
        "peft_ratio": found["peft"] / found["generate"],
    }


def pairs() -> list[tuple[int, str]]:
    """A word and a number for every row."""
    return [(row, WORDS[row % len(WORDS)]) for row in range(ROWS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the record")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = opened(getattr(torch, given.dtype))
    result: dict[str, Any] = {"dtype": given.dtype, "base": BASE, "rows": ROWS, "written": WRITTEN}
    result["one"] = making(generator, 1, given.repeats)
    result["sixty_four"] = making(generator, 64, given.repeats)
    result["batch"] = using(generator, given.repeats)
    result["environment"] = environment()
    write_text(given.out / f"adapters-{given.dtype}.json", json.dumps(result, indent=2) + "\n")
    one, many, batch = result["one"], result["sixty_four"], result["batch"]
    print(f"adapt over one forward pass: 1 instruction {one['ratio']:.2f}, 64 {many['ratio']:.2f}")
    print(
        f"32 adapters in a batch: {batch['ratio']:.2f} of the bare model read as we read it, "
        f"{batch['generate_ratio']:.2f} of transformers' generate; PEFT's {batch['peft_ratio']:.2f} of that"
    )


if __name__ == "__main__":
    main()
