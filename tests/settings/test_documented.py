"""Every setting is documented on its own, in the docstring of its class."""

import inspect
import pkgutil
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

import tagi.settings
from tagi.config.faults import known_keys
from tagi.settings.recipe import Recipe
from tagi.settings.tables import Table, fields_of
from tagi.settings.training import StageSettings


def settings_classes() -> list[Any]:
    """Every class of settings that has fields. `StageSettings` repeats those of `TrainingSettings`."""
    modules = [import_module(f"tagi.settings.{module.name}") for module in pkgutil.iter_modules(tagi.settings.__path__)]
    kinds = {kind for module in modules for kind in vars(module).values() if hasattr(kind, "__pydantic_fields__")}
    return sorted((kind for kind in kinds - {StageSettings} if fields_of(kind)), key=lambda kind: kind.__name__)


def documented(kind: Any) -> dict[str, str]:
    """The entries of the docstring's list of arguments, of its base classes too."""
    entries: dict[str, str] = {}
    for base in kind.__mro__:
        _, _, listed = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Args:\n")
        entries |= dict(re.findall(r"^    (\w+): (\S.*)$", listed, re.MULTILINE))
    return entries


def test_all_groups_are_found() -> None:
    names = {kind.__name__ for kind in settings_classes()}
    assert {"Recipe", "GeneratorSettings", "TextSettings", "DataSettings", "LossSettings", "Training"} <= names
    tables = {field.annotation for field in fields_of(Recipe).values() if hasattr(field.annotation, "later")}
    assert len(tables) > 9
    assert tables <= set(settings_classes())
    assert len(known_keys()) > 100


@pytest.mark.parametrize("kind", settings_classes())
def test_every_field_is_documented_and_nothing_else(kind: Any) -> None:
    assert documented(kind).keys() == fields_of(kind).keys()


def test_a_field_without_a_word_is_seen() -> None:
    @dataclass(frozen=True)
    class Settings(Table):
        """Settings.

        Args:
            steps: Optimizer steps.
        """

        steps: int = 1
        rate: float = 1.0

    assert documented(Settings).keys() == {"steps"}
