"""Dotted overrides: `training.learning_rate=1e-4` on top of a recipe's tables."""

import tomllib
from collections.abc import Sequence
from typing import Any

from tagi.settings.faults import shown
from tagi.settings.stages import STAGES


def apply_overrides(tables: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Change `tables` in place, in order, and return a fault for each override that cannot be applied.

    A value is read as TOML and, where it is none, taken as text; `key=` takes the key away, so that
    its default holds. `training.KEY` holds for every stage, also where the recipe has another value for one of them:
    `training.STAGE.KEY` is for one stage.
    """
    faults = [fault for override in overrides if (fault := _apply(tables, override))]
    _let_win(tables, [override.partition("=")[0].replace(" ", "") for override in overrides])
    return faults


def _let_win(tables: dict[str, Any], keys: Sequence[str]) -> None:
    """Drop a recipe's own values for single stages where `training.KEY` was overridden for all of them."""
    training = tables.get("training")
    if not isinstance(training, dict):
        return
    for key in keys:
        table, _, name = key.rpartition(".")
        for stage in STAGES if table == "training" else ():
            own = training.get(stage)
            if isinstance(own, dict) and f"training.{stage}.{name}" not in keys:
                own.pop(name, None)


def _apply(tables: dict[str, Any], override: str) -> str | None:
    key, equals, value = override.partition("=")
    *path, name = [part.strip() for part in key.split(".")]
    if not equals or not all([*path, name]):
        return f"override {shown(override)}: expected key=value with a dotted key"
    table = tables
    for depth, part in enumerate(path, start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            parent = ".".join(path[:depth])
            return f"override {shown(override)}: expected {parent} to be a table, got {shown(table)}"
    if value.strip():
        table[name] = _read(value.strip())
    else:
        table.pop(name, None)
    return None


def _read(value: str) -> Any:
    try:
        document = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return document["value"] if len(document) == 1 else value
