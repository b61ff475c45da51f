"""Folders of task adapters for evaluation: their tasks, and the data they were refined on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.data.digest import files_digest
from tagi.data.task import Task
from tagi.errors import InputError
from tagi.evaluation.conditions import STOCK
from tagi.formats.finding import find_adapters
from tagi.formats.records import AdapterRecord
from tagi.methods.saved_adapters import SavedAdapters
from tagi.stages.own_tasks import SEEN

_CONDITIONS = ("right", STOCK, "none", "LoRA alone", "states alone")
"""Conditions that need no adapter of another instruction."""
_FILES = ("*.safetensors", AdapterRecord.FILE)


@dataclass(frozen=True)
class AdapterFolders:
    """Folders of task adapters, by name, with their records."""

    folders: Mapping[str, Path]
    records: Mapping[str, AdapterRecord]

    @classmethod
    def find(cls, name: str) -> "AdapterFolders | None":
        """Return the adapters in a folder, or None if it has none.

        Raises `InputError` if two have the same instruction.
        """
        folders = find_adapters(Path(name)) if Path(name).is_dir() else {}
        records = {own: AdapterRecord.read(folder) for own, folder in folders.items()}
        owners: dict[str, str] = {}
        for own, record in records.items():
            first = owners.setdefault(record.instruction.strip(), own)
            if first != own:
                raise InputError(f"{name}: expected adapters of different instructions, got {first} and {own} of one")
        return cls(folders, records) if folders else None

    def revision(self, generator: str) -> str:
        """Return the identity for records: the revision of the generator and a digest of the adapters."""
        files = [file for folder in self.folders.values() for kind in _FILES for file in sorted(folder.glob(kind))]
        return f"{generator}+{files_digest(files)}"

    def own_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks with the adapters' instructions. Raises `InputError` if there are none."""
        known = {record.instruction.strip() for record in self.records.values()}
        own = [task for task in tasks if task.instruction.strip() in known]
        if not own:
            got = f"got none among {len(tasks)} tasks (to score their generator, give its name)"
            raise InputError(f"expected tasks with the instructions of the {len(known)} adapters, {got}")
        return own

    def seen(self) -> dict[str, Any]:
        """Return the training data of refinements, in the format of a training record's `data`."""
        return {SEEN: " ".join(one for record in self.records.values() for one in _seen(record.refined))}

    def check(self, conditions: Sequence[str]) -> None:
        """Raise `InputError` for a condition that needs an adapter of another instruction."""
        odd = [name for name in conditions if name not in _CONDITIONS]
        if odd:
            raise InputError(f"--condition: expected one of {', '.join(_CONDITIONS)} for adapters, got {odd[0]!r}")

    def method(self) -> SavedAdapters:
        """Return the adapters as a method."""
        return SavedAdapters.of_folders(self.folders)

    def record(self) -> dict[str, Any]:
        """Return `task_adapters`: every adapter's instruction, and steps and examples of its last refinement."""
        keys = ("steps", "examples")
        told = {
            name: {"instruction": one.instruction, "refined": {key: one.refined[key] for key in keys if one.refined}}
            for name, one in self.records.items()
        }
        return {"task_adapters": told}


def _seen(refined: Mapping[str, Any]) -> Iterator[str]:
    """Digests of the examples of a refinement and of those before it."""
    yield from str(refined.get(SEEN, "")).split()
    if refined.get("earlier"):
        yield from _seen(refined["earlier"])
