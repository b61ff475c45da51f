"""Sweeps: one recipe at several points, each a label and a set of overrides, from grids by name or keys with values."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tagi.config.faults import did_you_mean
from tagi.config.methods import MARK
from tagi.config.recipes import load_recipe
from tagi.errors import ConfigError
from tagi.settings.faults import shown
from tagi.settings.recipe import Recipe
from tagi.settings.stages import STAGES, Stage
from tagi.settings.tables import SPLITS

DEFAULT = "default"
"""Label of the point that is the recipe as it is."""


Loader = Callable[[str | Path, Sequence[str]], Recipe]
"""Loads a recipe by its name or path with overrides."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep.

    Args:
        label: Name of the point in tables.
        overrides: What it changes in the recipe.
        method: The method that is made of the recipe first.
    """

    label: str
    overrides: tuple[str, ...] = ()
    method: str | None = None

    def recipe(self, name_or_path: str | Path, overrides: Sequence[str] = (), load: Loader = load_recipe) -> Recipe:
        """Return the recipe at this point, with the overrides of all points applied before its own."""
        of_method = name_or_path if self.method is None else f"{name_or_path}{MARK}{self.method}"
        return load(of_method, [*overrides, *self.overrides])


Axis = tuple[Point, ...]
"""Alternatives for one thing; a sweep varies one axis at a time, or all of them together."""


def sweep_points(
    name_or_path: str | Path,
    *,
    grids: Sequence[str] = (),
    over: Sequence[str] = (),
    cross: bool = False,
    overrides: Sequence[str] = (),
    load: Loader = load_recipe,
) -> list[Point]:
    """Return the points of a sweep over a recipe, none of them twice.

    Args:
        name_or_path: The recipe.
        grids: Names of shipped grids.
        over: Keys with their values, `losses.kl=0,0.5,1`. A comma inside brackets or quotes separates nothing.
        cross: Combine the values of all axes. Otherwise one axis is varied at a time.
        overrides: Overrides of the recipe that hold for all points.
        load: Loads and checks the recipe at each point.

    Returns:
        The points. One that changes nothing is labelled `default`.

    Raises `ConfigError` for an unknown grid, a grid that is not for this recipe, and with all faults of all points.
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
    key = key.strip()
    return _settings(key, [value.strip() for value in _split(values)], f"{key}={{}}")


def _split(values: str) -> Iterator[str]:
    """Split at commas outside brackets and quotes."""
    start, depth, quote = 0, 0, ""
    for at, character in enumerate(values):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[]{}":
            depth += 1 if character in "[{" else -1
        elif character == "," and depth == 0:
            yield values[start:at]
            start = at + 1
    yield values[start:]


def _settings(key: str, values: Sequence[Any], label: str) -> Axis:
    """Return a point for each value of a key. `label` has {} for the value."""
    return tuple(Point(label.format(value), (f"{key}={value}",)) for value in values)


def _grid(name: str, recipe: Recipe) -> list[Axis]:
    if name not in _GRIDS:
        names = list(_GRIDS)
        raise ConfigError(f"grid: expected one of {', '.join(names)}, got {name!r}{did_you_mean(name, names)}")
    return _GRIDS[name](recipe)


def _table7(recipe: Recipe) -> list[Axis]:
    """Learning rate, rank, steps and warm-up of the recipe's last stage: of finetuning for TAGI, of meta-training for
    Tk-Instruct. Alpha changes with the rank, so that the scale stays. Without a LoRA there is no rank to vary.
    """
    stage = recipe.run.stages[-1]
    _trains("table7", recipe, *STAGES)
    axes = [
        _settings(f"training.{stage}.learning_rate", ("5e-5", "1e-4", "3e-4", "1e-3"), "learning rate {}"),
        _ranks(recipe, stage),
        _settings(f"training.{stage}.steps", (15000, 20000, 25000), "{} steps"),
        _settings(f"training.{stage}.warmup_ratio", (0.01, 0.02, 0.03), "warm-up {}"),
    ]
    return [axis for axis in axes if axis]


def _ranks(recipe: Recipe, stage: Stage) -> Axis:
    """Return a point for each rank of the LoRA that a stage trains or generates; none without a LoRA."""
    generator, own = recipe.generator, recipe.metatrain
    table, scale = "generator", generator.alpha / generator.rank
    if stage == "metatrain" and (own.rank or own.alpha or generator.shared_rank):
        table = "metatrain"
        scale = own.alpha / (own.rank or generator.shared_rank or generator.rank) if own.alpha else scale
    tunes = {"metatrain": own.tune == "lora", "single": recipe.single.tune == "lora", "backbone": False}
    if not tunes.get(stage, generator.module == "lora"):
        return ()
    return tuple(
        Point(f"rank {rank}", (f"{table}.rank={rank}", f"{table}.alpha={scale * rank}")) for rank in (16, 32, 64)
    )


def _trains(grid: str, recipe: Recipe, *stages: Stage) -> None:
    """Raise `ConfigError` if the recipe trains none of these stages: all points would be the same run."""
    untrained = recipe.metatrain.tune == "none"
    trained = [stage for stage in recipe.run.stages if stage != "metatrain" or not untrained]
    if not set(stages) & set(trained):
        got = ", ".join(recipe.run.stages) + (" with metatrain.tune = 'none'" if untrained else "")
        wanted = "anything" if stages == STAGES else " or ".join(map(repr, stages))
        raise ConfigError(f"grid {grid}: expected a recipe that trains {wanted}, got run.stages = {got}")


def _table4(recipe: Recipe) -> list[Axis]:
    """The whole method, and without each part. "w/o Instr. Fus." is read in both possible ways."""
    _trains("table4", recipe, "finetune")
    stages = [stage for stage in recipe.run.stages if stage != "pretrain"]
    without = {
        "pretraining": f"run.stages={json.dumps(stages)}",
        "attention in the encoder": "generator.fusion=concatenation",
        "instruction fusion": "generator.fusion=none",
        "L_pred": "losses.prediction=0.0",
        "L_kl": "losses.kl=0.0",
        "L_ins": "losses.ins=0.0",
    }
    return [(Point(DEFAULT), *(Point(f"without {part}", (override,)) for part, override in without.items()))]


def _figure3(source: str, recipe: Recipe) -> list[Axis]:
    """Training tasks of the largest categories alone, the paper's four splits."""
    if recipe.data.source != source:
        raise ConfigError(f"grid figure3-{source}: expected data.source = {source!r}, got {recipe.data.source!r}")
    _trains(f"figure3-{source}", recipe, "metatrain", "teachers", "finetune")
    return [_settings("data.task_split", SPLITS[source], f"{{}} {_UNITS[source]}")]


def _figure4(recipe: Recipe) -> list[Axis]:
    """Alignment with no teacher, and with those of the largest categories; all tasks are trained on."""
    source = recipe.data.source
    if source not in SPLITS:
        raise ConfigError(f"grid figure4-alignment: expected data.source of {', '.join(SPLITS)}, got {source!r}")
    _trains("figure4-alignment", recipe, "finetune")
    teaching: tuple[str, ...] = ()
    if not recipe.losses.ins:  # as in the recipe for the largest backbone
        stages = [stage for stage in STAGES if stage in (*recipe.run.stages, "teachers")]
        teaching = ("losses.ins=1.0", f"run.stages={json.dumps(stages)}")
    splits = (
        Point(f"L_ins on {size} {_UNITS[source]}", (*teaching, f"losses.alignment_split={size}"))
        for size in SPLITS[source]
    )
    return [(Point("without L_ins", ("losses.ins=0.0",)), *splits)]


_UNITS = {"sni": "categories", "p3": "datasets"}
_GRIDS: dict[str, Callable[[Recipe], list[Axis]]] = {
    "table4": _table4,
    "table7": _table7,
    "figure3-sni": partial(_figure3, "sni"),
    "figure3-p3": partial(_figure3, "p3"),
    "figure4-alignment": _figure4,
}
"""Name, as in the paper, to what it varies."""
