"""Sweeps: one recipe at several points, each a label and a set of overrides, from grids by name or keys with values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from tagi.config.faults import shown
from tagi.config.methods import MARK
from tagi.config.recipes import load_recipe
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.settings.tables import SPLITS, STAGES

DEFAULT = "default"
"""Label of the point that is the recipe as it is."""


Loader = Callable[[str | Path, Sequence[str]], Recipe]
"""Loads a recipe by its name or path with overrides."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep: what it is called, what it changes, and which method is made of the recipe first."""

    label: str
    overrides: tuple[str, ...] = ()
    method: str | None = None

    def recipe(self, name_or_path: str | Path, overrides: Sequence[str] = (), load: Loader = load_recipe) -> Recipe:
        """The recipe at this point; `overrides` are those of all points."""
        of_method = name_or_path if self.method is None else f"{name_or_path}{MARK}{self.method}"
        return load(of_method, [*overrides, *self.overrides])


_UNITS = {"sni": "categories", "p3": "datasets"}

Axis = tuple[Point, ...]
"""Alternatives for one thing; a sweep varies one axis at a time, or all of them together."""


def grid_names() -> list[str]:
    """The shipped grids' names."""
    return list(_GRIDS)


def sweep_points(
    name_or_path: str | Path,
    *,
    grids: Sequence[str] = (),
    over: Sequence[str] = (),
    cross: bool = False,
    overrides: Sequence[str] = (),
    load: Loader = load_recipe,
) -> list[Point]:
    """The points of a sweep over a recipe with `overrides` applied, none of them twice; `load` checks each of them.

    `grids` are shipped ones by name; each of `over` is a key with its values, `losses.kl=0,0.5,1` (a comma inside
    brackets or quotes separates nothing). One axis is varied at a time, the others being as in the recipe; with
    `cross` every combination is a point. The point that changes nothing is labelled `default`.

    Raises `ConfigError` for an unknown grid, one that is not for this recipe, and with all faults of all points.
    """
    recipe = load(name_or_path, overrides)
    axes = [axis for name in grids for axis in _grid(name, recipe)] + [_axis(given) for given in over]
    if not axes:
        raise ConfigError(f"sweep: expected a grid ({', '.join(_GRIDS)}) or a key with values, got none")
    points = [_joined(chosen) for chosen in product(*axes)] if cross else [point for axis in axes for point in axis]
    return _distinct(name_or_path, recipe, points, overrides, load)


def _distinct(
    name_or_path: str | Path, recipe: Recipe, points: Sequence[Point], overrides: Sequence[str], load: Loader
) -> list[Point]:
    kept: dict[str, Point] = {}
    faults = []
    own = _effect(recipe)
    for point in points:
        try:
            effect = _effect(point.recipe(name_or_path, overrides, load))
        except ConfigError as fault:
            faults.append(f"{point.label}: {fault}")
            continue
        kept.setdefault(effect, Point(DEFAULT) if effect == own else point)
    if faults:
        raise ConfigError("; ".join(dict.fromkeys(faults)))
    return list(kept.values())


def _effect(recipe: Recipe) -> str:
    """What a recipe does, whichever of its tables says so."""
    stages = {stage: recipe.training_for(stage).model_dump() for stage in STAGES}
    return repr({**recipe.model_dump(), "training": stages})


def _joined(chosen: Sequence[Point]) -> Point:
    changing = [point for point in chosen if point.overrides]
    label = ", ".join(point.label for point in changing) or DEFAULT
    return Point(label, tuple(override for point in changing for override in point.overrides))


def _axis(given: str) -> Axis:
    key, equals, values = given.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ConfigError(f"sweep over {shown(given)}: expected KEY=VALUE,VALUE,... with a dotted key")
    return tuple(_setting(key.strip(), value.strip()) for value in _split(values))


def _split(values: str) -> Iterator[str]:
    """At commas outside brackets and quotes."""
    start, depth, quote = 0, 0, ""
    for at, character in enumerate(values):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield values[start:at]
            start = at + 1
    yield values[start:]


def _setting(key: str, value: Any, label: str = "") -> Point:
    override = f"{key}={value}"
    return Point(label or override, (override,))


def _settings(label: str, key: str, values: Sequence[Any]) -> Axis:
    """`label` has {} for the value."""
    return tuple(_setting(key, value, label.format(value)) for value in values)


def _grid(name: str, recipe: Recipe) -> list[Axis]:
    if name not in _GRIDS:
        near = get_close_matches(name, _GRIDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"grid: expected one of {', '.join(_GRIDS)}, got {name!r}{hint}")
    return _GRIDS[name](recipe)


def _table7(recipe: Recipe) -> list[Axis]:
    """Learning rate, rank, steps and warm-up of finetuning; alpha moves with the rank, so that its scale stays."""
    scale = recipe.generator.alpha / recipe.generator.rank
    return [
        _settings("learning rate {}", "training.finetune.learning_rate", ("5e-5", "1e-4", "3e-4", "1e-3")),
        tuple(
            Point(f"rank {rank}", (f"generator.rank={rank}", f"generator.alpha={float(scale * rank)}"))
            for rank in (16, 32, 64)
        ),
        _settings("{} steps", "training.finetune.steps", (15000, 20000, 25000)),
        _settings("warm-up {}", "training.finetune.warmup_ratio", (0.01, 0.02, 0.03)),
    ]


def _table4(recipe: Recipe) -> list[Axis]:
    """The whole and what is left without each part; instruction fusion in both readings of "w/o Instr. Fus."."""
    stages = ", ".join(f'"{stage}"' for stage in recipe.run.stages if stage != "pretrain")
    without = (
        ("without pretraining", f"run.stages=[{stages}]"),
        ("without attention in the encoder", "generator.fusion=concatenation"),
        ("without instruction fusion", "generator.fusion=none"),
        ("without L_pred", "losses.prediction=0.0"),
        ("without L_kl", "losses.kl=0.0"),
        ("without L_ins", "losses.ins=0.0"),
    )
    return [(Point(DEFAULT), *(Point(label, (override,)) for label, override in without))]


def _figure3(source: str) -> Callable[[Recipe], list[Axis]]:
    """Training tasks of the largest categories alone, the paper's four splits."""

    def axes(recipe: Recipe) -> list[Axis]:
        if recipe.data.source != source:
            raise ConfigError(f"grid figure3-{source}: expected data.source = {source!r}, got {recipe.data.source!r}")
        return [_settings(f"{{}} {_UNITS[source]}", "data.task_split", SPLITS[source])]

    return axes


def _figure4(recipe: Recipe) -> list[Axis]:
    """Alignment with no teacher, and with those of the largest categories; all tasks are trained on."""
    source = recipe.data.source
    if source not in SPLITS:
        raise ConfigError(f"grid figure4-alignment: expected data.source of {', '.join(SPLITS)}, got {source!r}")
    teaching: tuple[str, ...] = ()
    if not recipe.losses.ins:  # as the recipe for the largest backbone
        stages = [stage for stage in STAGES if stage in (*recipe.run.stages, "teachers")]
        teaching = ("losses.ins=1.0", f"run.stages=[{', '.join(map(_quoted, stages))}]")
    splits = (
        Point(f"L_ins on {size} {_UNITS[source]}", (*teaching, f"losses.alignment_split={size}"))
        for size in SPLITS[source]
    )
    return [(Point("without L_ins", ("losses.ins=0.0",)), *splits)]


def _quoted(text: str) -> str:
    return f'"{text}"'


_GRIDS: dict[str, Callable[[Recipe], list[Axis]]] = {
    "table4": _table4,
    "table7": _table7,
    "figure3-sni": _figure3("sni"),
    "figure3-p3": _figure3("p3"),
    "figure4-alignment": _figure4,
}
"""Name, as in the paper, to what it varies."""
