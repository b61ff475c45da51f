"""The stage `teachers`: one PEFT LoRA per category, all from one start, on one backbone loaded once."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tagi.data.task import Task
from tagi.files import new_folder, write_text
from tagi.formats.peft import write_lora
from tagi.methods.lora import lora_bank
from tagi.methods.objective.teachers import CATALOGUE
from tagi.settings.recipe import Recipe
from tagi.stages.building import Sources, concatenated_method, data_record, lora_shape, teacher_backbone
from tagi.stages.many import Many, Member, folder_name, refuse_clashes
from tagi.stages.tasks import load_tasks


def train_teachers(
    recipe: Recipe, out: Path, sources: Sources, *, identity: str, resume: bool, progress: bool = True
) -> dict[str, Any]:
    """Train every category's LoRA into `out/<category>` and write the catalogue; the record's content.

    A teacher that is finished is left alone, one that was interrupted goes on from its newest complete checkpoint.
    """
    loaded = load_tasks(recipe, "train")
    groups: dict[str, list[Task]] = defaultdict(list)
    for task in loaded.tasks:
        groups[task.category].append(task)
    refuse_clashes(groups, "categories")
    backbone, shape = teacher_backbone(recipe, out, sources.metatrained), lora_shape(recipe)
    base = backbone.identity

    def save(folder: Path) -> None:
        with new_folder(folder, overwrite=True) as temporary:
            write_lora(temporary, lora_bank(backbone, shape), backbone)

    def announce(entries: list[dict[str, Any]]) -> None:
        content = {
            "base_model": {"name": base.name, "revision": base.revision},
            "trained_on": recipe.teacher.base,
            "lora": shape.as_dict(),
            "planned": len(groups),
            "teachers": entries,
        }
        write_text(out / CATALOGUE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    method = concatenated_method(recipe, backbone, "lora")
    many = Many(recipe, "teachers", out, identity, method, "category", "teacher", save, announce)
    members = [Member(category, folder_name(category), tuple(groups[category])) for category in sorted(groups)]
    content = many.run(members, resume=resume, progress=progress)
    return {"data": data_record(loaded), "teachers": content.pop("entries"), **content}
