"""A ceiling by number of source units or images, continued beyond them."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.report.figures_style import (
    COLUMNS,
    GREY,
    INK,
    PALE,
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

    from mvkit.scoring.extrapolation import Extrapolation, FittedArea

#: Curves are drawn up to so many times the largest size.
BEYOND = 8.0
_N_POINTS = 60
_HEADROOM = 1.25
_TITLES = {"holdout": "all other animals pooled", "pairwise": "one other animal"}
_AXES = {"units": "source units", "stimuli": "images"}


def draw_extrapolation(extrapolation: Extrapolation, *, labels: FigureLabels | None = None) -> Figure:
    """Draw medians by size with intervals, and the two curves through them, a panel per area.

    Parameters
    ----------
    extrapolation
        What :func:`~mvkit.scoring.extrapolation.extrapolate_ceiling` found.
    labels
        Dataset; the coverage of the intervals is that of the extrapolation's settings.

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
    shown = [area.area for area in extrapolation.areas if not area.reason]
    if not shown:
        why = "; ".join(f"{area}: {reason}" for area, reason in extrapolation.skipped.items())
        raise UsageError(f"nothing to draw: no area has a ceiling ({why})")
    table, fits = extrapolation.table(), extrapolation.fits()
    given = labels or FigureLabels()
    labels = FigureLabels(given.dataset, given.simulated, extrapolation.settings.confidence)
    with own_look():
        width, height = panel_size(len(shown))
        figure = new_figure(width, height + 0.4)
        for number, (axes, area) in enumerate(zip(panels(figure, len(shown)), shown, strict=True)):
            fit = fits[(fits["area"] == area) & (fits["curve"] == "saturating")].to_dict(orient="records")[0]
            _draw_area(axes, table[table["area"] == area], extrapolation.fitted[area], fit, area)
            if number + COLUMNS >= len(shown):
                axes.set_xlabel(_AXES[extrapolation.over])
        # All panels share this axis: room for the text above every curve.
        axes.set_ylim(top=_HEADROOM * axes.get_ylim()[1])
        first = f"Consistency between animals, predicted from {_TITLES[extrapolation.settings.ceiling]}"
        second = f"error bars and bands: {labels.percent} intervals over animals and units"
        skipped = "; ".join(f"{area}: {why}" for area, why in extrapolation.skipped.items())
        third = f"left out: {skipped}" if skipped else ""
        figure.suptitle(labels.title(first, second, third, width_in=width), x=0.01, ha="left", fontsize=9.5)
        figure.supylabel("median score over units", fontsize=9)
        _legend(figure, n_columns=max(1, int(width / 1.9)))
    return figure


def _draw_area(axes: Axes, rows: pd.DataFrame, fitted: FittedArea, fit: dict[Any, Any], area: str) -> None:
    import numpy as np

    known = [row for row in rows.to_dict(orient="records") if not math.isnan(row["median"])]
    dark = shades(3)[0]
    if known:
        sizes = [row["size"] for row in known]
        bars = [error_bars(row["median"], row["low"], row["high"]) for row in known]
        axes.errorbar(
            sizes,
            [row["median"] for row in known],
            yerr=[[below for below, _ in bars], [above for _, above in bars]],
            fmt="o",
            color=dark,
            markersize=4,
            elinewidth=1.0,
            capsize=2.0,
            zorder=4,
        )
        within = np.geomspace(sizes[0], sizes[-1], _N_POINTS)
        beyond = np.geomspace(sizes[-1], BEYOND * sizes[-1], _N_POINTS)
        for curve, style in ((fitted.saturating, "-"), (fitted.log_linear, (0, (3, 2)))):
            if curve is not None:
                for grid, colour, width in ((within, dark, 1.4), (beyond, GREY, 1.0)):
                    values = [float(curve.at(size)[0]) for size in grid]
                    axes.plot(grid, values, color=colour, linestyle=style, linewidth=width, zorder=3)
        axes.set_xscale("log")
        axes.set_xlim(0.8 * sizes[0], BEYOND * sizes[-1])
    _draw_asymptote(axes, fit)
    counts = [
        counted(int(rows[column].max()), int(rows[column].max()), noun)
        for column, noun in (("n_units", "unit"), ("n_animals", "animal"))
    ]
    axes.set_title(f"{'all areas' if area == ALL_AREAS else area}\n{', '.join(counts)}", fontsize=9)


def _draw_asymptote(axes: Axes, fit: dict[Any, Any]) -> None:
    if fit["determined"]:
        axes.axhspan(fit["asymptote_low"], fit["asymptote_high"], color=PALE, zorder=0.5, linewidth=0)
        axes.axhline(fit["asymptote"], color=INK, linestyle=":", linewidth=1.2, zorder=2)
        text = f"asymptote {fit['asymptote']:.2f} [{fit['asymptote_low']:.2f}, {fit['asymptote_high']:.2f}]"
    else:
        text = textwrap.fill(str(fit["reason"]), 34)
    axes.text(0.97, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=7.5, zorder=5)


def _legend(figure: Figure, *, n_columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dark = shades(3)[0]
    figure.legend(
        handles=[
            Line2D([], [], color=dark, marker="o", linestyle="", markersize=4, label="measured"),
            Line2D([], [], color=dark, linewidth=1.4, label="saturating curve"),
            Line2D([], [], color=dark, linewidth=1.4, linestyle=(0, (3, 2)), label="log-linear curve"),
            Line2D([], [], color=GREY, linewidth=1.0, label="extrapolated"),
            Patch(color=PALE, label="asymptote with interval"),
        ],
        loc="outside lower center",
        ncols=n_columns,
        frameon=False,
        fontsize=8,
    )
