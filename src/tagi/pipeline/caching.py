"""A teacher's distributions for a whole run, computed before it starts."""

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tagi.config import Recipe
from tagi.data.batches import TaskBatches
from tagi.data.text import TextEncoder
from tagi.files import write_text
from tagi.methods.teacher_cache import TeacherCache, distinct_samples, write_cache
from tagi.methods.teachers import Teacher
from tagi.training import is_main_process, once

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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("teacher's distributions", total=len(samples))
        cache = write_cache(
            folder,
            teacher,
            samples,
            text,
            top_k=int(recipe.losses.top_k or 0),
            temperature=recipe.losses.temperature,
            batch_size=settings.tasks_per_batch * settings.queries_per_task,
            device=device,
            advance=lambda count: bar.advance(shown, count),
        )
    write_text(complete, "")
    return cache
