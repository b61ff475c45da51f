"""The paper's figures for comparison: Tables 2, 3, 4 and 7 as printed, in `paper.json`.

Figures 3 and 4 print no numbers. Table 4 has 60.6 for TAGI on P3 where Tables 3 and 9 have 59.8.
"""

import json
import math
from functools import lru_cache
from importlib import resources
from typing import Any

from tagi.evaluation.reports.settings import CHECKPOINT, METATRAINED, TAGI, Setting

SNI_TEST_INSTANCES = 11_810
"""Table 5."""
_RATE = {"Base (250M)": 1e-4, "Large (800M)": 1e-4, "XL (3B)": 5e-5, "XXL (11B)": 5e-5}
"""Table 6, SNI and P3: XL differs in neither, Large is P3's alone."""
_BATCH = {
    "sni": {"Base (250M)": 16, "XL (3B)": 8, "XXL (11B)": 2},
    "p3": {"Base (250M)": 16, "Large (800M)": 16, "XL (3B)": 8},
}
_PER_TASK = {"sni": 100, "p3": 1000}
_WHOLE_SPLIT = {"sni": (None, 60), "p3": (None, 36)}


@lru_cache(maxsize=1)
def paper() -> dict[str, Any]:
    """Return the tables by number, each `{row: {column: figure or None}}`.

    Table 3 has one more level outside, the average; Table 7 the setting.
    """
    text = resources.files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def departures(setting: Setting, source: str) -> list[str]:
    """Return a short description of how a setting differs from Table 6, except in parts and demonstrations."""
    if source not in _PER_TASK or setting.size not in _BATCH[source]:
        return ["another backbone"]
    if setting.method not in (TAGI, METATRAINED):
        return ["no method that the paper trains"]
    table = setting.table
    if CHECKPOINT in table:
        return ["training not recorded"]
    wanted: list[tuple[str, Any, str]] = [
        (setting.training_key("steps"), 20_000, "{} steps"),
        ("data.instances_per_task", _PER_TASK[source], "{} instances per task"),
        ("data.shuffle_inputs", False, "inputs shuffled"),
    ]
    if setting.method == TAGI:
        wanted += [
            ("generator.rank", 32, "rank {}"),
            (setting.training_key("learning_rate"), _RATE[setting.size], "learning rate {}"),
            (setting.training_key("warmup_ratio"), 0.02, "warm-up {}"),
        ]
    found = [words.format(table.get(key)) for key, value, words in wanted if table.get(key, value) != value]
    if table.get("data.task_split") not in _WHOLE_SPLIT[source]:
        found.append(f"{table['data.task_split']} categories")
    if table.get("losses.alignment_split") not in _WHOLE_SPLIT[source]:
        found.append(f"L_ins on {table['losses.alignment_split']} categories")
    keys = ("tasks_per_batch", "queries_per_task", "accumulation")
    batch = math.prod(int(table.get(setting.training_key(key), 1)) for key in keys)
    if setting.method == TAGI and batch != _BATCH[source][setting.size]:
        found.append(f"batches of {batch}")
    return found


def own_row(method: str, source: str) -> str | None:
    """Return the row of a method in the paper's tables if the authors trained it, else None."""
    return {TAGI: "TAGI", METATRAINED: "Metatrain" if source == "p3" else "Tk-Instruct"}.get(method)


def figure(table: str, *keys: str) -> float | None:
    """Return the paper's figure by table and keys, or None."""
    found: Any = paper()[table]
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)
