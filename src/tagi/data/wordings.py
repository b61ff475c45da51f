"""Further wordings of the tasks of Super-Natural Instructions, shipped with the package.

`sni_wordings/paraphrases.jsonl` holds one JSON object per task, with the keys `task` and `WORDINGS`: 691 training and
55 test tasks, five wordings each, as people type instructions. The texts were written for this project from the tasks'
definitions and examples, and have its licence (Apache-2.0). Some labels of the tasks contradict their definition; the
wordings follow the labels.
"""

import json
from functools import cache
from importlib import resources

from tagi.data.task import Wording

WORDINGS = ("terse", "short", "plain", "request", "detailed")
"""Names of the shipped wordings, from a few words to several sentences."""


def sni_wordings(task: str) -> tuple[Wording, ...]:
    """Return the shipped wordings of a task.

    Args:
        task: Name of a task, for example `task002_quoref_answer_generation`.

    Returns:
        One `Wording` for each of `WORDINGS`, in that order. Empty for a task without shipped wordings.
    """
    return _all_wordings().get(task, ())


@cache
def _all_wordings() -> dict[str, tuple[Wording, ...]]:
    file = resources.files("tagi") / "data" / "sni_wordings" / "paraphrases.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["task"]: tuple(Wording(name, row[name]) for name in WORDINGS) for row in rows}
