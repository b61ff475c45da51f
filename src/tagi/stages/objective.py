"""Construction of the finetuning objective with its teachers."""

from dataclasses import replace
from pathlib import Path

from tagi.backbones.machine import best_device, counting
from tagi.backbones.protocol import Backbone
from tagi.data.batches import TaskBatches
from tagi.data.splits import p3_datasets, sni_categories
from tagi.errors import ConfigError
from tagi.files import write_text
from tagi.hypernetwork.model import GeneratorModel
from tagi.methods.fid import FidICL
from tagi.methods.objective.fid_teacher import FidTeacher
from tagi.methods.objective.objective import Objective
from tagi.methods.objective.teacher_cache import CacheWriter, TeacherCache, distinct_samples
from tagi.methods.objective.teachers import Catalogue, ConcatenatedTeacher, Teacher, freeze, read_catalogue
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import Job
from tagi.stages.recipe_models import concatenation, load_metatrained
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.teachers import teacher_backbone
from tagi.training.distributed import is_main_process, once

CACHE = "teacher-cache"
_COMPLETE = "complete"


def build_objective(job: Job, student: GeneratorModel, batches: TaskBatches) -> Objective:
    """Build the losses of the stage finetune.

    Args:
        job: Recipe, folder and sources of the stage.
        student: The generator.
        batches: All micro-batches of the stage.

    Raises:
        ConfigError: A teacher is missing, no task has a LoRA teacher for alignment, or `losses.top_k` exceeds the
            vocabulary.
    """
    recipe, losses = job.recipe, job.recipe.losses
    catalogue, base = None, None
    if losses.ins or (losses.kl and losses.teacher == "lora"):
        if job.sources.teachers is None:
            raise ConfigError(
                "losses: expected --teachers DIR for losses.ins or losses.kl with LoRA teachers, got none"
            )
        base = teacher_backbone(recipe, job.out, job.sources.metatrained)
        scale = recipe.generator.alpha / recipe.generator.rank
        catalogue = read_catalogue(job.sources.teachers, base.identity, rank=recipe.generator.rank, scale=scale)
    vocabulary = student.backbone.vocabulary
    if losses.top_k is not None and losses.top_k > vocabulary:
        raise ConfigError(f"losses.top_k: expected at most the vocabulary's {vocabulary} tokens, got {losses.top_k}")
    teacher: Teacher | TeacherCache | None = None
    if losses.kl:
        teacher = _teacher(job, student, base, catalogue)
        teacher = _cached(recipe, teacher, student, batches, job.out) if losses.top_k else teacher
    if catalogue is not None and losses.ins and catalogue.seed not in (None, recipe.seed):
        student.hypernetwork.heads.keep_starts(catalogue.seed)  # A0 is the teachers' initial A
    aligned = None
    if (size := losses.alignment_split) is not None:
        aligned = sni_categories(size) if recipe.data.source == "sni" else p3_datasets(size)
    objective = Objective(losses, teacher=teacher, catalogue=catalogue if losses.ins else None, aligned=aligned)
    if losses.ins and not objective.aligned_tasks(batches.tasks):  # the term would always be 0
        categories = ", ".join(sorted({task.category for task in batches.tasks})[:3])
        wanted = f"expected a LoRA teacher for at least one category that is trained on ({categories}, ...)"
        raise ConfigError(f"losses.ins: {wanted}, got none")
    return objective


def _teacher(job: Job, student: GeneratorModel, base: Backbone | None, catalogue: Catalogue | None) -> Teacher:
    recipe, metatrained = job.recipe, job.sources.metatrained
    reason = f"losses.teacher = {recipe.losses.teacher!r}"
    if recipe.losses.teacher == "fid-icl":
        fid = load_metatrained(FidICL, metatrained, reason)
        _check_tokens(fid.backbone, student)
        freeze(fid)
        return FidTeacher(fid, count=recipe.shots.count, seed=recipe.shots.seed)
    if recipe.losses.teacher == "metatrained":
        method = load_metatrained(concatenation(recipe), metatrained, reason)
        _check_tokens(method.backbone, student)
        freeze(method)
        return ConcatenatedTeacher(method.backbone, method.text.settings, revision=method.backbone.identity.revision)
    assert base is not None
    assert catalogue is not None
    untouched = recipe.generator.tune == "none" and recipe.teacher.base == "backbone"
    # A frozen backbone is shared with the student, so that it is in memory once.
    backbone = student.backbone if untouched else base
    if not untouched:
        freeze(backbone)
    text = replace(concatenated_text(recipe), reads=catalogue.reads)
    return ConcatenatedTeacher(backbone, text, catalogue, base.identity.revision)


def _check_tokens(teacher: Backbone, student: GeneratorModel) -> None:
    """Raise `ConfigError` if teacher and student have different tokenizers."""
    if teacher.tokenizer.get_vocab() != student.backbone.tokenizer.get_vocab():
        raise ConfigError(
            "losses.teacher: expected a teacher with the tokens of the student's tokenizer "
            f"({student.backbone.identity.name}), got one with others ({teacher.identity.name})"
        )


def _cached(recipe: Recipe, teacher: Teacher, student: GeneratorModel, batches: TaskBatches, out: Path) -> TeacherCache:
    """Compute the teacher's distributions for all samples before training.

    Continues an interrupted call. The main process computes them while the others wait.
    """
    folder = out / CACHE
    complete = folder / _COMPLETE
    if not is_main_process():
        once(complete.exists, lambda: None)
        return TeacherCache(folder)
    samples, device, losses = distinct_samples(batches), best_device(), recipe.losses
    writer = CacheWriter(
        teacher.to(device),
        student.text,
        top_k=int(losses.top_k or 0),
        temperature=losses.temperature,
        batch_size=batches.tasks_per_batch * batches.queries_per_task,
        device=device,
        vocabulary=student.backbone.vocabulary,
    )
    with counting("teacher's distributions", len(samples)) as advance:
        cache = writer.write(folder, samples, advance)
    write_text(complete, "")
    return cache
