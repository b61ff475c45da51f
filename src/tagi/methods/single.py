"""One model per task as a method: the inputs of a task are answered with the task's weights."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

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

R = TypeVar("R")

MEMBERS, START = "tasks", "start"
"""In the checkpoint's folder: a folder of weights for every task, and one of those that all began with, where these are
not the backbone's.
"""
_PROMPTED: dict[str, type[Prompted[Any]]] = {kind.name: kind for kind in (Concatenation, CausalConcatenation)}


class SingleTask(Method):
    """Fine-tuned models, one per training task. Other tasks cannot be answered.

    Besides the backbone, the weights of one task at a time are in memory, in a view of the model.

    Args:
        prompted: The initial model of all tasks, with the instruction concatenated.
        folder: The checkpoint.
        members: Folder and digest of the weights by task.
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
        """Return the loss of the initial model."""
        terms: dict[str, Tensor] = self.prompted(**batch)
        return terms

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Store the tasks' texts. Raises `InputError` for a task without model."""
        for task in tasks:
            if task.name not in self.members:
                known = ", ".join(sorted(self.members)[:3])
                raise InputError(
                    f"expected a task that a model was trained for ({len(self.members)}: {known}, ...), "
                    f"got {task.name!r}"
                )
        return self.prompted.prepare(tasks, truncate=truncate)

    def without_instruction(self, states: Prompts) -> Prompts:
        """Return states without instruction, for the initial model."""
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
        """Answer a batch with several tasks, each with its own model."""

        def answer(model: Prompted[Any], of_task: Tensor, at: list[int]) -> list[str]:
            return model.predict(states, of_task, [inputs[index] for index in at], truncate=truncate, **decoding)

        return self._by_task(states, rows, answer)

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
        """Score the choices of a batch with several tasks, each with its own model."""

        def score(model: Prompted[Any], of_task: Tensor, at: list[int]) -> list[list[float]]:
            texts, offered = [inputs[index] for index in at], [choices[index] for index in at]
            return model.score_choices(states, of_task, texts, offered, reduction=reduction, truncate=truncate)

        return self._by_task(states, rows, score)

    def cost(self, lengths: Lengths) -> Cost:
        """Return the cost of the prompted backbone. A LoRA is not merged."""
        return self.prompted.cost(lengths)

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Copy the checkpoint."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: Path) -> "SingleTask":
        """Load a checkpoint. The weights of a task are loaded with its first input."""
        config = read_config(folder)
        kind, members = config.get("prompted"), config.get("members")
        if config["method"] != cls.name or kind not in _PROMPTED or not isinstance(members, dict):
            raise CheckpointError(f"{folder}: expected models of single tasks, got method {config['method']!r}")
        prompted = _starting_model(_PROMPTED[kind], config, folder)
        named = {task: (str(member["folder"]), str(member["revision"])) for task, member in members.items()}
        return cls(prompted, folder, named).eval()

    def _by_task(
        self, states: Prompts, rows: Tensor, compute: Callable[[Prompted[Any], Tensor, list[int]], list[R]]
    ) -> list[R]:
        """Return the results of a batch, in its order.

        `compute` is called per task with the task's model, its rows, and their indices in the batch.
        """
        results: dict[int, R] = {}
        for row in rows.unique().tolist():
            at = (rows == row).nonzero().flatten().tolist()
            results.update(zip(at, compute(self._model(states.tasks[row]), rows[rows == row], at), strict=True))
        return [results[index] for index in range(len(rows))]

    def _model(self, task: Task | None) -> Prompted[Any]:
        if task is None:
            return self.prompted
        current = self._current  # another thread may use another task
        if current is None or current[0] != task.name:
            self._current = current = None  # free it before loading the next
            member, revision = self.members[task.name]
            device = self.prompted.backbone.device
            tensors = _read(self.folder / MEMBERS / member, revision, self.prompted.trained_tensors())
            weights = {name: tensor.to(device) for name, tensor in tensors.items()}
            self._current = current = task.name, view_with_parameters(self.prompted, weights)
        return current[1]


def _starting_model(kind: type[Prompted[Any]], config: Mapping[str, Any], folder: Path) -> Prompted[Any]:
    """Return the initial model of all tasks, with an untrained LoRA if any."""
    whole = kind.from_config({**config, "lora": None}, folder)
    start, lora = config.get("start"), config.get("lora")
    if start is not None:
        whole.copy_trained(_read(folder / START, str(start), whole.trained_tensors()))
    if lora is None:
        return whole
    return kind(whole.backbone, whole.text.settings, LoraShape.from_dict(lora), **kind.options(config))


def _read(folder: Path, revision: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load a folder's tensors. Raises `CheckpointError` if they have changed since training."""
    tensors = read_tensors(folder, expected)
    found = folder_revision(folder)
    if found != revision:
        raise CheckpointError(f"{folder}: expected the weights that were trained ({revision}), got others ({found})")
    return tensors


def write_single(
    folder: Path, prompted: Prompted[Any], members: Mapping[str, str], *, start: str | None = None
) -> None:
    """Write the configuration of a checkpoint after its weights.

    Args:
        folder: The checkpoint.
        prompted: The initial model of all tasks.
        members: Folders of the weights by task.
        start: Digest of the initial weights; None for those of the backbone.
    """
    found = {
        task: {"folder": member, "revision": folder_revision(folder / MEMBERS / member)}
        for task, member in members.items()
    }
    config = {**prompted.checkpoint_config(), "method": SingleTask.name, "prompted": prompted.name, "members": found}
    if start is not None:
        config["start"] = start
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
