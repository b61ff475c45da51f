"""A teacher's distributions for a whole run, computed before it starts."""

from pathlib import Path

from tagi.backbones.machine import best_device, counting
from tagi.data.batches import TaskBatches
from tagi.data.text.encoder import TextEncoder
from tagi.files import write_text
from tagi.methods.objective.teacher_cache import CacheWriter, TeacherCache, distinct_samples
from tagi.methods.objective.teachers import Teacher
from tagi.settings.recipe import Recipe
from tagi.training.distributed import is_main_process, once

CACHE = "teacher-cache"
_COMPLETE = "complete"


def cached_teacher(
    recipe: Recipe, teacher: Teacher, text: TextEncoder, batches: TaskBatches, out: Path
) -> TeacherCache:
    """Ask `teacher` once for every sample that `batches` will hold; what an interrupted call left is kept.

    The main process asks; others wait for what it writes.
    """
    folder = out / CACHE
    complete = folder / _COMPLETE
    if not is_main_process():
        once(complete.exists, lambda: None)
        return TeacherCache(folder)
    settings = recipe.training_for("finetune")
    samples = distinct_samples(batches)
    device = best_device()
    teacher.to(device)
    with counting("teacher's distributions", len(samples)) as advance:
        writer = CacheWriter(
            teacher,
            text,
            top_k=int(recipe.losses.top_k or 0),
            temperature=recipe.losses.temperature,
            batch_size=settings.tasks_per_batch * settings.queries_per_task,
            device=device,
        )
        cache = writer.write(folder, samples, advance)
    write_text(complete, "")
    return cache
