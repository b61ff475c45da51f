"""The stage `teachers`: one PEFT LoRA per category, all from one start, on one backbone loaded once."""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tagi.adapters import LoraBank
from tagi.adapters.peft_format import write_peft
from tagi.backbones import T5Backbone
from tagi.config import Recipe
from tagi.data.task import Task
from tagi.errors import DataError, TrainingError
from tagi.files import new_folder, write_text
from tagi.methods import Concatenation
from tagi.methods.lora import lora_bank, reset_lora
from tagi.methods.teachers import CATALOGUE
from tagi.pipeline.building import (
    Sources,
    data_record,
    lora_shape,
    task_batches_of,
    teacher_backbone,
    text_settings,
    training_settings,
)
from tagi.pipeline.tasks import LoadedTasks, load_tasks
from tagi.training import fingerprint, is_main_process, train

_STATE = "teacher.json"
_CHECKPOINTS = "checkpoints"
_LAST = 50
_KEPT = {"identity", "category", "path", "tasks", "steps", "seconds", "tokens", "peak_memory", "final_loss"}


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
    _refuse_clashes(groups)
    backbone = teacher_backbone(recipe, out, sources.metatrained)
    linears = [name for name, part in backbone.model.named_modules() if isinstance(part, torch.nn.Linear)]
    method = Concatenation(backbone, text_settings(recipe), lora_shape(recipe))
    entries: list[dict[str, Any]] = []
    console = Console(stderr=True)
    for number, category in enumerate(sorted(groups), start=1):
        own = fingerprint(identity, category)
        entry = _finished(out / folder_name(category), own)
        if entry is None:
            if progress and is_main_process():
                console.print(f"teacher {number} of {len(groups)}: {category} ({len(groups[category])} tasks)")
            entry = _train_one(recipe, category, groups[category], method, linears, out, own, resume, progress)
        entries.append(entry)
        if is_main_process():
            _write_catalogue(out, recipe, backbone, entries, len(groups))
    seconds, tokens = (sum(entry[key] for entry in entries) for key in ("seconds", "tokens"))
    training = {
        "steps": sum(entry["steps"] for entry in entries),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_memory": max(entry["peak_memory"] for entry in entries),
        "history": [],
    }
    trained = sum(parameter.numel() for parameter in method.trained_tensors().values())
    return {
        "data": data_record(loaded),
        "training": training,
        "teachers": entries,
        "parameters": {"trained": trained, "frozen": sum(p.numel() for p in method.parameters()) - trained},
    }


def folder_name(category: str) -> str:
    """A category's folder: its name in small letters, with hyphens for what is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-") or "category"


def _refuse_clashes(categories: Iterable[str]) -> None:
    owners: dict[str, str] = {}
    for category in sorted(categories):
        other = owners.setdefault(folder_name(category), category)
        if other != category:
            raise DataError(
                f"expected categories that differ in letters or digits, got {other!r} and {category!r}: their teachers "
                f"would share the folder {folder_name(category)!r}"
            )


def _train_one(
    recipe: Recipe,
    category: str,
    tasks: list[Task],
    method: Concatenation,
    linears: list[str],
    out: Path,
    identity: str,
    resume: bool,
    progress: bool,
) -> dict[str, Any]:
    shape = lora_shape(recipe)
    reset_lora(method.backbone, shape)
    torch.manual_seed(recipe.seed)
    batches = task_batches_of(recipe, "teachers", LoadedTasks(tuple(tasks), {}))
    checkpoints = out / _CHECKPOINTS / folder_name(category)
    outcome = train(
        method,
        batches,
        training_settings(recipe, "teachers"),
        checkpoints,
        identity=identity,
        resume=resume,
        progress=progress,
    )
    losses = [entry for entry in outcome["history"] if "loss" in entry]
    last = [entry["loss"] for entry in losses if entry["step"] > outcome["steps"] - _LAST]
    entry = {
        "category": category,
        "path": folder_name(category),
        "tasks": len(tasks),
        "steps": outcome["steps"],
        "seconds": outcome["seconds"],
        "tokens": outcome["tokens"],
        "peak_memory": outcome["peak_memory"],
        "first_loss": losses[0]["loss"] if losses else None,
        "final_loss": sum(last) / len(last) if last else None,
    }
    if is_main_process():
        _write_teacher(out / folder_name(category), lora_bank(method.backbone, shape), method.backbone, linears)
        write_text(out / folder_name(category) / _STATE, json.dumps({"identity": identity, **entry}, indent=2) + "\n")
        shutil.rmtree(checkpoints)
    return entry


def _write_teacher(folder: Path, bank: LoraBank, backbone: T5Backbone, linears: list[str]) -> None:
    base = backbone.identity
    commit = None if base.revision.startswith("sha256:") else base.revision  # PEFT knows the hub's alone
    with new_folder(folder, overwrite=True) as temporary:
        write_peft(temporary, bank, base=base.name, revision=commit, task_type="SEQ_2_SEQ_LM", linears=linears)


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """What the catalogue says of a teacher that this run has finished, else None."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # written last: without it the teacher is not finished
        return None
    if not isinstance(state, dict) or not state.keys() >= _KEPT:
        raise TrainingError(f"{folder / _STATE}: expected what is known of a finished teacher, got {state!r:.80}")
    if state["identity"] != identity:
        found = state["identity"]
        raise TrainingError(f"{folder}: expected a teacher of this recipe ({identity}), got one of another ({found})")
    return {key: value for key, value in state.items() if key != "identity"}


def _write_catalogue(
    out: Path, recipe: Recipe, backbone: T5Backbone, entries: list[dict[str, Any]], planned: int
) -> None:
    shape = lora_shape(recipe)
    content = {
        "base_model": {"name": backbone.identity.name, "revision": backbone.identity.revision},
        "trained_on": recipe.teacher.base,
        "lora": shape.as_dict(),
        "planned": planned,
        "teachers": entries,
    }
    write_text(out / CATALOGUE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
