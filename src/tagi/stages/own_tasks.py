"""Splitting a user's own tasks into training and test tasks, and finding test instances in training data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tagi.data.batches import hold_out
from tagi.data.digest import instance_digests, tasks_digest
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.task import Task
from tagi.errors import ConfigError
from tagi.settings.data import DataSettings

SEEN = "seen"
"""Key of a training record's `data`: digests of the training instances, in one string."""
TRAINED_ON = "trained_on"
"""Key of an evaluation record's `data`: number of test instances in the training data."""
_DRAW = 0
"""Fixed seed of `data.test_tasks`, so that all seeds of a recipe have the same test tasks."""
_REMEDY = (
    'name a file of test tasks in data.test_path, mark tasks of the file with "split": "test", hold out tasks with '
    "data.test_tasks = N, or allow it with data.test_on_training = true"
)


def own_tasks(data: DataSettings, split: Literal["train", "test"], listed: Sequence[Task]) -> list[Task]:
    """Return the training or the test tasks among a user's own.

    Test tasks are those of `data.test_path`, those marked in the file, or `data.test_tasks` random ones. Without any of
    these, training and test tasks are the whole file.

    Args:
        data: Data settings.
        split: "train" or "test".
        listed: The tasks of `data.path`, in file order.

    Raises `ConfigError` if the tasks are split in two ways, or if a part would be empty.
    """
    marked = [task for task in listed if task.split == "test"]
    for key in ("test_path", "test_tasks"):
        if marked and getattr(data, key) is not None:
            fault = f'expected none with "split": "test" in {data.path} ({len(marked)} tasks), got'
            raise ConfigError(f"data.{key}: {fault} {getattr(data, key)!r}")
    training, tested = list(listed), list(listed)
    if data.test_path is not None:
        tested = [task for task in read_jsonl(Path(data.test_path)) if task.split != "train"]
    elif data.test_tasks is not None:
        training, tested = map(list, hold_out(listed, data.test_tasks, _DRAW))
    elif any(task.split for task in listed):
        training, tested = [task for task in listed if task.split != "test"], marked
    chosen = training if split == "train" else tested
    if not chosen:
        raise ConfigError(f"{data.path}: expected tasks to {split} on, got {len(listed)} tasks of the other split")
    return chosen


def seen_record(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return a training record's entry on the instances of a user's own tasks: digests in one string."""
    return {SEEN: " ".join(sorted(instance_digests(tasks)))}


def shared_instances(
    tested: Sequence[Task], seen: Mapping[str, Any] | None, every: Sequence[Task] = ()
) -> dict[str, Any]:
    """Return the number of test `tasks` and `instances` in the training data, and the `first` such task.

    Args:
        tested: The test tasks.
        seen: The `data` of a training record.
        every: All test tasks, if `tested` is a part of them. Needed for records of earlier versions, which have a
            digest of all tasks instead of digests of instances.

    Returns an empty result if there are none.
    """
    seen, own = seen or {}, instance_digests(tested)
    if SEEN in seen:
        known = set(str(seen[SEEN]).split())
        shared = {digest: task for digest, task in own.items() if digest in known}
    else:
        same = seen.get("split") == "train" and seen.get("digest") == tasks_digest(every or tested)
        shared = own if same else {}
    names = list(dict.fromkeys(shared.values()))
    return {"tasks": len(names), "instances": len(shared), "first": names[0]} if names else {}


def refuse_shared(shared: Mapping[str, Any], tested: Sequence[Task], data: DataSettings) -> dict[str, Any]:
    """Return an evaluation record's entry on test instances in the training data.

    Raises `ConfigError` if there are any, unless `data.test_on_training` is set.
    """
    if not shared:
        return {}
    if not data.test_on_training:
        count = sum(len(task.instances) for task in tested)
        got = f"{shared['instances']} of {count} are (the first in task {shared['first']!r})"
        raise ConfigError(f"expected test instances that are not trained on, got: {got}: {_REMEDY}")
    return {TRAINED_ON: {key: shared[key] for key in ("tasks", "instances")}}
