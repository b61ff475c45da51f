"""The result of every reader of tasks: the tasks, and counts of what was left out."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

from tagi.data.task import Task
from tagi.errors import DataError

R = TypeVar("R", bound="TasksRead")


@dataclass(frozen=True, kw_only=True)
class TasksRead(ABC):
    """The tasks that were read.

    Args:
        tasks: The tasks.
        instances_per_task: Maximum number of instances that were read per task; None for all.
    """

    tasks: tuple[Task, ...]
    instances_per_task: int | None

    @property
    def category_counts(self) -> dict[str, int]:
        """Number of tasks per category, in descending order, ties in alphabetical order."""
        counts = Counter(task.category for task in self.tasks)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def instances(self) -> int:
        """Number of instances of all tasks together."""
        return sum(len(task.instances) for task in self.tasks)

    @property
    @abstractmethod
    def warning(self) -> str | None:
        """One line that lists what is missing or left out, or None."""

    def summary(self) -> dict[str, Any]:
        """Return counts of what was read and what was left out, ready for JSON."""
        return {
            "tasks": len(self.tasks),
            "instances": self.instances,
            "instances_per_task": self.instances_per_task,
            "categories": self.category_counts,
        }

    def logged(self: R, logger: logging.Logger) -> R:
        """Log the warning, if any, and return the object."""
        if self.warning:
            logger.warning(self.warning)
        return self


def check_limit(name: str, limit: int | None) -> None:
    """Raise `DataError` for a limit below 1."""
    if limit is not None and limit < 1:
        raise DataError(f"{name}: expected at least 1, got {limit}")
