"""The stage `single`: one model per test task, fine-tuned on that task's own examples (Full FT, Simple FT)."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.backbones.load import folder_revision
from tagi.data.task import Instance, Task
from tagi.errors import ConfigError
from tagi.files import new_folder
from tagi.formats.checkpoint import write_tensors
from tagi.formats.finding import MODEL, find_checkpoint
from tagi.methods.load import start_from
from tagi.methods.prompted import Prompted
from tagi.methods.single import MEMBERS, START, write_single
from tagi.settings.recipe import Recipe
from tagi.stages.building import Sources, concatenated_method, data_record, load_recipe_backbone
from tagi.stages.many import Many, Member, folder_name
from tagi.stages.tasks import load_tasks
from tagi.training.distributed import is_main_process

_DIGITS = 8


def train_single(
    recipe: Recipe, out: Path, sources: Sources, *, identity: str, resume: bool, progress: bool = True
) -> dict[str, Any]:
    """Train a model for every test task and write the method that asks each of its own; the record's content.

    Nothing that is tested is trained on. A model that is finished is left alone, one that was interrupted goes on from
    its newest complete checkpoint.
    """
    loaded = load_tasks(recipe, "test", shots=True, every=recipe.single.examples == "all")
    if not loaded.tasks:
        raise ConfigError("single: expected test tasks to train a model for each, got none")
    backbone = load_recipe_backbone(recipe, out, recipe.training_for("single").dropout)
    folder = out / MODEL
    whole = concatenated_method(recipe, backbone, "all")
    taken = [start_from(whole, find_checkpoint(name)) for name in sources.start]
    start = _write_start(whole, folder / START) if taken else None
    method = whole if recipe.single.tune == "all" else concatenated_method(recipe, backbone, recipe.single.tune)

    def save(member: Path) -> None:
        with new_folder(member, overwrite=True) as temporary:
            write_tensors(temporary, method.trained_tensors())

    def announce(entries: list[dict[str, Any]]) -> None:
        if len(entries) == len(loaded.tasks):  # its configuration says that all are there
            write_single(folder, method, {entry["task"]: Path(entry["path"]).name for entry in entries}, start=start)

    many = Many(recipe, "single", out, identity, method, "task", "model", save, announce)
    members = [Member(task.name, f"{MODEL}/{MEMBERS}/{_folder(task.name)}", (_own(task),)) for task in loaded.tasks]
    content = many.run(members, resume=resume, progress=progress)
    return {"data": data_record(loaded), "models": content.pop("entries"), **content}


def _write_start(whole: Prompted[Any], folder: Path) -> str | None:
    """Write what all models begin with; its digest."""
    if not is_main_process():
        return None
    with new_folder(folder, overwrite=True) as temporary:
        write_tensors(temporary, whole.trained_tensors())
    return folder_revision(folder)


def _own(task: Task) -> Task:
    """The task with its shots to train on in place of the instances that are tested."""
    instances = tuple(Instance(str(at), shot.input, (shot.output,)) for at, shot in enumerate(task.shots))
    return replace(task, instances=instances, shots=(), paraphrases=(), wordings=())


def _folder(task: str) -> str:
    """Short, and another for every task: names of prompts may differ in nothing but punctuation."""
    return f"{folder_name(task)[:60]}-{hashlib.sha256(task.encode()).hexdigest()[:_DIGITS]}"
