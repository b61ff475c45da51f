"""Every stage at T5-base's shape for a few steps, and one record of throughput and memory.

    bash studies/gpu_smoke.sh NATURAL_INSTRUCTIONS C4 T5_TOKENIZER OUT

Weights are random: what is measured does not depend on them. Texts have the limits of Table 6 and batches its sizes,
so that memory is what `tagi run sni-base` needs. `--set` changes the recipe: a rehearsal makes the backbone small.
"""

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.train import train_stage

T5_BASE = {  # v1.1, as the paper's backbone
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
CATEGORIES = ("Sentiment Analysis", "Question Generation")
"""Of the LoRA teachers: two are enough to see what one takes."""


def machine() -> dict[str, Any]:
    """What this ran on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "torch": torch.__version__, "cores": os.cpu_count()}


def small_data(data: Path, folder: Path) -> Path:
    """A checkout with the tasks of two categories alone, so that reading them takes no time."""
    names = (data / "splits/default/train_tasks.txt").read_text(encoding="utf-8").split()
    kept = [
        name
        for name in names
        if (file := data / "tasks" / f"{name}.json").is_file()
        and json.loads(file.read_text(encoding="utf-8"))["Categories"][0] in CATEGORIES
    ]
    (folder / "splits/default").mkdir(parents=True)
    (folder / "tasks").mkdir()
    (folder / "splits/default/train_tasks.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    for name in kept:
        shutil.copy(data / "tasks" / f"{name}.json", folder / "tasks")
    return folder


def main() -> None:
    """Train every stage and write the record, after each stage anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--c4", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    given = parser.parse_args()
    shape = [f"backbone.config.{key}={json.dumps(value)}" for key, value in T5_BASE.items()]
    stages = ("metatrain", "teachers", "pretrain", "finetune")
    steps = [f"training.{key}steps={given.steps}" for key in ("", *(f"{stage}." for stage in stages))]
    recipe = load_recipe(
        "sni-base",
        [
            *("backbone.name=config", f"backbone.tokenizer={given.tokenizer}", *shape, *steps),
            *(f"data.path={small_data(given.data, given.runs / 'data')}", f"pretraining.path={given.c4}"),
            *("training.report_to=[]", *given.overrides),
        ],
    )
    record: dict[str, Any] = {**machine(), "steps": given.steps, "overrides": given.overrides, "stages": {}}
    folders = {stage: given.runs / stage for stage in stages}
    for stage in stages:
        began = time.perf_counter()
        sources = Sources()
        if stage == "finetune":
            sources = Sources((str(folders["pretrain"]),), folders["teachers"], str(folders["metatrain"]))
        trained = train_stage(recipe, stage, folders[stage], sources=sources)["training"]
        record["stages"][stage] = {
            "seconds": round(time.perf_counter() - began, 1),
            "training_seconds": round(trained["seconds"], 2),
            "tokens_per_second": round(trained["tokens_per_second"]),
            "peak_memory_gib": round((trained.get("peak_memory") or 0) / 2**30, 2),
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(stage, json.dumps(record["stages"][stage]), flush=True)


if __name__ == "__main__":
    main()
