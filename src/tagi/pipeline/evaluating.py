"""Scoring a checkpoint on a recipe's test tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tagi.adapters import delta_variance
from tagi.config import Recipe
from tagi.data.task import Task
from tagi.evaluation.answers import Answer, answer_tasks, write_answers
from tagi.evaluation.conditions import channel_conditions, instruction_conditions
from tagi.evaluation.report import Metric, summarize
from tagi.methods import TAGI, Method, load_method
from tagi.pipeline.finding import find_checkpoint
from tagi.pipeline.records import write_record
from tagi.pipeline.tasks import load_tasks

CONDITIONS = ("right", "paraphrase", "other", "none")


def evaluate(
    checkpoint: str,
    recipe: Recipe,
    *,
    out: Path | None = None,
    conditions: Sequence[str] = ("right",),
    channels: bool = False,
    limit: int | None = None,
    progress: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on the recipe's test tasks; with `out`, write `record.json` and the predictions there.

    `conditions` say which instruction is given (`right`, `paraphrase`, `other`, `none`; those that the tasks have no
    words for are left out); `channels` adds LoRA and instruction states crossed and alone. `limit` bounds the
    instances of each task; `extra` goes into the record.
    """
    folder = find_checkpoint(checkpoint)
    method = load_method(folder)
    loaded = load_tasks(recipe, "test")
    limit = limit or recipe.evaluation.limit
    tasks = [replace(task, instances=task.instances[:limit]) for task in loaded.tasks]
    wanted = {name: make for name, make in instruction_conditions(method, tasks).items() if name in conditions}
    if channels:
        wanted |= channel_conditions(method, tasks)
    metric = _metric(recipe)
    results, answers = {}, {}
    for name, make in wanted.items():
        answers[name] = _answers(method, make(), tasks, recipe, name, progress)
        results[name] = summarize(answers[name], metric)
    content = {
        **(extra or {}),
        "checkpoint": checkpoint,
        "method": method.name,
        "data": {**loaded.summary, "limit": limit, "instances": sum(len(task.instances) for task in tasks)},
        "results": results,
        "delta_variance": _delta_variance(method, tasks),
    }
    if out is None:
        return content
    for name, own in answers.items():
        write_answers(own, out / f"predictions-{name.replace(' ', '-').replace(',', '')}.jsonl")
    return write_record(out / "record.json", recipe, content)


def validation_score(method: Method, tasks: Sequence[Task], recipe: Recipe) -> float:
    """Mean score in percent over held-out tasks with their own instruction: ROUGE-L, or exact matches of toy tasks."""
    answers = _answers(method, method.prepare(tasks, truncate=True), tasks, recipe, "validation", False)
    summary = summarize(answers, _metric(recipe))
    return float(summary["overall"][summary["metric"]])


def _metric(recipe: Recipe) -> Metric:
    return "exact" if recipe.data.source == "toy" else "rouge"


def _answers(
    method: Method, states: Any, tasks: Sequence[Task], recipe: Recipe, name: str, progress: bool
) -> list[Answer]:
    settings = recipe.evaluation
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        shown = bar.add_task(name, total=sum(len(task.instances) for task in tasks))
        return answer_tasks(
            method,
            states,
            tasks,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.num_beams,
            advance=lambda count: bar.advance(shown, count),
        )


def _delta_variance(method: Method, tasks: Sequence[Task]) -> float | None:
    """How far the adapters of the test tasks differ: 0 when all tasks get the same."""
    if not isinstance(method, TAGI):
        return None
    return delta_variance(method.prepare(tasks, truncate=True).bank)
