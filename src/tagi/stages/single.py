"""The stage `single`: one model per test task, fine-tuned on that task's own examples (Full FT, Simple FT)."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tagi.data.digest import tasks_digest
from tagi.data.task import Instance, Task
from tagi.errors import ConfigError
from tagi.files import new_folder
from tagi.settings.recipe import Recipe
from tagi.settings.sources import BY_NAME
from tagi.stages.metatrain import start_faults, start_needs
from tagi.stages.protocol import BackboneStage, Fault, Job, Need, Tables, Training, apart_table, lora_table
from tagi.stages.tasks import LoadedTasks, RecipeData

_DIGITS = 8


class Single(BackboneStage):
    """One model per test task, trained on examples that are not scored."""

    name = "single"
    description = "one model per test task, on its shots or on all of its examples that are not scored"
    evaluation = "evaluate-single"
    rewords = False  # other wordings of test tasks are for evaluation only

    def run_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check that there are test tasks, and check the starting model."""
        if recipe.data.source == "p3" and recipe.data.test_path is None:
            yield "run.stages", f"expected data.test_path (stage single), got {', '.join(recipe.run.stages)}"
        yield from start_faults(recipe, generates=False)

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the starting model."""
        return start_needs(recipe)

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return all data, `[single]`, `[shots]` and the LoRA's size."""
        return {
            "data": tables["data"],
            "single": tables["single"],
            "shots": tables["shots"],
            "lora": lora_table(tables) if recipe.single.tune == "lora" else None,
            **apart_table(recipe),
        }

    def content(self, data: RecipeData) -> dict[str, Any]:
        """Return a digest of the test tasks with their shots."""
        return {"tasks": [tasks_digest(_tasks(data).tasks)]}

    def build(self, job: Job) -> Training:
        """Build the method that is trained for every test task; `ConfigError` if there are none."""
        from tagi.backbones.load import folder_revision
        from tagi.formats.finding import MODEL, find_checkpoint
        from tagi.methods.load import start_from
        from tagi.methods.single import MEMBERS, START, write_single
        from tagi.stages.many_models import ManyModels, Member
        from tagi.stages.recipe_models import concatenated_method, load_recipe_backbone
        from tagi.training.distributed import is_main_process

        recipe, tasks = job.recipe, _tasks(job.data)
        if not tasks.tasks:
            raise ConfigError("single: expected test tasks to train a model for each, got none")
        backbone = load_recipe_backbone(recipe, job.out, self.settings(recipe).dropout)
        folder = job.out / MODEL
        whole = concatenated_method(recipe, backbone, "all")
        taken = [start_from(whole, find_checkpoint(name)) for name in job.sources.start]
        start = None
        if taken and is_main_process():  # the initial weights of all models, and their digest
            _write(folder / START, whole)
            start = folder_revision(folder / START)
        method = whole if recipe.single.tune == "all" else concatenated_method(recipe, backbone, recipe.single.tune)

        def announce(entries: list[dict[str, Any]]) -> None:
            if len(entries) == len(tasks.tasks):  # its configuration says that all are there
                write_single(
                    folder, method, {entry["task"]: Path(entry["path"]).name for entry in entries}, start=start
                )

        members = [Member(task.name, f"{MODEL}/{MEMBERS}/{_folder(task.name)}", (_own(task),)) for task in tasks.tasks]
        return ManyModels(
            self, job, method, tasks.record(), members, "task", "model", partial(_write, model=method), announce
        )

    def untrained(self, recipe: Recipe, backbone: Any) -> Any:
        """Return the model of one task."""
        from tagi.stages.recipe_models import concatenated_method

        return concatenated_method(recipe, backbone, recipe.single.tune)

    def traits(self, recipe: Recipe) -> tuple[bool, ...]:
        """Return the conditions for a model of a single task."""
        return False, False, True, True, recipe.single.tune != "all", False, False, False

    def models(self, recipe: Recipe) -> int:
        """Return the number of test tasks."""
        return BY_NAME[recipe.data.source].test_tasks or 1

    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return `single.tune` and the generator's rank."""
        return recipe.single.tune, recipe.generator.rank


def _tasks(data: RecipeData) -> LoadedTasks:
    return data.tasks("test", shots=True, every=data.recipe.single.examples == "all")


def _write(folder: Path, model: Any) -> None:
    """Write a model's trained tensors."""
    from tagi.formats.checkpoint import write_tensors

    with new_folder(folder, overwrite=True) as temporary:
        write_tensors(temporary, model.trained_tensors())


def _own(task: Task) -> Task:
    """Return the task with its shots as training instances."""
    instances = tuple(Instance(str(at), shot.input, (shot.output,)) for at, shot in enumerate(task.shots))
    return replace(task, instances=instances, shots=(), paraphrases=(), wordings=())


def _folder(task: str) -> str:
    """Return a short unique name for a task. Names of prompts may differ only in punctuation."""
    from tagi.stages.many_models import folder_name

    return f"{folder_name(task)[:60]}-{hashlib.sha256(task.encode()).hexdigest()[:_DIGITS]}"


STAGE = Single()
