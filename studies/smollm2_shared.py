"""Keep the shared LoRA of a finished run of the stage metatrain, with its matrices in bfloat16.

    python studies/smollm2_shared.py RUN --steps 410 [--out studies/smollm2/shared]

RUN is a folder of `tagi train metatrain smollm2`. The result is what `tagi train finetune smollm2 --from` and
`tagi train metatrain smollm2 --from` begin with. `--steps` counts all steps, those of earlier runs too.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tagi.formats.checkpoint import CONFIG, WEIGHTS, base_of, read_config, write_checkpoint

TARGET = Path("studies/smollm2/shared")
_SETTINGS = ("frozen", "lora", "prefix_cached", "text")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, default=TARGET)
    given = parser.parse_args()
    model = given.run / "model"
    config = read_config(model)
    raw = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(model / WEIGHTS).items()}
    write_checkpoint(
        given.out,
        method=config["method"],
        base=base_of(config),
        settings={key: raw[key] for key in _SETTINGS},
        tensors=tensors,
        extra={"recipe": "smollm2", "stage": "metatrain", "steps": given.steps, "rows": 8 * given.steps},
    )
    print(f"{sum(tensor.numel() for tensor in tensors.values()):,} parameters in {given.out}")


if __name__ == "__main__":
    main()
