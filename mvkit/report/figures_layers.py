"""Scores along the layers of a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mvkit.errors import UsageError
from mvkit.report.figures_style import (
    GREY,
    FigureLabels,
    counted,
    error_bars,
    new_figure,
    own_look,
    panel_size,
    panels,
    shades,
)
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_layers(summary: pd.DataFrame, *, labels: FigureLabels | None = None) -> Figure:
    """Draw the median of every layer, in the order of the network, a panel per area.

    Parameters
    ----------
    summary
        ``Scores.summary()``: rows with ``layer``, ``area``, ``median``, ``n_units``, ``n_animals``, and
        ``low`` and ``high`` where there are intervals. Here ``"all"`` is one layer for every area.
    labels
        Dataset and coverage of the intervals.

    Returns
    -------
    Figure
        Per area one panel, whose first line has a point per layer with a score. The layer of the highest
        median is a filled point.

    Raises
    ------
    UsageError
        If there are no rows.
    """
    labels = labels or FigureLabels()
    if summary.empty:
        raise UsageError("nothing to draw: a summary without rows")
    layers = list(dict.fromkeys(summary["layer"].astype(str)))
    areas = list(dict.fromkeys(summary["area"].astype(str)))
    with own_look():
        width, height = panel_size(len(areas))
        longest = max(len(layer) for layer in layers)
        n_rows = round((height - 1.5) / 2.3)
        figure = new_figure(width, height + 0.07 * longest * n_rows)
        for axes, area in zip(panels(figure, len(areas)), areas, strict=True):
            _draw_area(axes, summary[summary["area"] == area], area, layers)
        bars = f"error bars: {labels.percent} intervals over animals and units"
        second = "filled: highest median of the area"
        title = labels.title("Predictivity of each layer", bars, second, width_in=width)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        figure.supylabel("median score over units", fontsize=9)
    return figure


def _draw_area(axes: Axes, rows: pd.DataFrame, area: str, layers: list[str]) -> None:
    places = {layer: place for place, layer in enumerate(layers)}
    known = [row for row in rows.to_dict(orient="records") if not math.isnan(row["median"])]
    colour = shades(1)[0]
    axes.axhline(0.0, color=GREY, linewidth=0.6)
    axes.plot(
        [places[str(row["layer"])] for row in known],
        [row["median"] for row in known],
        color=colour,
        marker="o",
        markersize=4.5,
        markerfacecolor="white",
        linewidth=1.3,
        zorder=3,
    )
    bars = [error_bars(row["median"], row.get("low", math.nan), row.get("high", math.nan)) for row in known]
    if any(above or below for below, above in bars):
        axes.errorbar(
            [places[str(row["layer"])] for row in known],
            [row["median"] for row in known],
            yerr=[[below for below, _ in bars], [above for _, above in bars]],
            fmt="none",
            ecolor=colour,
            elinewidth=1.0,
            capsize=2.0,
            zorder=2,
        )
    if known:
        best = max(known, key=lambda row: float(row["median"]))
        axes.plot([places[str(best["layer"])]], [best["median"]], "o", color=colour, markersize=5.5, zorder=4)
    else:
        axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", color=GREY)
    counts = [
        counted(int(rows[column].min()), int(rows[column].max()), noun)
        for column, noun in (("n_units", "unit"), ("n_animals", "animal"))
    ]
    axes.set_title(f"{'all areas' if area == ALL_AREAS else area}\n{', '.join(counts)}", fontsize=9)
    axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    axes.set_xlim(-0.5, len(layers) - 0.5)
