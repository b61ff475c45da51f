"""Curves as inline SVG from matplotlib."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tagi.evaluation.reports.ablations import Curve
from tagi.evaluation.reports.training import LossLine
from tagi.evaluation.scoring.statistics import group_by

_WIDTH, _HEIGHT, _LEGEND_LINE = 5.2, 2.9, 0.19
"""Inches; the legend stands below the axes and takes room of its own."""
_MAX_NAMED = 20
"""Names in a legend, as many as there are colours: of more lines the description tells."""
_FEW = 10
_DECADE = 10
_STYLE = Path(__file__).with_suffix(".mplstyle")


@dataclass(frozen=True)
class Chart:
    """An image as a `data:` URL, with title and description."""

    title: str
    alt: str
    address: str


def have_charts() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_curve(curve: Curve) -> Chart:
    """Draw scores as a function of a number, with their intervals."""
    figure, axes = _figure()
    for name, points in curve.lines.items():
        (line,) = axes.plot([x for x, _ in points], [score.value for _, score in points], marker="o", label=name)
        for x, interval in ((x, score.interval) for x, score in points if score.interval is not None):
            axes.plot([x, x], list(interval), color=line.get_color(), alpha=0.5, linewidth=1.5)
    places = sorted({x for points in curve.lines.values() for x, _ in points})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set(xlabel=curve.axis, ylabel=f"{curve.metric}, %")
    told = "; ".join(
        f"{name}: " + ", ".join(f"{score.value:.1f} at {x:g}" for x, score in points)
        for name, points in curve.lines.items()
    )
    return _chart(figure, axes, curve.title, f"{curve.title}. {told}", named=len(curve.lines))


def draw_losses(title: str, lines: Sequence[LossLine]) -> Chart:
    """Draw losses by step, on a logarithmic axis if they span several decades. Seeds of one setting share a colour."""
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter

    by_name = group_by(lines, lambda line: line.name)
    colours = colormaps["tab10" if len(by_name) <= _FEW else "tab20"].colors  # type: ignore[attr-defined]
    figure, axes = _figure()
    for at, (name, own) in enumerate(by_name.items()):
        seeds = f" ({len(own)} runs)" if len(own) > 1 else ""
        for line in own:
            label = f"{name}{seeds}" if line is own[0] else None
            axes.plot(*zip(*line.points, strict=True), color=colours[at % len(colours)], label=label, linewidth=1.3)
    losses = [loss for line in lines for _, loss in line.points]
    if min(losses) > 0 and max(losses) > _DECADE * min(losses):
        axes.set_yscale("log", subs=range(2, 10))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="step", ylabel="loss")
    told = "; ".join(
        f"{line.name}, seed {line.seed}: {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines
    )
    return _chart(figure, axes, title, f"{title}. {told}", named=len(by_name))


def _figure() -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(fname=_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        return figure, figure.add_subplot()


def _chart(figure: Any, axes: Any, title: str, alt: str, named: int) -> Chart:
    from matplotlib import rc_context

    with rc_context(fname=_STYLE):
        if 1 < named <= _MAX_NAMED:
            figure.set_size_inches(_WIDTH, _HEIGHT + named * _LEGEND_LINE)
            figure.legend(loc="outside lower left", fontsize=9)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return Chart(title, alt, f"data:image/svg+xml;base64,{encoded}")
