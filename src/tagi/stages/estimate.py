"""What a run would take, from shapes alone: parameters, tokens, time and memory.

Arithmetic per token is 2 FLOPs a parameter forward and 4 backward where gradients flow; embeddings are looked up, the
head is a product. These are estimates for planning, within a factor of two; measured costs are the business of records.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tagi.backbones.machine import best_device
from tagi.backbones.protocol import count_parameters
from tagi.formats.records import RECORD
from tagi.hypernetwork.model import GeneratorModel
from tagi.settings.recipe import Recipe
from tagi.settings.tables import Stage
from tagi.stages.building import concatenated_text, generator_settings, generator_text, lora_shape, metatrain_lora
from tagi.stages.describe import shapes_of
from tagi.stages.run import chosen, plan
from tagi.stages.shots import episode_shots

_EFFICIENCY = 0.4
"""Share of a device's matrix-product speed that training reaches."""

_GIB = 2**30


@dataclass(frozen=True)
class _Sizes:
    """Parameters by part, and the shape that activations have.

    `generator`: what is trained of the generator beside the backbone. `shared`: a frozen shared LoRA. `lora`: numbers
    of a LoRA of rank 1.
    """

    backbone: int
    embeddings: int
    generator: int
    shared: int
    tuned: int
    lora: int
    generated: int
    d_model: int
    layers: int


def estimate(
    recipe: Recipe, out: Path, *, first: str | None = None, last: str | None = None, tflops: float | None = None
) -> list[dict[str, Any]]:
    """A row per step that `run` would do: state, parameters, tokens at the longest, hours and GPU memory.

    `tflops` is the device's speed in TFLOP/s, of which training is taken to reach 40%; by default that of matrix
    products here, measured now. Tokens are counted as if every text were as long as its limit, an upper bound.
    """
    sizes = _sizes(recipe)
    speed = (tflops or _measured_tflops(recipe)) * 1e12 * _EFFICIENCY
    rows = []
    for step in chosen(plan(recipe, out), first, last):
        done = (step.folder / RECORD).exists()
        row: dict[str, Any] = {"step": step.name, "state": "complete" if done else "to do"}
        if step.evaluates:
            rows.append({**row, "steps": "", "trained": "", "frozen": "", "tokens": "", "hours": "", "memory_gib": ""})
            continue
        trained, frozen = _parameters(recipe, step.stage, sizes)
        tokens, flops = _work(recipe, step.stage, sizes, trained)
        rows.append(
            {
                **row,
                "steps": recipe.training_for(step.stage).steps if trained else 0,
                "trained": f"{trained:,}",
                "frozen": f"{frozen:,}",
                "tokens": f"{tokens:.3g}",
                "hours": f"{flops / speed / 3600:.3g}",
                "memory_gib": f"{_memory(recipe, step.stage, sizes, trained, frozen) / _GIB:.3g}",
            }
        )
    return rows


def _sizes(recipe: Recipe) -> _Sizes:
    settings = generator_settings(recipe)
    backbone = shapes_of("recipe", recipe)
    own = shared = generated = 0
    if not {"pretrain", "finetune"}.isdisjoint(recipe.run.stages):
        with torch.device("meta"):
            generator = GeneratorModel(backbone, settings, generator_text(recipe))
        own = sum(count_parameters(part, trained=True) for part in generator.own_parts)
        shared = sum(count_parameters(part, trained=False) for part in generator.own_parts)
        generated = sum(target.parameters for target in generator.targets)
    embeddings = backbone.model.get_input_embeddings().weight.numel()
    return _Sizes(
        backbone=count_parameters(backbone),
        embeddings=embeddings,
        generator=own,
        shared=shared,
        tuned=count_parameters(backbone, trained=True),
        lora=sum(site.d_in + site.d_out for site in backbone.sites),
        generated=generated,
        d_model=backbone.d_model,
        layers=backbone.depth,
    )


def _parameters(recipe: Recipe, stage: Stage, sizes: _Sizes) -> tuple[int, int]:
    """Trained and frozen parameters in memory while a stage trains, teachers included."""
    tunes = {"backbone": "all", "metatrain": recipe.metatrain.tune, "teachers": "lora", "single": recipe.single.tune}
    if stage in tunes:
        rank = (metatrain_lora(recipe) if stage == "metatrain" else lora_shape(recipe)).rank
        trained = {"all": sizes.backbone, "lora": rank * sizes.lora, "none": 0}[tunes[stage]]
        return trained, 0 if tunes[stage] == "all" else sizes.backbone
    trained = sizes.generator + sizes.tuned
    frozen = sizes.backbone - sizes.tuned + sizes.shared
    losses = recipe.losses
    if stage == "finetune" and losses.kl and not losses.top_k and (losses.teacher != "lora" or sizes.tuned):
        frozen += sizes.backbone
    return trained, frozen


def _work(recipe: Recipe, stage: Stage, sizes: _Sizes, trained: int) -> tuple[float, float]:
    """Tokens that enter the model and FLOPs of a stage, texts as long as their limits."""
    settings, losses = recipe.training_for(stage), recipe.losses
    micro_batches = settings.steps * settings.accumulation
    rows = settings.tasks_per_batch * settings.queries_per_task
    body = sizes.backbone - sizes.embeddings
    per_token = 6 if trained >= sizes.backbone else 4  # a frozen layer still passes gradients back
    if stage == "pretrain" and recipe.pretraining is not None:
        tokens = float(micro_batches * rows * recipe.pretraining.max_tokens)
        return tokens, tokens * body * per_token + micro_batches * rows * 6 * sizes.generated
    micro_batches *= _models(recipe, stage)
    given, read = _micro_batch(recipe, stage)
    if stage != "finetune":
        return float(micro_batches * given), float(micro_batches * given * body * per_token)
    tokens = float(micro_batches * (given + read))
    of_instruction = (
        per_token if sizes.tuned or recipe.generator.reader == "own" else 2
    )  # nothing that is trained lies before its states
    flops = micro_batches * (given * per_token + read * of_instruction) * body
    flops += micro_batches * settings.tasks_per_batch * 6 * sizes.generated
    if losses.kl and not losses.top_k:  # the teacher reads instruction and input together, forward only
        taught = rows * (concatenated_text(recipe).max_prompt_tokens + recipe.data.max_target_tokens)
        flops += micro_batches * taught * body * 2
    return tokens, float(flops)


def _micro_batch(recipe: Recipe, stage: Stage) -> tuple[int, int]:
    """Tokens of a micro-batch of tasks: those of its rows, and those of instructions that are read for their states.

    With rows in pairs every sample makes two rows. The generator's rows that are asked with the instruction have its
    tokens where it is read under the task's own LoRA, and so have rows that read instruction and input in one text.
    """
    settings, data = recipe.training_for(stage), recipe.data
    samples = settings.tasks_per_batch * settings.queries_per_task
    alone = data.max_input_tokens + data.max_target_tokens
    if stage == "finetune":
        pairs = recipe.losses.alone or recipe.losses.alone_kl
        told = data.max_instruction_tokens if recipe.generator.instruction_cache == "adapted" else 0
        return samples * (
            told + alone + (alone if pairs else 0)
        ), settings.tasks_per_batch * data.max_instruction_tokens
    metatrain = recipe.metatrain
    if stage in ("teachers", "single") or (metatrain.method == "concatenation" and metatrain.instruction):
        return samples * (concatenated_text(recipe).max_prompt_tokens + data.max_target_tokens), 0
    return samples * alone + _shown(recipe, stage), 0


def _shown(recipe: Recipe, stage: Stage) -> int:
    """Tokens of a micro-batch that demonstrations add to those of its rows; in one text they share its limit."""
    settings, data, count = recipe.training_for(stage), recipe.data, episode_shots(recipe, stage)
    if stage != "metatrain" or not count:
        return 0
    times = {
        "fid-icl": settings.tasks_per_batch * count,
        "ensemble-icl": settings.tasks_per_batch * settings.queries_per_task * (count - 1),
    }
    return times.get(recipe.metatrain.method, 0) * (data.max_input_tokens + data.max_target_tokens)


def _models(recipe: Recipe, stage: Stage) -> int:
    """How many models a stage trains: one for each category, or for each test task of the whole data set."""
    source = recipe.data.source
    if stage == "teachers":
        return recipe.data.task_split or {"sni": 60, "p3": 36, "toy": 6}.get(source, 1)
    if stage == "single":
        return {"sni": 119, "p3": 106, "toy": 24}.get(source, 1)
    return 0 if stage == "metatrain" and recipe.metatrain.tune == "none" else 1


def _memory(recipe: Recipe, stage: Stage, sizes: _Sizes, trained: int, frozen: int) -> float:
    """Bytes: weights, gradients, optimizer state, activations of one micro-batch; one device, nothing sharded."""
    settings = recipe.training_for(stage)
    wide = 2 if recipe.backbone.dtype == "bfloat16" else 4
    state = 8 if settings.optimizer == "adamw" else 1  # Adafactor keeps rows and columns alone
    weights = trained * (4 + 4 + state) + frozen * wide
    rows = settings.tasks_per_batch * settings.queries_per_task
    tokens = sum(_micro_batch(recipe, stage))
    if stage == "pretrain" and recipe.pretraining is not None:
        tokens = rows * recipe.pretraining.max_tokens
    elif stage == "finetune" and (recipe.losses.alone or recipe.losses.alone_kl):
        rows *= 2
    kept = 2 if settings.gradient_checkpointing else 34  # numbers per token, layer and channel that backward needs
    number = 2 if settings.bf16 else 4
    activations = tokens * sizes.layers * sizes.d_model * kept * number
    logits = rows * recipe.data.max_target_tokens * (sizes.embeddings // sizes.d_model) * 4 * 2
    return float(weights + activations + logits)


def _measured_tflops(recipe: Recipe, size: int = 1024) -> float:
    """Speed of square matrix products on the device at hand, in TFLOP/s."""
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
