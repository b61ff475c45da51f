"""Estimates of the cost of a run from shapes: parameters, tokens, time and memory.

In training a token costs 2 FLOPs per parameter forward and 4 backward where gradients flow; embeddings are looked up,
the head is a product. The cost of scoring is that of the method's answers. The estimates are for planning, within a
factor of two, and lower for texts shorter than their limits. Records contain measured values.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.initialization import no_init_weights

from tagi.activity import activity
from tagi.backbones.machine import best_device
from tagi.backbones.protocol import count_parameters
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.formats.records import RECORD
from tagi.methods.flops import Lengths, Number
from tagi.settings.recipe import Recipe
from tagi.settings.sources import BY_NAME
from tagi.stages.describe import shapes_of
from tagi.stages.generating import GeneratingStage
from tagi.stages.protocol import Sizes, TrainingStage, Work
from tagi.stages.registry import stage_of
from tagi.stages.run import FolderOf, Step, chosen, plan

_EFFICIENCY = 0.4
"""Assumed share of a device's speed that training reaches."""

_INSTANCES = 100
"""Instances of a test task, if the recipe does not say how many."""
_GIB = 2**30


def estimate(
    recipe: Recipe,
    out: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    tflops: float | None = None,
    folder_of: FolderOf | None = None,
) -> list[dict[str, Any]]:
    """Return a row per step that `run` would do: state, parameters, tokens, hours and GPU memory.

    Texts are assumed to be as long as their limits, which gives an upper bound. All test tasks of a data set are
    counted, with 100 instances each unless the recipe has a limit; for your own tasks one.

    Args:
        recipe: The recipe.
        out: Folder of the run, in which steps may be finished.
        first: The first step.
        last: The last step.
        tflops: Speed of the device in TFLOP/s, of which training is assumed to reach 40%. By default the measured speed
            of matrix products on this machine.
        folder_of: Folders of the steps; by default subfolders of `out` by name.
    """
    with activity(f"Estimating {recipe.name}"):
        return _rows(recipe, chosen(plan(recipe, out, folder_of), first, last), tflops or measured_tflops(recipe))


def _rows(recipe: Recipe, steps: Sequence[Step], tflops: float) -> list[dict[str, Any]]:
    sizes, speed = _sizes(recipe), tflops * 1e12 * _EFFICIENCY
    rows = []
    for step in steps:
        done = (step.folder / RECORD).exists()
        row: dict[str, Any] = {"step": step.name, "state": "complete" if done else "to do"}
        stage = stage_of(step.stage)
        if step.evaluates:
            tokens, flops = _scoring(recipe, stage)
            counts = {"tokens": f"{tokens:.3g}", "hours": f"{flops / speed / 3600:.3g}", "memory_gib": ""}
            rows.append({**row, "steps": "", "trained": "", "frozen": "", **counts})
            continue
        settings, (trained, frozen) = stage.settings(recipe), stage.parameters(recipe, sizes)
        work = stage.work(recipe, sizes, trained)
        batches = settings.steps * settings.accumulation * stage.models(recipe)
        rows.append(
            {
                **row,
                "steps": settings.steps if trained else 0,
                "trained": f"{trained:,}",
                "frozen": f"{frozen:,}",
                "tokens": f"{float(batches * work.tokens):.3g}",
                "hours": f"{batches * work.flops / speed / 3600:.3g}",
                "memory_gib": f"{_memory(recipe, stage, sizes, work, trained, frozen) / _GIB:.3g}",
            }
        )
    return rows


def _scoring(recipe: Recipe, stage: TrainingStage) -> tuple[Number, Number]:
    """Return tokens and FLOPs of answering all test instances under all conditions that `run` scores."""
    data, tasks = recipe.data, BY_NAME[recipe.data.source].test_tasks or 1
    instances = recipe.evaluation.limit or data.test_instances_per_task or _INSTANCES
    lengths = Lengths(
        data.max_instruction_tokens,
        data.max_input_tokens,
        recipe.evaluation.max_new_tokens,
        instances,
        shots=recipe.shots.count,
        demonstration=data.max_input_tokens + data.max_target_tokens,
    )
    backbone = shapes_of("recipe", recipe)  # its own: a LoRA of PEFT's stays inside it
    with torch.device("meta"), no_init_weights():
        cost = stage.untrained(recipe, backbone).cost(lengths)
    tokens = lengths.instruction + instances * (lengths.input + lengths.output)
    return float(tasks * len(INSTRUCTIONS) * tokens), float(tasks * len(INSTRUCTIONS) * cost.total)


def _sizes(recipe: Recipe) -> Sizes:
    backbone = shapes_of("recipe", recipe)
    own = shared = generated = 0
    for stage in map(stage_of, recipe.run.stages):
        if isinstance(stage, GeneratingStage):
            with torch.device("meta"):
                generator = stage.untrained(recipe, backbone).generator
            own = sum(count_parameters(part, trained=True) for part in generator.own_parts)
            shared = sum(count_parameters(part, trained=False) for part in generator.own_parts)
            generated = sum(target.parameters for target in generator.targets)
            break
    return Sizes(
        backbone=count_parameters(backbone),
        embeddings=backbone.model.get_input_embeddings().weight.numel(),
        generator=own,
        shared=shared,
        tuned=count_parameters(backbone, trained=True),
        lora=sum(module.d_in + module.d_out for module in backbone.target_modules),
        generated=generated,
        d_model=backbone.d_model,
        layers=backbone.depth,
    )


def _memory(recipe: Recipe, stage: TrainingStage, sizes: Sizes, work: Work, trained: int, frozen: int) -> float:
    """Bytes: weights, gradients, optimizer state, activations of one micro-batch; one device, nothing sharded."""
    settings = stage.settings(recipe)
    wide = 2 if recipe.backbone.dtype == "bfloat16" else 4
    state = 8 if settings.optimizer == "adamw" else 1  # Adafactor stores rows and columns only
    weights = trained * (4 + 4 + state) + frozen * wide
    kept = 2 if settings.gradient_checkpointing else 34  # stored values per token, layer and channel
    number = 2 if settings.bf16 else 4
    activations = work.tokens * sizes.layers * sizes.d_model * kept * number
    logits = work.rows * recipe.data.max_target_tokens * (sizes.embeddings // sizes.d_model) * 4 * 2
    return float(weights + activations + logits)


def measured_tflops(recipe: Recipe, size: int = 1024) -> float:
    """Return the speed of square matrix products on the device at hand, in TFLOP/s."""
    device = best_device()
    narrow = device.type == "cuda" or recipe.backbone.dtype == "bfloat16"
    dtype = torch.bfloat16 if narrow else torch.float32
    size = size * (8 if device.type == "cuda" else 1)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times) / 1e12
