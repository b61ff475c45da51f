"""Keep the shared LoRA of a training run that goes on: a checkpoint of the stage metatrain, its matrices in bfloat16.

    python studies/smollm2_shared.py RUN --data natural-instructions [--step 250] [--out studies/smollm2/shared]

RUN is a folder of `tagi train metatrain smollm2`. The result is what `tagi train finetune smollm2 --from` and
`tagi train metatrain smollm2 --from` begin with.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagi.formats.checkpoint import write_checkpoint
from tagi.methods.prompted import Prompted
from tagi.stages.protocol import Job
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of
from tagi.training.checkpoints import WEIGHTS

TARGET = Path("studies/smollm2/shared")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--step", type=int, default=None, help="by default the newest checkpoint's")
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args()
    checkpoints = given.run / "checkpoints"
    step = given.step or max(int(folder.name.split("-")[1]) for folder in checkpoints.glob("checkpoint-*"))
    parts: Any = stage_of("metatrain").build(Job.of(load_recipe("smollm2", [f"data.path={given.data}"]), given.run))
    method = parts.model
    assert isinstance(method, Prompted)
    found = load_file(checkpoints / f"checkpoint-{step}" / WEIGHTS)
    trained = method.trained_tensors()
    if found.keys() != trained.keys():
        raise SystemExit(f"expected {len(trained)} tensors of the LoRA, got {len(found)}")
    state = json.loads((checkpoints / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    write_checkpoint(
        given.out,
        method=method.name,
        base=method.backbone.identity,
        settings=method.settings(),
        tensors={name: tensor.to(torch.bfloat16) for name, tensor in found.items()},
        extra={"recipe": "smollm2", "stage": "metatrain", "steps": step, "rows": 8 * step, "seed": 0},
    )
    print(f"{step} steps, loss of the last 100: {sum(losses[-10:]) / len(losses[-10:]):.3f}")


if __name__ == "__main__":
    main()
