"""Figure of extrapolated ceilings: medians by number of units or images, and the curves through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mvkit.errors import UsageError
from mvkit.report.figures.style import (
    FEWEST_ANIMALS,
    GREY,
    INK,
    PALE,
    PALETTE,
    SMALL,
    FigureStyle,
    count_range,
    figure_of,
    label_panel,
    new_figure,
    own_look,
    panels,
    title_with,
    wrap,
)
from mvkit.report.tables import area_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring.extrapolation import Extrapolation, FittedArea

#: Curves are drawn up to so many times the largest size.
BEYOND = 8.0
_N_POINTS = 60
_HEADROOM = 1.3
_SOURCES = {"holdout": "all other animals pooled", "pairwise": "one other animal"}
_SIZES = {"units": "source units", "stimuli": "images"}
_PANEL_IN = 1.3
_COLOUR = PALETTE[0]


def draw_extrapolation(
    extrapolation: Extrapolation, *, dataset: str = "", style: FigureStyle | None = None
) -> Figure:
    """Draw medians by size with intervals, and the two curves through them, a panel per area.

    Parameters
    ----------
    extrapolation
        Ceilings by number of units or images.
    dataset
        Name of the recordings.
    style
        Width and titles.

    Returns
    -------
    Figure
        Per area one panel: points with error bars, the saturating curve (solid), the log-linear one
        (dashed), both pale beyond the largest size, and the asymptote with its band where the data determine
        it; else the panel says that they do not.

    Raises
    ------
    UsageError
        If no area has a size.
    """
    style = style or FigureStyle()
    shown = [area.area for area in extrapolation.areas if not area.reason]
    if not shown:
        why = "; ".join(f"{area}: {reason}" for area, reason in extrapolation.skipped.items())
        raise UsageError(f"nothing to draw: no area has a ceiling ({why})")
    table, fits = extrapolation.table(), extrapolation.fits()
    percent = f"{100 * extrapolation.settings.confidence:g}\N{NO-BREAK SPACE}%"
    source = _SOURCES[extrapolation.settings.ceiling]
    skipped = "; ".join(f"{area}: {why}" for area, why in extrapolation.skipped.items())
    note = f"Error bars and bands: {percent} intervals over animals and units"
    few = [area for area in shown if _animals(table, area) < FEWEST_ANIMALS]
    if few:
        note += f"; no error bars with fewer than {FEWEST_ANIMALS} animals: {', '.join(map(area_name, few))}"
    with own_look():
        width = style.width(1 if len(shown) == 1 else 2)
        n_columns = max(1, min(3, len(shown), int(width / 2.0)))
        figure = new_figure(
            width,
            -(-len(shown) // n_columns) * (_PANEL_IN + 0.35) + 0.4,
            title=title_with(f"Consistency between animals, predicted from {source},", dataset, "in").rstrip(
                ","
            ),
            x_label=_SIZES[extrapolation.over],
            y_label="noise-corrected correlation (median)",
            note=note + (f"; left out: {skipped}" if skipped else ""),
            handles=_handles(),
            style=style,
        )
        for axes, area in zip(panels(figure, len(shown), n_columns, sharey=True), shown, strict=True):
            fit = fits[(fits["area"] == area) & (fits["curve"] == "saturating")].to_dict(orient="records")[0]
            _draw_area(axes, table[table["area"] == area], extrapolation.fitted[area], fit, area)
            _write_asymptote(axes, fit, width / n_columns - 0.5)
        # All panels share this axis: room for the text above every curve.
        axes.set_ylim(top=_HEADROOM * axes.get_ylim()[1])
    return figure


def _animals(table: pd.DataFrame, area: str) -> int:
    return int(table[table["area"] == area]["n_animals"].max())


def _draw_area(axes: Axes, rows: pd.DataFrame, fitted: FittedArea, fit: dict[Any, Any], area: str) -> None:
    from matplotlib.ticker import FuncFormatter

    known = [row for row in rows.to_dict(orient="records") if not math.isnan(row["median"])]
    if known:
        sizes = [row["size"] for row in known]
        _draw_medians(axes, sizes, known)
        within = np.geomspace(sizes[0], sizes[-1], _N_POINTS)
        beyond = np.geomspace(sizes[-1], BEYOND * sizes[-1], _N_POINTS)
        for curve, line in ((fitted.saturating, "-"), (fitted.log_linear, (0, (3, 2)))):
            if curve is not None:
                for grid, colour, width in ((within, _COLOUR, 1.1), (beyond, GREY, 0.8)):
                    values = [float(curve.at(size)[0]) for size in grid]
                    axes.plot(
                        grid, values, color=colour, linestyle=line, linewidth=width, zorder=3, gid="curve"
                    )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axes.set_xlim(0.8 * sizes[0], BEYOND * sizes[-1])
    if fit["determined"]:
        axes.axhspan(fit["asymptote_low"], fit["asymptote_high"], color=PALE, zorder=0.5, linewidth=0)
        axes.axhline(fit["asymptote"], color=INK, linestyle=":", linewidth=1.0, zorder=2, gid="asymptote")
    # Every size has all units of the targets.
    largest = max(rows.to_dict(orient="records"), key=lambda row: int(row["n_units"]))
    counts = (count_range([largest["n_units"]], "unit"), count_range([largest["n_animals"]], "animal"))
    label_panel(axes, area_name(area), ", ".join(counts))


def _draw_medians(axes: Axes, sizes: Sequence[float], rows: Sequence[dict[Any, Any]]) -> None:
    """Draw medians with their intervals; bars of no length where there is no interval."""
    lengths = []
    for row in rows:
        has_interval = row["n_animals"] >= FEWEST_ANIMALS and not (
            math.isnan(row["low"]) or math.isnan(row["high"])
        )
        below, above = row["median"] - row["low"], row["high"] - row["median"]
        lengths.append((max(below, 0.0), max(above, 0.0)) if has_interval else (0.0, 0.0))
    axes.errorbar(
        sizes,
        [row["median"] for row in rows],
        yerr=[[below for below, _ in lengths], [above for _, above in lengths]],
        fmt="o",
        color=_COLOUR,
        markersize=3,
        elinewidth=0.8,
        capsize=1.5,
        zorder=4,
    )


def _write_asymptote(axes: Axes, fit: dict[Any, Any], room_in: float) -> None:
    if fit["determined"]:
        text = f"asymptote {fit['asymptote']:.2f} [{fit['asymptote_low']:.2f}, {fit['asymptote_high']:.2f}]"
    else:
        text = "\n".join(wrap(figure_of(axes), str(fit["reason"]), room_in, SMALL))
    axes.text(0.97, 0.99, text, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, zorder=5)


def _handles() -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], color=_COLOUR, marker="o", linestyle="", markersize=3, label="measured"),
        Line2D([], [], color=_COLOUR, linewidth=1.1, label="saturating curve"),
        Line2D([], [], color=_COLOUR, linewidth=1.1, linestyle=(0, (3, 2)), label="log-linear curve"),
        Line2D([], [], color=GREY, linewidth=0.8, label="extrapolated"),
        Patch(color=PALE, label="asymptote with interval"),
    ]
