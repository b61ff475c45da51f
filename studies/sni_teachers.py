"""Does a category's LoRA teacher know its category? Losses on instances that no training has seen.

For every category of a catalogue: mean token cross-entropy of held-out instances (those after the first
`data.instances_per_task` of each training task) under its own teacher, under three other categories' and without any.

    python studies/sni_teachers.py NATURAL_INSTRUCTIONS TOKENIZER RUN OUT [KEY=VALUE ...]

RUN is the folder of `tagi run sni-small` (its stages metatrain and teachers); the same overrides as there.
"""

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track

from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.files import write_text
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.objective.teachers import ConcatenatedTeacher, read_catalogue
from tagi.settings.recipe import Recipe
from tagi.stages.recipe_settings import text_settings
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks
from tagi.stages.teachers import teacher_backbone

PER_TASK, OTHERS, ROWS = 20, 3, 48


def held_out(recipe: Recipe) -> dict[str, list[Sample]]:
    """Up to ROWS instances of each category that training does not read, spread over its tasks."""
    seen = recipe.data.instances_per_task
    wider = recipe.model_copy(update={"data": replace(recipe.data, instances_per_task=seen + PER_TASK)})
    groups: dict[str, list[list[Sample]]] = defaultdict(list)
    for task in load_tasks(wider, "train").tasks:
        bare = replace(task, instances=())
        groups[task.category].append([sample_of(bare, one.input, one.outputs[0]) for one in task.instances[seen:]])
    return {
        category: [rows[at] for at in range(PER_TASK) for rows in tasks if at < len(rows)][:ROWS]
        for category, tasks in groups.items()
    }


def sample_of(task: Task, text: str, target: str) -> Sample:
    return Sample(task, task.instruction, text, target)


@torch.no_grad()
def loss(teacher: ConcatenatedTeacher, rows: list[Sample], category: str | None) -> float:
    """Under the LoRA of `category`, or the bare model's."""
    asked = [replace(row, task=replace(row.task, category=category or row.task.category)) for row in rows]
    labels = teacher.text.labels([teacher.text.target(row.target) for row in rows])
    return float(prediction_loss(teacher.logits(teacher.collate(asked), labels), labels))


def main(root: str, tokenizer: str, run: Path, out: Path, overrides: list[str]) -> None:
    """Compare and write `teachers.json`."""
    recipe = load_recipe("sni-small", [f"data.path={root}", f"backbone.tokenizer={tokenizer}", *overrides])
    base = teacher_backbone(recipe, run / "teachers", str(run / "metatrain"))
    scale = recipe.generator.alpha / recipe.generator.rank
    catalogue = read_catalogue(run / "teachers", base.identity, rank=recipe.generator.rank, scale=scale)
    with_lora = ConcatenatedTeacher(base, text_settings(recipe), catalogue).eval()
    bare = ConcatenatedTeacher(base, text_settings(recipe)).eval()
    names = catalogue.categories
    rows = []
    for category, samples in track(sorted(held_out(recipe).items()), "categories"):
        if not samples:
            rows.append({"category": category, "instances": 0})
            continue
        at = names.index(category)
        others = [names[(at + (1 + step) * len(names) // (OTHERS + 1)) % len(names)] for step in range(OTHERS)]
        own, none = loss(with_lora, samples, category), loss(bare, samples, None)
        strangers = {name: loss(with_lora, samples, name) for name in others}
        better = own < none and all(own < other for other in strangers.values())
        rows.append(
            {
                "category": category,
                "instances": len(samples),
                "own": own,
                "none": none,
                "others": strangers,
                "best": better,
            }
        )
    measured = [row for row in rows if row["instances"]]
    summary = {
        "categories": len(rows),
        "measured": len(measured),
        "own_beats_none": sum(row["own"] < row["none"] for row in measured),
        "own_beats_first_other": sum(row["own"] < next(iter(row["others"].values())) for row in measured),
        "own_beats_none_and_all_others": sum(row["best"] for row in measured),
    }
    write_text(out, json.dumps({"summary": summary, "rows": rows}, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
