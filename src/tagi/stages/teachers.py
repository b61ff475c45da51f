"""The stage `teachers`: one PEFT LoRA per category, all with the same initialisation."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from tagi.data.task import Task
from tagi.files import new_folder, write_text
from tagi.settings.recipe import Recipe
from tagi.settings.sources import BY_NAME
from tagi.stages.metatrain import Metatrain
from tagi.stages.protocol import BackboneStage, Job, Need, Tables, Training, apart_table, lora_table, training_data
from tagi.stages.recipe_settings import concatenated_text, lora_shape


class Teachers(BackboneStage):
    """LoRA teachers that read instruction and input."""

    name = "teachers"
    description = "one LoRA per category, reading instruction and input; DIR is then the catalogue"

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the meta-trained model if the teachers are trained on it."""
        return on_metatrained(recipe)

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the training data, `[teacher]` and the LoRA's size."""
        lora = lora_table(tables)
        return {"data": training_data(tables), "teacher": tables["teacher"], "lora": lora, **apart_table(recipe)}

    def build(self, job: Job) -> Training:
        """Build the backbone with a LoRA, and the tasks of every category."""
        from tagi.formats.peft import write_lora
        from tagi.methods.lora import lora_bank
        from tagi.methods.objective.teachers import CATALOGUE
        from tagi.stages.many_models import ManyModels, Member, folder_name, refuse_clashes
        from tagi.stages.recipe_models import concatenated_method

        recipe, tasks = job.recipe, job.data.tasks("train")
        groups: dict[str, list[Task]] = defaultdict(list)
        for task in tasks.tasks:
            groups[task.category].append(task)
        refuse_clashes(groups, "categories")
        backbone, shape = teacher_backbone(recipe, job.out, job.sources.metatrained), lora_shape(recipe)
        base, reads = backbone.identity, concatenated_text(recipe).reads

        def save(folder: Path) -> None:
            with new_folder(folder, overwrite=True) as temporary:
                write_lora(temporary, lora_bank(backbone, shape), backbone)

        def announce(entries: list[dict[str, Any]]) -> None:
            content = {
                "base_model": {"name": base.name, "revision": base.revision},
                "trained_on": recipe.teacher.base,
                "lora": shape.as_dict(),
                **({} if reads == "instruction" else {"reads": reads}),
                "planned": len(groups),
                "teachers": entries,
            }
            write_text(job.out / CATALOGUE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

        method = concatenated_method(recipe, backbone, "lora")
        members = [Member(category, folder_name(category), tuple(groups[category])) for category in sorted(groups)]
        return ManyModels(self, job, method, tasks.record(), members, "category", "teacher", save, announce)

    def models(self, recipe: Recipe) -> int:
        """Return the number of categories."""
        return recipe.data.task_split or BY_NAME[recipe.data.source].categories or 1

    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return that a LoRA with the generator's rank is trained."""
        return "lora", recipe.generator.rank


def on_metatrained(recipe: Recipe) -> list[Need]:
    """Return the sources of LoRA teachers: the meta-trained model if `teacher.base` says so."""
    if recipe.teacher.base == "backbone":
        return []
    return [Need(Metatrain.name, "metatrained", "teacher.base = 'metatrained'", method="concatenation")]


def teacher_backbone(recipe: Recipe, out: Path, metatrained: str | None) -> Any:
    """Load the model that LoRA teachers are trained on: the recipe's backbone or the meta-trained model."""
    from tagi.stages.recipe_models import concatenation, load_metatrained, load_recipe_backbone

    if recipe.teacher.base == "backbone":
        return load_recipe_backbone(recipe, out, recipe.training_for("teachers").dropout)
    return load_metatrained(concatenation(recipe), metatrained, on_metatrained(recipe)[0].reason).backbone


STAGE = Teachers()
