"""From a recipe to what a stage trains: backbones, methods, teachers and their data."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import folder_revision, load_backbone, make_backbone
from tagi.backbones.machine import best_device, counting, machine_dtype
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import TaskBatches
from tagi.data.denoising import DenoisingBatches
from tagi.data.digest import tasks_digest
from tagi.data.readers.c4 import C4Documents, DocumentBatches
from tagi.data.splits import p3_datasets, sni_categories
from tagi.data.toy.corpus import ToyDocuments, toy_corpus
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.errors import ConfigError
from tagi.files import write_text
from tagi.formats.finding import MODEL, find_checkpoint
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.denoiser import Denoiser
from tagi.methods.fid import FidICL
from tagi.methods.in_context import InContext
from tagi.methods.load import METHODS, load_method
from tagi.methods.objective.fid_teacher import FidTeacher
from tagi.methods.objective.objective import Objective
from tagi.methods.objective.teachers import CATALOGUE, Catalogue, ConcatenatedTeacher, Teacher, freeze, read_catalogue
from tagi.methods.pretraining import Pretraining, generating
from tagi.methods.prompted import Prompted
from tagi.methods.protocol import Method, Trainable
from tagi.methods.tagi import TAGI
from tagi.settings.generator import GeneratorSettings, LoraShape
from tagi.settings.recipe import Recipe
from tagi.settings.tables import Stage
from tagi.settings.text import Reads, TextFormat, TextSettings
from tagi.settings.training import TrainingSettings
from tagi.stages.shots import episode_shots
from tagi.stages.tasks import LoadedTasks, load_tasks
from tagi.stages.teacher_cache import cached_teacher
from tagi.training.distributed import once, process_count

P = TypeVar("P", bound=Prompted[Any])

_BACKBONE = "backbone"
_MADE_OF = "made_of.json"
"""In the folder of a backbone that was made here, its last file: configuration, tokenizer and seed."""
_MEASURED = 32
"""Micro-batches whose instructions say how instruction states are spread."""
_CORPUS_STRIDE = 1_000_003  # documents of different micro-batches come from different seeds


@dataclass(frozen=True)
class Sources:
    """What a stage rests on: checkpoints to start from, in order; LoRA teachers; the meta-trained model."""

    start: tuple[str, ...] = ()
    teachers: Path | None = None
    metatrained: str | None = None

    def revisions(self) -> dict[str, Any]:
        """Digests of all of them: a run that rests on others is another run."""
        return {
            "start": [folder_revision(find_checkpoint(name)) for name in self.start],
            "teachers": None if self.teachers is None else catalogue_revision(self.teachers),
            "metatrained": None if self.metatrained is None else folder_revision(find_checkpoint(self.metatrained)),
        }


@dataclass(frozen=True)
class StageParts:
    """What a stage trains, its micro-batches, what its data is, and the tasks that choose its best checkpoint."""

    model: Trainable
    batches: Sequence[Any]
    data: dict[str, Any]
    validation: LoadedTasks | None = None


def build_stage(recipe: Recipe, stage: Stage, out: Path, sources: Sources) -> StageParts:
    """Everything that one stage but `teachers` trains with."""
    settings = recipe.training_for(stage)
    length = _micro_batches(settings)
    size = settings.tasks_per_batch * settings.queries_per_task
    backbone = load_recipe_backbone(recipe, out, settings.dropout)
    if stage == "backbone":
        if recipe.data.source != "toy":
            raise ConfigError(f"data.source: the stage 'backbone' needs 'toy', got {recipe.data.source!r}")
        batches = DenoisingBatches(
            lambda seed, index: _documents(seed * _CORPUS_STRIDE + index, size), length=length, seed=recipe.seed
        )
        return StageParts(
            Denoiser(_t5(recipe, backbone), seed=recipe.seed),
            batches,
            {"source": "toy corpus", "documents": size * length},
        )
    if stage == "pretrain":
        return _pretraining(recipe, backbone, length, size)
    loaded = load_tasks(recipe, "train")
    task_batches = task_batches_of(recipe, stage, loaded)
    model = _method(recipe, stage, backbone, task_batches, out, sources)
    data = data_record(loaded)
    if isinstance(model, TAGI) and model.objective.weights.ins:
        data["aligned_tasks"] = model.objective.aligned_tasks(loaded.tasks)
    return StageParts(model, task_batches, data, _validation(recipe, settings.validate_every))


def task_batches_of(recipe: Recipe, stage: Stage, loaded: LoadedTasks) -> TaskBatches:
    """Micro-batches of a stage that is trained on tasks."""
    settings = recipe.training_for(stage)
    return TaskBatches(
        loaded.tasks,
        length=_micro_batches(settings),
        tasks_per_batch=settings.tasks_per_batch,
        queries_per_task=settings.queries_per_task,
        seed=recipe.seed,
        balance=settings.balance,
        shots=episode_shots(recipe, stage),
        # The models of `single` are of test tasks, whose other wordings are for evaluation alone.
        wordings=None if stage == "single" else recipe.data.wordings,
        demonstrations=recipe.data.demonstrations,
        positives=recipe.data.positives,
    )


def load_recipe_backbone(recipe: Recipe, out: Path, dropout: float | None = None) -> Backbone:
    """The recipe's backbone; one made from a configuration is written to `out/backbone` first, and pinned there."""
    wanted = recipe.backbone
    family: type[Backbone] = CausalBackbone if wanted.family == "causal" else T5Backbone
    attention = wanted.attention
    if wanted.dtype == "auto":
        dtype = machine_dtype()
        if attention is None and dtype == torch.bfloat16 and best_device().type == "cpu":
            attention = "eager"
    else:
        dtype = getattr(torch, wanted.dtype)
    if wanted.name != "config":
        return load_backbone(
            wanted.name,
            family,
            revision=wanted.revision,
            dtype=dtype,
            tokenizer=wanted.tokenizer,
            dropout=dropout,
            attention=attention,
        )
    folder = out / _BACKBONE
    once((folder / _MADE_OF).exists, lambda: _make_backbone(recipe, out, folder))
    _check_made_of(recipe, folder)
    # Named as the finished checkpoint beside it will find it, wherever both are moved.
    return load_backbone(
        f"../{_BACKBONE}", family, relative_to=out / MODEL, dtype=dtype, dropout=dropout, attention=attention
    )


def _make_backbone(recipe: Recipe, out: Path, folder: Path) -> None:
    tokenizer = str(recipe.backbone.tokenizer)
    if tokenizer == "toy":
        tokenizer = str(out / "tokenizer")
        toy_tokenizer().save_pretrained(tokenizer)
    make_backbone(recipe.backbone.config or {}, tokenizer, recipe.seed, folder)
    write_text(folder / _MADE_OF, json.dumps(_made_of(recipe), indent=2) + "\n")


def _made_of(recipe: Recipe) -> dict[str, Any]:
    return {"config": recipe.backbone.config, "tokenizer": recipe.backbone.tokenizer, "seed": recipe.seed}


def _check_made_of(recipe: Recipe, folder: Path) -> None:
    """What an earlier run left is used only if this recipe would make the same."""
    try:
        found = json.loads((folder / _MADE_OF).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / _MADE_OF}: expected what the backbone was made of, got: {error}") from error
    for key, wanted in _made_of(recipe).items():
        if not isinstance(found, dict) or found.get(key) != wanted:
            got = found.get(key) if isinstance(found, dict) else found
            raise ConfigError(
                f"{folder}: expected a backbone made of {key} {wanted}, got one of {got}: remove it or choose another "
                "folder"
            )


def _t5(recipe: Recipe, backbone: Backbone) -> T5Backbone:
    """What a stage needs that is for encoder-decoders alone; a recipe's rules have refused others before."""
    if not isinstance(backbone, T5Backbone):
        raise ConfigError(f"backbone.family: expected 't5' for this stage, got {recipe.backbone.family!r}")
    return backbone


def text_settings(recipe: Recipe) -> TextSettings:
    """The recipe's encoding and limits."""
    return TextSettings(**{field.name: getattr(recipe.data, field.name) for field in fields(TextFormat)})


def generator_text(recipe: Recipe) -> TextSettings:
    """What the recipe's generator reads: teachers and rivals read instructions whatever it does."""
    return replace(text_settings(recipe), reads=recipe.generator.reads)


def in_context_text(recipe: Recipe) -> TextSettings:
    """What methods read that learn in context: of P3 the rendered input alone, else the instruction with the input."""
    reads: Reads = "demonstrations" if recipe.data.source == "p3" else "instruction"
    return replace(text_settings(recipe), positives=0, reads=reads)


def generator_settings(recipe: Recipe) -> GeneratorSettings:
    """The recipe's generator."""
    return replace(recipe.generator, reads="instruction", seed=recipe.seed)  # `reads` goes with the text settings


def lora_shape(recipe: Recipe) -> LoraShape:
    """The LoRA that is generated, and so that of the teachers."""
    return LoraShape(recipe.generator.rank, recipe.generator.alpha, recipe.seed)


def metatrain_lora(recipe: Recipe) -> LoraShape:
    """The LoRA that the stage metatrain trains: by default of the shape of the generator's, or of its shared LoRA."""
    generator, wanted = recipe.generator, recipe.metatrain
    rank = wanted.rank or generator.shared_rank or generator.rank
    # Another rank keeps alpha / rank, the scale of the update.
    return LoraShape(rank, wanted.alpha or generator.alpha * rank / generator.rank, recipe.seed)


def data_record(loaded: LoadedTasks) -> dict[str, Any]:
    """What was read, for a record."""
    return {**loaded.summary, "warning": loaded.warning, "digest": tasks_digest(loaded.tasks)}


def teacher_backbone(recipe: Recipe, out: Path, metatrained: str | None) -> Backbone:
    """What LoRA teachers are trained on: the vanilla backbone, or the meta-trained model under its own identity."""
    if recipe.teacher.base == "backbone":
        return load_recipe_backbone(recipe, out, recipe.training_for("teachers").dropout)
    backbone: Backbone = _trained(_concatenation(recipe), metatrained, "teacher.base = 'metatrained'").backbone
    return backbone


def catalogue_revision(folder: Path) -> str:
    """A digest over a catalogue and its teachers."""
    digest = hashlib.sha256()
    if not (folder / CATALOGUE).is_file():
        raise ConfigError(f"{folder}: expected LoRA teachers with a {CATALOGUE}, got none")
    for path in sorted([folder / CATALOGUE, *folder.glob("*/adapter_model.safetensors")]):
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _micro_batches(settings: TrainingSettings) -> int:
    """How many a stage takes on all processes together."""
    return settings.steps * settings.accumulation * process_count()


def _pretraining(recipe: Recipe, backbone: Backbone, length: int, size: int) -> StageParts:
    wanted = recipe.pretraining
    if wanted is None:
        raise ConfigError("pretraining: expected a table [pretraining] for the stage 'pretrain', got none")
    settings = generator_settings(recipe)
    if wanted.tune is not None:
        settings = replace(settings, tune=wanted.tune)
    method = TAGI(GeneratorModel(backbone, settings, generator_text(recipe)))
    documents = ToyDocuments(recipe.seed) if wanted.source == "toy" else C4Documents(Path(str(wanted.path)))
    model = Pretraining(method, max_tokens=wanted.max_tokens, parts=wanted.parts, seed=recipe.seed)
    data = {"source": wanted.source, "documents": length * size, "parts": wanted.parts}
    return StageParts(model, DocumentBatches(documents, length=length, size=size), data)


def check_shared_lora(parts: StageParts) -> None:
    """A shared LoRA that is neither trained nor copied from one would be nothing for ever."""
    method = generating(parts.model)
    shared = None if method is None else method.generator.shared
    if shared is None or any(parameter.requires_grad for parameter in shared.parameters()):
        return
    if not any(bool(b.any()) for b in shared.b):
        raise ConfigError(
            "generator.shared_rank: expected a LoRA of the stage metatrain to start from (run.start = 'metatrained', "
            "metatrain.tune = 'lora'; --start CHECKPOINT), or generator.shared_tune = true, got neither"
        )


def measure_instructions(parts: StageParts, *, progress: bool = False) -> None:
    """What a hypernetwork wants to know of instructions before it is trained, from the first micro-batches.

    The backbone that reads them has to be the one that it is trained on; one that was measured before stays as it is.
    """
    method = generating(parts.model)
    if method is None or not method.generator.wants_measuring:
        return
    if process_count() == 1:
        parts.model.to(best_device())  # where it is trained
    count = min(len(parts.batches), _MEASURED)
    if progress and not sys.stderr.isatty():  # where no bar is drawn
        print(f"measuring instructions: {count} batches", file=sys.stderr, flush=True)
    with counting("measuring instructions", count, progress) as advance:

        def batches() -> Iterator[dict[str, Any]]:
            for index in range(count):
                yield parts.model.collate(parts.batches[index])
                advance(1)

        method.measure(batches())


def _method(
    recipe: Recipe, stage: Stage, backbone: Backbone, batches: TaskBatches, out: Path, sources: Sources
) -> Method:
    if stage == "metatrain":
        return metatrained_method(recipe, backbone)
    generator = GeneratorModel(backbone, generator_settings(recipe), generator_text(recipe))
    return TAGI(generator, _objective(recipe, generator, batches, out, sources))


def metatrained_method(recipe: Recipe, backbone: Backbone) -> Prompted[Any]:
    """What the stage metatrain trains."""
    kind, tune = METHODS[recipe.metatrain.method], recipe.metatrain.tune
    if kind is Concatenation:
        reads: Reads = "instruction" if recipe.metatrain.instruction else "nothing"
        return concatenated_method(recipe, backbone, tune, reads, metatrain_lora(recipe))
    assert issubclass(kind, Prompted)
    text = in_context_text(recipe) if issubclass(kind, InContext) else text_settings(recipe)
    lora = metatrain_lora(recipe) if tune == "lora" else None
    return kind(_t5(recipe, backbone), text, lora, frozen=tune == "none")


def concatenated_text(recipe: Recipe, reads: Reads = "instruction") -> TextSettings:
    """How methods read that have instruction and input in one text: with `instruction_cache` as the generator's prompts
    have them, each with its own limit; else the limit of the input is that of both."""
    apart = reads == "instruction" and recipe.generator.instruction_cache is not None
    return replace(text_settings(recipe), reads=reads, apart=apart)


def concatenated_method(
    recipe: Recipe,
    backbone: Backbone,
    tune: Literal["all", "lora", "none"],
    reads: Reads = "instruction",
    shape: LoraShape | None = None,
) -> Prompted[Any]:
    """The backbone with the instruction concatenated, whatever its family, and how much of it is trained.

    `shape` is the LoRA's with `tune` "lora", by default that of the generator's LoRA.
    """
    text = concatenated_text(recipe, reads)
    lora, frozen = ((shape or lora_shape(recipe)) if tune == "lora" else None), tune == "none"
    if isinstance(backbone, CausalBackbone):
        kept = recipe.metatrain.prefix_cached
        return CausalConcatenation(backbone, text, lora, frozen=frozen, prefix_cached=kept)
    return Concatenation(_t5(recipe, backbone), text, lora, frozen=frozen)


def untrained_method(recipe: Recipe, backbone: Backbone) -> Method:
    """What the recipe's last stage trains, before it is trained."""
    last = recipe.run.stages[-1]
    if last == "finetune":
        return TAGI(GeneratorModel(backbone, generator_settings(recipe), generator_text(recipe)))
    if last == "single":
        return concatenated_method(recipe, backbone, recipe.single.tune)
    return metatrained_method(recipe, backbone)


def _objective(recipe: Recipe, student: GeneratorModel, batches: TaskBatches, out: Path, sources: Sources) -> Objective:
    wanted = recipe.losses
    catalogue, base = None, None
    if wanted.ins or (wanted.kl and wanted.teacher == "lora"):
        if sources.teachers is None:
            raise ConfigError(
                "losses: expected --teachers DIR for losses.ins, or losses.kl with LoRA teachers, got none"
            )
        base = teacher_backbone(recipe, out, sources.metatrained)
        scale = recipe.generator.alpha / recipe.generator.rank
        catalogue = read_catalogue(sources.teachers, base.identity, rank=recipe.generator.rank, scale=scale)
    teacher = None
    vocabulary = student.backbone.vocabulary
    if wanted.top_k is not None and wanted.top_k > vocabulary:
        raise ConfigError(f"losses.top_k: expected at most the vocabulary's {vocabulary} tokens, got {wanted.top_k}")
    if wanted.kl:
        made = _teacher(recipe, student, base, catalogue, sources)
        teacher = cached_teacher(recipe, made, student.text, batches, out) if wanted.top_k else made
    objective = Objective(
        wanted, teacher=teacher, catalogue=catalogue if wanted.ins else None, aligned=_aligned(recipe)
    )
    _check_alignment(objective, batches)
    return objective


def _check_alignment(objective: Objective, batches: TaskBatches) -> None:
    """L_ins without a single task to align would be 0 for ever."""
    if objective.weights.ins and not objective.aligned_tasks(batches.tasks):
        categories = ", ".join(sorted({task.category for task in batches.tasks})[:3])
        raise ConfigError(
            f"losses.ins: expected a LoRA teacher for at least one category that is trained on ({categories}, ...), "
            "got none"
        )


def _teacher(
    recipe: Recipe, student: GeneratorModel, base: Backbone | None, catalogue: Catalogue | None, sources: Sources
) -> Teacher:
    if recipe.losses.teacher == "fid-icl":
        fid = _trained(FidICL, sources.metatrained, "losses.teacher = 'fid-icl'")
        freeze(fid)
        return FidTeacher(fid, count=recipe.shots.count, seed=recipe.shots.seed)
    if recipe.losses.teacher == "metatrained":
        method = _trained(_concatenation(recipe), sources.metatrained, "losses.teacher = 'metatrained'")
        freeze(method)
        return ConcatenatedTeacher(method.backbone, method.text.settings, revision=method.backbone.identity.revision)
    assert base is not None
    untouched = recipe.generator.tune == "none" and recipe.teacher.base == "backbone"
    # A backbone that nothing tunes is the student's own as well: one copy in memory serves both.
    backbone = student.backbone if untouched else base
    if not untouched:
        freeze(backbone)
    return ConcatenatedTeacher(backbone, concatenated_text(recipe), catalogue, base.identity.revision)


def _concatenation(recipe: Recipe) -> type[Prompted[Any]]:
    """The method that reads instruction and input in one text, of the recipe's family of backbones."""
    return CausalConcatenation if recipe.backbone.family == "causal" else Concatenation


def _trained(kind: type[P], checkpoint: str | None, reason: str) -> P:
    """What the stage metatrain left, under its own identity; `ConfigError` for another method."""
    if checkpoint is None:
        raise ConfigError(f"{reason}: expected --metatrained CHECKPOINT, got none")
    folder = find_checkpoint(checkpoint)
    method = load_method(folder)
    if not isinstance(method, kind):
        raise ConfigError(f"{checkpoint}: expected a meta-trained model ({kind.name}), got method {method.name!r}")
    method.backbone.identity = BaseModel(str(folder), folder_revision(folder))
    return method


def _aligned(recipe: Recipe) -> tuple[str, ...] | None:
    size = recipe.losses.alignment_split
    if size is None:
        return None
    return sni_categories(size) if recipe.data.source == "sni" else p3_datasets(size)


def _validation(recipe: Recipe, every: int | None) -> LoadedTasks | None:
    return load_tasks(recipe, "validation") if every else None


def _documents(seed: int, count: int) -> list[str]:
    corpus = toy_corpus(seed)
    return [next(corpus) for _ in range(count)]
