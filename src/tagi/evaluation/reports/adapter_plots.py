"""Plots of adapters. They need matplotlib (extra `plots`)."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tagi.errors import InputError
from tagi.evaluation.adapter_distances import plane
from tagi.evaluation.scoring.statistics import FloatArray, group_by

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
"""Distinct for colour-blind readers (Okabe and Ito's, without yellow)."""
_MARKS = ("o", "s", "^", "D", "v", "X", "P", "<", ">", "p")
_NAMES_IN_A_COLUMN = 24
_DPI = 130


def needs_matplotlib(what: str) -> None:
    """Raise `InputError` unless matplotlib, which `what` needs, is installed."""
    if find_spec("matplotlib") is None:
        raise InputError(f"{what}: expected matplotlib, which is not installed: pip install 'tagi-adapters[plots]'")


def draw_adapters(path: Path, distances: FloatArray, categories: Sequence[str]) -> None:
    """Write a PNG: the distances between tasks' updates, ordered by category, and the tasks as points in a plane."""
    figure = adapters_figure(distances, categories)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})  # keep long names whole


def adapters_figure(distances: FloatArray, categories: Sequence[str]) -> Any:
    """Return the plot of `draw_adapters` as a matplotlib `Figure`."""
    from matplotlib.figure import Figure

    order = sorted(range(len(categories)), key=lambda index: categories[index])
    names = sorted(set(categories))
    longest = max(len(name) for name in names)
    columns = -(-len(names) // _NAMES_IN_A_COLUMN)
    figure = Figure(figsize=(10.5 + 0.07 * longest * (1 + columns), 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_matrix(figure, left, distances[np.ix_(order, order)], [categories[index] for index in order])
    _draw_plane(right, distances, categories, names)
    size = _text_size(len(names))
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", ncols=columns, fontsize=size)
    return figure


def _draw_matrix(figure: Any, axis: Any, ordered: FloatArray, categories: Sequence[str]) -> None:
    """Draw the distance matrix, with a labelled frame around every category."""
    shown = axis.imshow(ordered, cmap="cividis", interpolation="nearest", vmin=0, vmax=ordered.max() or 1)
    blocks = group_by(range(len(categories)), lambda index: categories[index])
    for own in blocks.values():
        low, high = own[0] - 0.5, own[-1] + 0.5
        axis.plot([low, high, high, low, low], [low, low, high, high, low], color="white", linewidth=1.4)
    size, centres = _text_size(len(blocks)), [fmean(own) for own in blocks.values()]
    places = spread(centres, gap=0.0036 * size * len(categories), low=-0.5, high=len(categories) - 0.5)
    axis.set_yticks(places, list(blocks), fontsize=size)
    axis.set_xticks([])
    axis.tick_params(length=0)
    told = "distance of two tasks' generated updates\n(0: the same; about 1.41: nothing in common)"
    axis.set_title(told, fontsize=10)
    figure.colorbar(shown, ax=axis, shrink=0.9)


def _draw_plane(axis: Any, distances: FloatArray, categories: Sequence[str], names: Sequence[str]) -> None:
    """Draw one point per task, with colour and marker by category."""
    points, shares = plane(distances)
    for number, name in enumerate(names):
        own = points[[index for index, category in enumerate(categories) if category == name]]
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        style = {"color": colour, "marker": mark, "edgecolors": "white", "linewidths": 0.4}
        axis.scatter(own[:, 0], own[:, 1], s=60 if len(points) < 50 else 35, label=name, **style)
    first, second = (f"{100 * share:.0f}%" for share in shares)
    axis.set(xlabel=f"first component, {first} of the variance", ylabel=f"second component, {second}", box_aspect=1)
    axis.set_aspect("equal", adjustable="datalim")
    axis.grid(alpha=0.25)
    axis.set_title("the tasks' updates in a plane, a point each", fontsize=10)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted positions apart, so that they are at least `gap` apart and between `low` and `high`.

    If there is not enough room, they are spread evenly.
    """
    gap = min(gap, (high - low) / len(places))
    moved: list[float] = []
    for number, place in enumerate(places):
        first = low + gap / 2 + number * gap
        last = high - gap / 2 - (len(places) - 1 - number) * gap
        before = moved[-1] + gap if moved else first
        moved.append(min(max(place, before), last))
    return moved


def _text_size(names: int) -> int:
    return 9 if names <= _NAMES_IN_A_COLUMN else 5
