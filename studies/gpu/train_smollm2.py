"""Train the generator for SmolLM2 within a number of minutes: first the shared LoRA, then the residuals on top of it.

    python studies/gpu/train_smollm2.py --data natural-instructions --runs RUNS --out OUT [--minutes 8]

How many steps fit into the time is measured first, so that the learning rate falls to 0 at the end. OUT gets, in
bfloat16, `shared/` and `generator/` (checkpoints of at most 16 MB a file) and the records of both stages.
`--steps N` trains N steps of each stage instead: a rehearsal.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tagi.backbones.machine import best_device
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import Job, Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of
from tagi.stages.train import train_stage

_WARM, _TIMED = 8, 24
_MARGIN = 0.85
"""Of the time left: the trainer does more than the steps that were timed."""


def seconds_per_step(recipe: Recipe, stage: Any, folder: Path) -> float:
    """Seconds that a step of a stage takes here, its batch made in the same process."""
    parts: Any = stage_of(stage).build(Job.of(recipe, folder))
    model, device = parts.model.to(best_device()).train(), best_device()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    begun = 0.0
    for step in range(_WARM + _TIMED):
        if step == _WARM:
            begun = time.perf_counter()
        batch = {name: tensor.to(device) for name, tensor in model.collate(parts.batches[step]).items()}
        model(**batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / _TIMED


def narrowed(model: Path, out: Path) -> None:
    """A checkpoint with its matrices in bfloat16."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    for file in out.glob("*.safetensors"):
        tensors = {name: t if t.dim() < 2 else t.to(torch.bfloat16) for name, t in load_file(file).items()}
        save_file(tensors, file)


def main() -> None:
    """Train both stages and leave what is worth keeping in OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of both stages, measuring included")
    parser.add_argument("--shared", type=float, default=0.25, help="share of the time that the shared LoRA gets")
    parser.add_argument("--tasks", type=int, default=32, help="tasks in a batch")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    given = parser.parse_args()
    begun = time.monotonic()
    sizes = [f"training.tasks_per_batch={given.tasks}", f"training.metatrain.tasks_per_batch={given.tasks}"]
    common = [f"data.path={given.data}", *sizes, "training.save_every=100000", *given.overrides]
    shared, generator = given.runs / "shared", given.runs / "generator"
    for stage, folder, until in (("metatrain", shared, given.shared), ("finetune", generator, 1.0)):
        steps = given.steps
        if steps is None:
            each = seconds_per_step(load_recipe("smollm2", common), stage, given.runs / f"timing-{stage}")
            left = until * given.minutes * 60 - (time.monotonic() - begun)
            steps = max(100, int(_MARGIN * left / each))
            print(f"{stage}: {each:.3f} s a step, {steps} steps", flush=True)
        key = "training.metatrain.steps" if stage == "metatrain" else "training.steps"
        sources = Sources() if stage == "metatrain" else Sources(start=(str(shared),))
        record = train_stage(load_recipe("smollm2", [*common, f"{key}={steps}"]), stage, folder, sources=sources)
        losses = [entry for entry in record["training"]["history"] if "loss" in entry]
        print(stage, f"{time.monotonic() - begun:.0f} s", json.dumps(losses[-1:]), flush=True)
        narrowed(folder / "model", given.out / folder.name)
        shutil.copy(folder / "record.json", given.out / f"{folder.name}.json")


if __name__ == "__main__":
    main()
