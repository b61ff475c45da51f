"""The data sets by name, and what is known of each without reading it.

A reader in `tagi.data.readers` and an entry here are all that a further data set takes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A data set as settings know it.

    Args:
        name: Its name in `data.source`.
        metric: What its tasks are scored by unless the recipe says otherwise: "rouge", "exact", "rank", or "task" for
            each task's own metric.
        path: Whether it is read from `data.path`; otherwise it comes with the package.
        reader: The function that reads it, `MODULE:FUNCTION`: from path, split ("train" or "test") and seed to tasks.
            None for those that have keys of their own in `[data]`, which `tagi.stages.tasks` reads.
        categories: Training categories of the whole data set, for estimates.
        test_tasks: Test tasks of the whole data set, for estimates.
    """

    name: str
    metric: str = "rouge"
    path: bool = True
    reader: str | None = None
    categories: int | None = None
    test_tasks: int | None = None


ENTRIES = (
    SourceEntry("toy", metric="exact", path=False, categories=6, test_tasks=24),
    SourceEntry("sni", categories=60, test_tasks=119),
    SourceEntry("p3", metric="rank", categories=36, test_tasks=106),
    SourceEntry("jsonl", metric="task"),
    SourceEntry("everyday", metric="task", path=False, reader="tagi.data.everyday:read"),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}

if TYPE_CHECKING:
    Source = str
else:
    Source = Literal[tuple(BY_NAME)]
