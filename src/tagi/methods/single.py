"""A model of its own for each task, behind the protocol: what is asked of a task goes to the task's own weights."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from tagi.adapters.merge import view_with_parameters
from tagi.backbones.load import folder_revision
from tagi.backbones.protocol import Decoding, Reduction
from tagi.backbones.shapes import TaskRows
from tagi.data.batches import Sample
from tagi.data.task import Task
from tagi.errors import CheckpointError, InputError
from tagi.files import write_text
from tagi.formats.checkpoint import CONFIG, read_config, read_tensors
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.flops import Cost, Lengths
from tagi.methods.prompted import Prompted, Prompts
from tagi.methods.protocol import Batch, Method
from tagi.settings.generator import LoraShape

MEMBERS, START = "tasks", "start"
"""In the checkpoint's folder: a folder of weights for every task, and one of those that all began with, where these are
not the backbone's.
"""
_PROMPTED: dict[str, type[Prompted[Any]]] = {kind.name: kind for kind in (Concatenation, CausalConcatenation)}


class SingleTask(Method):
    """Fine-tuned models, one for each task they were trained on; no other task can be asked.

    `prompted` is what all began with, the instruction concatenated, `members` names each task's folder and the digest
    of its weights. Those of one task at a time are in memory beside the backbone's, in a view: no parameter is written.
    """

    name = "single-task"

    def __init__(self, prompted: Prompted[Any], folder: Path, members: Mapping[str, tuple[str, str]]) -> None:
        super().__init__()
        self.prompted = prompted
        self.text = prompted.text
        self.folder = folder
        self.members = dict(members)
        self._current: tuple[str, Prompted[Any]] | None = None

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of the prompted backbone."""
        return self.prompted.collate(samples)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the loss of the model that training of all tasks started from."""
        terms: dict[str, Tensor] = self.prompted(**batch)
        return terms

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """The tasks' words. Raises `InputError` for a task that no model was trained for."""
        for task in tasks:
            if task.name not in self.members:
                known = ", ".join(sorted(self.members)[:3])
                raise InputError(
                    f"expected a task that a model was trained for ({len(self.members)}: {known}, ...), "
                    f"got {task.name!r}"
                )
        return self.prompted.prepare(tasks, truncate=truncate)

    def without_instruction(self, states: Prompts) -> Prompts:
        """Return states with the input alone, answered by the model that training started from."""
        return self.prompted.without_instruction(states)

    def predict(
        self,
        states: Prompts,
        rows: TaskRows,
        inputs: Sequence[str],
        *,
        truncate: bool = False,
        **decoding: Unpack[Decoding],
    ) -> list[str]:
        """Answer a batch that may mix tasks: each task's inputs by the task's own model."""
        answers = [""] * len(inputs)
        for model, own, at in self._by_task(states, rows):
            found = model.predict(states, own, [inputs[index] for index in at], truncate=truncate, **decoding)
            for index, answer in zip(at, found, strict=True):
                answers[index] = answer
        return answers

    def score_choices(
        self,
        states: Prompts,
        rows: TaskRows,
        inputs: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        truncate: bool = False,
    ) -> list[list[float]]:
        """Score the choices of a batch that may mix tasks: each task's by the task's own model."""
        scores: list[list[float]] = [[] for _ in inputs]
        for model, own, at in self._by_task(states, rows):
            texts, offered = [inputs[index] for index in at], [choices[index] for index in at]
            found = model.score_choices(states, own, texts, offered, reduction=reduction, truncate=truncate)
            for index, row in zip(at, found, strict=True):
                scores[index] = row
        return scores

    def cost(self, lengths: Lengths) -> Cost:
        """Return the cost of the prompted backbone; a LoRA is not merged."""
        return self.prompted.cost(lengths)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Copy the checkpoint."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "SingleTask":
        """Read a checkpoint: what all began with at once, a task's weights when it is asked."""
        config = read_config(folder)
        kind, members = config.get("prompted"), config.get("members")
        if config["method"] != cls.name or kind not in _PROMPTED or not isinstance(members, dict):
            raise CheckpointError(f"{folder}: expected models of single tasks, got method {config['method']!r}")
        prompted = _begun(_PROMPTED[kind], config, folder)
        named = {task: (str(member["folder"]), str(member["revision"])) for task, member in members.items()}
        return cls(prompted, folder, named).eval()

    def _by_task(self, states: Prompts, rows: Tensor) -> Iterator[tuple[Prompted[Any], Tensor, list[int]]]:
        """Yield every task's model, the batch's rows of the task, and where in the batch they are."""
        for row in rows.unique().tolist():
            at = (rows == row).nonzero().flatten().tolist()
            yield self._model(states.tasks[row]), rows[rows == row], at

    def _model(self, task: Task | None) -> Prompted[Any]:
        if task is None:
            return self.prompted
        current = self._current  # another thread may ask of another task meanwhile
        if current is None or current[0] != task.name:
            self._current = current = None  # before the next is read
            member, revision = self.members[task.name]
            device = self.prompted.backbone.device
            tensors = _read(self.folder / MEMBERS / member, revision, self.prompted.trained_tensors())
            own = {name: tensor.to(device) for name, tensor in tensors.items()}
            self._current = current = task.name, view_with_parameters(self.prompted, own)
        return current[1]


def _begun(kind: type[Prompted[Any]], config: Mapping[str, Any], folder: Path) -> Prompted[Any]:
    """Return the model that training of all tasks started from; its LoRA, if any, is untrained."""
    whole = kind.from_config({**config, "lora": None}, folder)
    start, lora = config.get("start"), config.get("lora")
    if start is not None:
        own = whole.trained_tensors()
        with torch.no_grad():
            for name, tensor in _read(folder / START, str(start), own).items():
                own[name].copy_(tensor)
    if lora is None:
        return whole
    return kind(whole.backbone, whole.text.settings, LoraShape.from_dict(lora), **kind.options(config))


def _read(folder: Path, revision: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A folder's tensors, if they are those that were trained."""
    tensors = read_tensors(folder, expected)
    found = folder_revision(folder)
    if found != revision:
        raise CheckpointError(f"{folder}: expected the weights that were trained ({revision}), got others ({found})")
    return tensors


def write_single(
    folder: Path, prompted: Prompted[Any], members: Mapping[str, str], *, start: str | None = None
) -> None:
    """Write the configuration that makes a checkpoint of members that are there: `members` has each task's folder.

    `start` is the digest of what all began with, None for the backbone.
    """
    found = {
        task: {"folder": member, "revision": folder_revision(folder / MEMBERS / member)}
        for task, member in members.items()
    }
    config = {**prompted.checkpoint_config(), "method": SingleTask.name, "prompted": prompted.name, "members": found}
    if start is not None:
        config["start"] = start
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
