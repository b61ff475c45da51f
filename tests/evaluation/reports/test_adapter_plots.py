"""The picture of the adapters is drawn for few and for many categories; without matplotlib the user is told."""

import string
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tagi.errors import InputError
from tagi.evaluation.reports.adapter_plots import adapters_figure, draw_adapters, needs_matplotlib, spread
from tagi.evaluation.scoring.statistics import FloatArray

NAMES = ["aabbcc", string.ascii_letters * 3, "a"]


def named(names: str) -> tuple[FloatArray, list[str]]:
    points = np.random.default_rng(1).normal(size=(len(names), 4))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return distances, [f"one long category of tasks named {name}" for name in names]


@pytest.mark.parametrize("names", NAMES)
def test_a_picture_holds_both_panels(tmp_path: Path, names: str) -> None:
    from matplotlib.image import imread

    path = tmp_path / "new" / "adapters.png"
    draw_adapters(path, *named(names))
    image = imread(path)[..., :3]
    height, width, _ = image.shape
    assert width > 1.5 * height > 600
    for half in (image[:, : width // 2], image[:, width // 2 :]):
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 20
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):  # nothing is cut off
        assert (edge == 1).all()


@pytest.mark.parametrize("names", NAMES)
def test_the_panels_and_the_names_keep_apart(names: str) -> None:
    figure = adapters_figure(*named(names))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    parts = [legend.get_window_extent(), *(axis.get_tightbbox() for axis in figure.axes)]
    assert len(parts) == 4  # names, matrix, plane, scale of colours
    for one, other in combinations(parts, 2):
        assert not one.overlaps(other)


def test_the_same_picture_has_the_same_bytes(tmp_path: Path) -> None:
    distances = np.array([[0, 1, 2], [1, 0, 1.5], [2, 1.5, 0]])
    for name in ("one.png", "two.png"):
        draw_adapters(tmp_path / name, distances, ["x", "y", "x"])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_matplotlib("here")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"out/adapters.png: .* pip install 'tagi-adapters\[plots\]'"):
        needs_matplotlib("out/adapters.png")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([1.0, 5.0, 9.0], [1, 5, 9]),
        ([5.0, 5.0, 5.5], [5, 7, 9]),
        ([8.0, 9.0, 9.5], [5, 7, 9]),
        ([0.0, 0.2, 6.0], [1, 3, 6]),
        ([1.0] * 8, [0.625 + 1.25 * at for at in range(8)]),
    ],
)
def test_names_keep_apart_and_inside(places: list[float], expected: list[float]) -> None:
    assert spread(places, gap=2.0, low=0.0, high=10.0) == pytest.approx(expected)
