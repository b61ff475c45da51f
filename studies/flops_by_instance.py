"""Costs by every instance's own lengths against costs by their means over a task: attention is quadratic in them.

python studies/flops_by_instance.py natural-instructions TOKENIZER OUT.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.backbones.load import load_tokenizer
from tagi.data.text.encoder import TextEncoder
from tagi.evaluation.lengths import task_lengths
from tagi.stages.flops import table
from tagi.stages.recipe_settings import text_settings
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks

BACKBONE = "t5-xl-lm-adapt"


def measure(path: str, tokenizer: str, positives: int) -> dict[str, Any]:
    """TAGI's ratio to Tk-Instruct, and both costs, with a length for every instance and with a task's means."""
    recipe = load_recipe("sni-base", [f"data.path={path}", f"data.positives={positives}"])
    text, tasks = TextEncoder(load_tokenizer(tokenizer), text_settings(recipe)), load_tasks(recipe, "test").tasks
    by_task = {task.name: task_lengths(text, task) for task in tasks}
    # Every task has as many instances, so that every instance weighs as much in both sums.
    assert len({len(task.instances) for task in tasks}) == 1
    by_instance = {
        f"{task.name} {one.id}": task_lengths(text, replace(task, instances=(one,)))
        for task in tasks
        for one in task.instances
    }
    found: dict[str, Any] = {"positives": positives, "tasks": len(by_task), "instances": len(by_instance)}
    for name, lengths in (("by_task", by_task), ("by_instance", by_instance)):
        rows = {row["method"]: row["costs"][BACKBONE] for row in table([BACKBONE], recipe, lengths)}
        found[name] = {
            "ratio": rows["TAGI"]["ratio"],
            "tagi_flops": rows["TAGI"]["flops"],
            "tk_instruct_flops": rows["Tk-Instruct / Metatrain"]["flops"],
        }
    return found


def main(path: str, tokenizer: str, out: Path) -> None:
    settings = [measure(path, tokenizer, positives) for positives in (0, 2)]
    out.write_text(json.dumps({"backbone": BACKBONE, "settings": settings}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
