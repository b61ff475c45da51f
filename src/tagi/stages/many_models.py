"""Training of many models, one after the other, from the same initial weights."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tagi.data.task import Task
from tagi.errors import DataError, TrainingError
from tagi.files import refuse_long_names, write_text
from tagi.methods.protocol import Method
from tagi.stages.one_model import CHECKPOINTS
from tagi.stages.protocol import Job, TrainingStage
from tagi.stages.tasks import LoadedTasks
from tagi.training.distributed import is_main_process
from tagi.training.trainer import fingerprint, train

STATE = "trained.json"
"""Record of a finished model, written last."""
_LAST = 50
"""Steps over which the final loss is averaged."""
_KEPT = {"identity", "path", "tasks", "steps", "seconds", "tokens", "peak_memory", "final_loss"}


@dataclass(frozen=True)
class Member:
    """One of the models.

    Args:
        name: Category or task of the model.
        folder: Folder of the model, relative to the stage's.
        tasks: Training tasks.
    """

    name: str
    folder: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class ManyModels:
    """A method that is trained separately for each member of a group.

    Args:
        stage: The stage.
        job: Recipe, folder and sources of the stage.
        method: The method to train. Every member starts with its current parameters.
        data: The record's entry on the data.
        members: The models, in order of training.
        key: Meaning of a member's name ("category" or "task").
        noun: Noun for a model. Its plural is the record's key for all of them.
        save: Writes the trained method into a folder.
        announce: Called after each model with all finished models.
    """

    stage: TrainingStage
    job: Job
    method: Method
    data: dict[str, Any]
    members: Sequence[Member]
    key: str
    noun: str
    save: Callable[[Path], None]
    announce: Callable[[list[dict[str, Any]]], None]

    def train(self, *, identity: str, resume: bool, progress: bool) -> dict[str, Any]:
        """Train every member into its folder.

        Finished members are skipped. Interrupted ones continue from their latest complete checkpoint.
        """
        start = {name: tensor.detach().clone() for name, tensor in self.method.trained_tensors().items()}
        entries: list[dict[str, Any]] = []
        for number, member in enumerate(self.members, start=1):
            own = fingerprint(identity, member.name)
            entry = self._finished(member, own)
            if entry is None:
                if progress and is_main_process():
                    count = f"{len(member.tasks)} task{'' if len(member.tasks) == 1 else 's'}"
                    named = f"{self.noun} {number} of {len(self.members)}: {member.name} ({count})"
                    Console(stderr=True).print(named, markup=False)
                entry = self._train(member, start, own, resume, progress)
            entries.append(entry)
            if is_main_process():
                self.announce(entries)
        seconds, tokens = (sum(entry[key] for entry in entries) for key in ("seconds", "tokens"))
        trained = sum(tensor.numel() for tensor in start.values())
        return {
            "start": self.job.sources.revisions(),
            "data": self.data,
            f"{self.noun}s": entries,
            "training": {
                "steps": sum(entry["steps"] for entry in entries),
                "seconds": seconds,
                "tokens": tokens,
                "tokens_per_second": round(tokens / seconds, 1),
                "peak_memory": max(entry["peak_memory"] for entry in entries),
                "history": [],
            },
            "parameters": {
                "trained": trained,
                "frozen": sum(parameter.numel() for parameter in self.method.parameters()) - trained,
            },
        }

    def _train(
        self, member: Member, start: dict[str, torch.Tensor], identity: str, resume: bool, progress: bool
    ) -> dict[str, Any]:
        with torch.no_grad():
            for name, tensor in self.method.trained_tensors().items():
                tensor.copy_(start[name])
        torch.manual_seed(self.job.recipe.seed)
        folder, checkpoints = self.job.out / member.folder, self.job.out / CHECKPOINTS / member.folder
        outcome = train(
            self.method,
            self.stage.task_batches(self.job.recipe, LoadedTasks(member.tasks, {})),
            self.stage.settings(self.job.recipe),
            checkpoints,
            identity=identity,
            resume=resume,
            progress=progress,
        )
        losses = [entry for entry in outcome["history"] if "loss" in entry]
        last = [entry["loss"] for entry in losses if entry["step"] > outcome["steps"] - _LAST]
        entry = {
            self.key: member.name,
            "path": member.folder,
            "tasks": len(member.tasks),
            **{key: outcome[key] for key in ("steps", "seconds", "tokens", "peak_memory")},
            "first_loss": losses[0]["loss"] if losses else None,
            "final_loss": sum(last) / len(last) if last else None,
        }
        if is_main_process():
            self.save(folder)
            write_text(folder / STATE, json.dumps({"identity": identity, **entry}, indent=2) + "\n")
            shutil.rmtree(checkpoints)
        return entry

    def _finished(self, member: Member, identity: str) -> dict[str, Any] | None:
        """Return the record of a member that this run has finished, else None."""
        path = self.job.out / member.folder / STATE
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # written last, marks the member as finished
            return None
        if not isinstance(state, dict) or not state.keys() >= {self.key, *_KEPT}:
            raise TrainingError(f"{path}: expected what is known of a finished {self.noun}, got {state!r:.80}")
        if state["identity"] != identity:
            wanted = f"expected a {self.noun} of this recipe ({identity})"
            raise TrainingError(f"{path.parent}: {wanted}, got one of another ({state['identity']})")
        return {key: value for key, value in state.items() if key != "identity"}


def folder_name(name: str) -> str:
    """Return the name in lower case, with hyphens for characters other than letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def refuse_clashes(names: Iterable[str], kind: str) -> None:
    """Raise `DataError` if two names have the same folder, or if one is too long for a folder."""
    owners: dict[str, str] = {}
    ordered = sorted(names)
    refuse_long_names(ordered, kind)
    for name in ordered:
        other = owners.setdefault(folder_name(name), name)
        if other != name:
            raise DataError(
                f"expected {kind} that differ in letters or digits, got {other!r} and {name!r}: their models would "
                f"share the folder {folder_name(name)!r}"
            )
