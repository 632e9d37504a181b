"""Figure of a comparison: the difference of every pair of models, by area."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring.comparison import Comparison, PairDifference

INK, GREY = "#222222", "#767676"
#: Panels beside one another.
_COLUMNS = 4
_LOOK: Any = {
    "font.size": 7.0,
    "axes.titlesize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.usetex": False,
    "pdf.fonttype": 42,
}


def draw_differences(comparison: Comparison, *, width_in: float = 7.2) -> Figure:
    """Draw the difference of every pair of models with its interval, a panel per area.

    Parameters
    ----------
    comparison
        From :func:`mvkit.compare_models`.
    width_in
        Width in inches.

    Returns
    -------
    Figure
        A row per pair, "first - second"; a filled point where the difference is resolved (corrected for the
        number of pairs), an open one where it is not.

    Raises
    ------
    UsageError
        If there is no pair.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    areas = list(dict.fromkeys(pair.area for pair in comparison.pairs))
    if not areas:
        raise UsageError("nothing to draw: no pair of models")
    names = list(dict.fromkeys((pair.first, pair.second) for pair in comparison.pairs))
    n_columns = min(len(areas), _COLUMNS)
    n_rows = -(-len(areas) // n_columns)
    height_in = 0.7 + n_rows * (0.55 + 0.3 * len(names))
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.ravel())
        for axes in panels[len(areas) :]:
            axes.set_visible(False)
        for number, (axes, area) in enumerate(zip(panels, areas, strict=False)):
            # The lowest of every column, also where the last row is not full.
            axes.tick_params(labelbottom=number + n_columns >= len(areas))
            _draw_area(axes, [pair for pair in comparison.pairs if pair.area == area], names)
            axes.set_title("all areas" if area == ALL_AREAS else area, loc="left")
        panels[0].set_yticks(range(len(names)), [f"{first}\nminus {second}" for first, second in names])
        panels[0].invert_yaxis()
        percent = f"{100 * comparison.confidence:g}%"
        figure.supxlabel(
            f"median over units of the difference of their scores; {percent} intervals over animals and\n"
            "units; filled: resolved by these data",
            fontsize=7,
        )
    return figure


def _draw_area(axes: Axes, pairs: list[PairDifference], names: list[tuple[str, str]]) -> None:
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    for pair in pairs:
        if math.isnan(pair.difference):
            continue
        position = names.index((pair.first, pair.second))
        if not math.isnan(pair.low):
            axes.plot([pair.low, pair.high], [position] * 2, color=INK, linewidth=1.2)
        face = INK if pair.resolved else "white"
        axes.plot([pair.difference], [position], "o", color=INK, markerfacecolor=face, markersize=4.5)
