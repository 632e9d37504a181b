"""Figures of split-half reliabilities: over time bins, and histograms with the threshold of a selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.neural.dataset import area_sort_key
from mvkit.neural.reliability import MEASURING_COMMAND
from mvkit.neural.selection import (
    SelectionSettings,
    UnitFacts,
    best_reliability,
    reliability_threshold,
    resolve_selection,
)
from mvkit.report.figures.style import (
    GREY,
    INK,
    PALE,
    SMALL,
    FigureStyle,
    area_look,
    count_range,
    label_panel,
    new_figure,
    own_look,
    panels,
    title_with,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_IN = 1.1
#: Edges of the bars; less reliable units stand in the first.
EDGES = np.linspace(-0.2, 1.0, 25)


def draw_reliability(
    units: UnitFacts,
    *,
    dataset: str = "",
    selection: str | SelectionSettings = "code",
    fraction: bool = False,
    style: FigureStyle | None = None,
) -> Figure:
    """Draw the median split-half reliability of every area over time bins.

    Parameters
    ----------
    units
        Areas, reliabilities and time bins, see :func:`mvkit.neural.open.read_unit_facts`.
    dataset
        Name of the recordings.
    selection
        The median is over the units that reach its threshold in their best time bin; ``"none"``: over all.
    fraction
        Whether each area's curve is divided by its maximum.
    style
        Width and titles.

    Returns
    -------
    Figure
        A line per area; its x axis is in milliseconds after the onset of the image.

    Raises
    ------
    DataError
        If the recordings have no time bins or no reliabilities, or no unit reaches the threshold.
    """
    style = style or FigureStyle()
    name, settings = resolve_selection(selection)
    if units.time_s is None:
        raise DataError(
            "reliability over time: these responses are averaged over time; "
            "draw their histogram: mvkit plot histogram DATASET"
        )
    curves = _curves(units, settings)
    if not curves:
        raise DataError("reliability over time: no unit reaches the threshold; take all: selection 'none'")
    time_ms = 1000 * units.time_s
    threshold = reliability_threshold(units, settings)
    which = (
        "all units" if threshold is None else f"units of reliability {threshold:g} or more in their best bin"
    )
    notes = [f"Median over {which} (selection {name}); Spearman-Brown corrected"]
    with own_look():
        from matplotlib.lines import Line2D

        handles: list[Any] = [
            Line2D(
                [],
                [],
                color=area_look(area).colour,
                linewidth=1.3,
                label=f"{area} ({count_range([n], 'unit')})",
            )
            for area, (_, n) in curves.items()
        ]
        least = settings.min_median_reliability
        if least is not None and not fraction:
            notes.append(f"dotted: bins of at least {least:g} are averaged, per animal")
        figure = new_figure(
            style.width(1),
            2.2,
            title=title_with("Reliability over time", dataset, "in"),
            note="; ".join(notes),
            handles=handles,
            style=style,
        )
        axes = figure.subplots()
        axes.axhline(0.0, color=GREY, linewidth=0.5)
        for area, (curve, _) in curves.items():
            shown = curve / np.nanmax(curve) if fraction else curve
            axes.plot(time_ms, shown, color=area_look(area).colour, linewidth=1.3, gid=area)
        if least is not None and not fraction:
            axes.axhline(least, color=INK, linewidth=0.7, linestyle=":", gid="threshold")
        axes.set_xlabel("time after onset of the image (ms)")
        axes.set_ylabel(
            "reliability, fraction of its maximum" if fraction else "split-half reliability (median)"
        )
        axes.set_xlim(float(time_ms[0]), float(time_ms[-1]))
        axes.set_ylim(top=1.05 if fraction else None)
    return figure


def _curves(units: UnitFacts, settings: SelectionSettings) -> dict[str, tuple[NDArray[np.float64], int]]:
    """Return area -> median per time bin (NaN: none), and number of units."""
    best = best_reliability(units)
    reliability = units.reliability
    if reliability is None:
        return {}
    threshold = reliability_threshold(units, settings)
    reliable = np.isfinite(best) if threshold is None else best >= threshold
    curves = {}
    for area in sorted({str(area) for area in units.areas}, key=area_sort_key):
        own = reliability[:, reliable & (units.areas == area)]
        if own.shape[1]:
            median = np.full(len(own), np.nan)
            defined = ~np.isnan(own).all(axis=1)
            median[defined] = np.nanmedian(own[defined], axis=1)
            curves[area] = (median, own.shape[1])
    return curves


def draw_reliability_histogram(
    units: UnitFacts,
    *,
    dataset: str = "",
    selection: str | SelectionSettings = "code",
    style: FigureStyle | None = None,
) -> Figure:
    """Draw how many units have which split-half reliability, a panel per area, with a selection's threshold.

    Parameters
    ----------
    units
        Areas and reliabilities, see :func:`mvkit.neural.open.read_unit_facts`.
    dataset
        Name of the recordings.
    selection
        Its threshold is drawn.
    style
        Width and titles.

    Returns
    -------
    Figure
        Per area one panel of bars; units below -0.2 are counted in the first bar. Of each unit the
        reliability in its best time bin counts.

    Raises
    ------
    DataError
        If the recordings have no reliabilities.
    """
    style = style or FigureStyle()
    name, settings = resolve_selection(selection)
    if units.reliability is None:
        raise DataError(f"{dataset or 'the recordings'}: no reliabilities; measure them: {MEASURING_COMMAND}")
    best = best_reliability(units)
    threshold = reliability_threshold(units, settings)
    areas = sorted({str(area) for area in units.areas}, key=area_sort_key)
    notes = [
        "Spearman-Brown corrected" + ("" if units.time_s is None else "; of each unit in its best time bin")
    ]
    if threshold is not None:
        notes.append(f"dashed: threshold of selection {name} ({threshold:g})")
    undefined = int((~np.isfinite(best)).sum())
    if undefined:
        notes.append(f"{undefined} units without a reliability are left out")
    with own_look():
        n_columns = min(3, len(areas))
        width = style.width(1 if len(areas) == 1 else 2)
        n_columns = max(1, min(n_columns, int(width / 1.6)))
        figure = new_figure(
            width,
            -(-len(areas) // n_columns) * (_PANEL_IN + 0.35) + 0.35,
            title=title_with("Split-half reliability of units", dataset, "in"),
            x_label="split-half reliability",
            y_label="units",
            note="; ".join(notes),
            style=style,
        )
        for axes, area in zip(panels(figure, len(areas), n_columns, sharex=True), areas, strict=True):
            values = best[(units.areas == area) & np.isfinite(best)]
            counts, _ = np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)
            middles = 0.5 * (EDGES[:-1] + EDGES[1:])
            colour = area_look(area).colour
            passing = np.ones(len(middles), bool) if threshold is None else middles >= threshold
            bars = axes.bar(
                middles, counts, width=np.diff(EDGES), color=PALE, edgecolor="white", linewidth=0.4
            )
            for bar, passes in zip(bars, passing, strict=True):
                if passes:
                    bar.set_facecolor(colour)
            words = count_range([len(values)], "unit")
            if threshold is not None:
                reached = int((values >= threshold).sum())
                words = f"{reached:,} of {words} at {threshold:g} or more"
                axes.axvline(threshold, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), gid="threshold")
            label_panel(axes, area, words)
            axes.set_xlim(EDGES[0], EDGES[-1])
            axes.tick_params(labelsize=SMALL)
    return figure
