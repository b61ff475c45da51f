"""Training stages: what each trains, on what, and what it writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tagi.backbones import T5Backbone, load_backbone, make_backbone
from tagi.backbones.load import folder_revision
from tagi.config import Recipe, Stage
from tagi.data.batches import TaskBatches
from tagi.data.denoising import DenoisingBatches
from tagi.data.text import TextSettings
from tagi.data.toy import toy_corpus, toy_tokenizer
from tagi.errors import ConfigError, TrainingError
from tagi.hypernetwork import Generator, GeneratorSettings
from tagi.methods import TAGI, Concatenation, Denoiser, Method, Trainable, start_from
from tagi.pipeline.finding import MODEL, find_checkpoint
from tagi.pipeline.records import write_record
from tagi.pipeline.tasks import LoadedTasks, load_tasks
from tagi.training import TrainingSettings, fingerprint, train

RECORD = "record.json"
_CHECKPOINTS = "checkpoints"
_BACKBONE = "backbone"
_CORPUS_STRIDE = 1_000_003  # documents of different micro-batches come from different seeds


def train_stage(
    recipe: Recipe,
    stage: Stage,
    out: Path,
    *,
    start: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run one stage of a recipe into `out` and return its record.

    `start` is a checkpoint whose parameters this stage begins with: every one that both have. `out/model` is the
    finished checkpoint, `out/record.json` how it came about, `out/checkpoints` what a resumed run starts from. With
    `resume` an interrupted run is taken up where its newest complete checkpoint left it, and a finished one is left
    alone; without, `out` must hold no run.
    """
    settings = recipe.training_for(stage)
    origin = None if start is None else find_checkpoint(start)
    begun = None if origin is None else folder_revision(origin)
    identity = fingerprint(stage, recipe.model_dump(mode="json"), begun, torch.get_num_threads())
    finished = _earlier_run(out, identity, resume)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model, batches, data = _stage(recipe, stage, out)
    taken = 0 if origin is None else start_from(model, origin)
    outcome = train(
        model,
        batches,
        _training_settings(recipe, stage),
        out / _CHECKPOINTS,
        identity=identity,
        resume=resume,
        progress=progress,
    )
    provenance = {"recipe": recipe.name, "stage": stage, "steps": settings.steps, "seed": recipe.seed, "start": begun}
    model.save(out / MODEL, provenance)
    content = {
        "stage": stage,
        "identity": identity,
        "start": {"revision": begun, "parameters": taken},
        "data": data,
        "training": outcome,
        "parameters": _parameters(model),
    }
    return write_record(out / RECORD, recipe, content)


def _earlier_run(out: Path, identity: str, resume: bool) -> dict[str, Any] | None:
    """The record of a finished run of the same identity in `out`, if it is to be taken up; None if there is work."""
    if not ((out / RECORD).exists() or (out / _CHECKPOINTS).exists()):
        return None
    if not resume:
        raise TrainingError(f"{out}: expected a new folder, got one that holds a run: take it up with --resume")
    if not (out / RECORD).exists():
        return None
    record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
    if record.get("identity") != identity:
        found = record.get("identity")
        raise TrainingError(
            f"{out}: expected a run of this recipe ({identity}), got a finished one of another ({found})"
        )
    return record


def load_recipe_backbone(recipe: Recipe, out: Path, dropout: float | None = None) -> T5Backbone:
    """The recipe's backbone; one made from a configuration is written to `out/backbone` first, and pinned there."""
    wanted = recipe.backbone
    dtype = getattr(torch, wanted.dtype)
    if wanted.name != "config":
        return load_backbone(
            wanted.name, revision=wanted.revision, dtype=dtype, tokenizer=wanted.tokenizer, dropout=dropout
        )
    folder = out / _BACKBONE
    if not (folder / "config.json").exists():
        tokenizer = str(wanted.tokenizer)
        if tokenizer == "toy":
            tokenizer = str(out / "tokenizer")
            toy_tokenizer().save_pretrained(tokenizer)
        make_backbone(wanted.config or {}, tokenizer, recipe.seed, folder)
    # Named as the finished checkpoint beside it will find it, wherever both are moved.
    return load_backbone(f"../{_BACKBONE}", relative_to=out / MODEL, dtype=dtype, dropout=dropout)


def text_settings(recipe: Recipe) -> TextSettings:
    """The recipe's encoding and limits."""
    data = recipe.data
    return TextSettings(
        data.encoding, data.positives, data.max_instruction_tokens, data.max_input_tokens, data.max_target_tokens
    )


def generator_settings(recipe: Recipe) -> GeneratorSettings:
    """The recipe's generator."""
    return GeneratorSettings(**recipe.generator.model_dump(), seed=recipe.seed)


def _stage(recipe: Recipe, stage: Stage, out: Path) -> tuple[Trainable, Sequence[Any], dict[str, Any]]:
    """What is trained, its micro-batches, and what its data is."""
    settings = recipe.training_for(stage)
    backbone = load_recipe_backbone(recipe, out, settings.dropout)
    length = settings.steps * settings.accumulation
    if stage == "backbone":
        if recipe.data.source != "toy":
            raise ConfigError(f"data.source: the stage 'backbone' needs 'toy', got {recipe.data.source!r}")
        documents = settings.tasks_per_batch * settings.queries_per_task
        batches = DenoisingBatches(
            lambda seed, index: _documents(seed * _CORPUS_STRIDE + index, documents), length=length, seed=recipe.seed
        )
        return Denoiser(backbone, seed=recipe.seed), batches, {"source": "toy corpus", "documents": documents * length}
    loaded = load_tasks(recipe, "train")
    task_batches = TaskBatches(
        loaded.tasks,
        length=length,
        tasks_per_batch=settings.tasks_per_batch,
        queries_per_task=settings.queries_per_task,
        seed=recipe.seed,
    )
    return _method(recipe, stage, backbone), task_batches, _data_record(loaded)


def _method(recipe: Recipe, stage: Stage, backbone: T5Backbone) -> Method:
    if stage == "metatrain":
        return Concatenation(backbone, text_settings(recipe))
    return TAGI(Generator(backbone, generator_settings(recipe), text_settings(recipe)))


def _documents(seed: int, count: int) -> list[str]:
    corpus = toy_corpus(seed)
    return [next(corpus) for _ in range(count)]


def _training_settings(recipe: Recipe, stage: Stage) -> TrainingSettings:
    values = recipe.training_for(stage).model_dump(exclude={"tasks_per_batch", "queries_per_task", "dropout"})
    return TrainingSettings(**values, seed=recipe.seed)


def _data_record(loaded: LoadedTasks) -> dict[str, Any]:
    return {**loaded.summary, "warning": loaded.warning}


def _parameters(model: Trainable) -> dict[str, int]:
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"trained": trained, "frozen": sum(parameter.numel() for parameter in model.parameters()) - trained}
