"""Bars of models by area, beside the ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.report.figures_style import (
    GREY,
    INK,
    PALE,
    TITLE_LETTER_IN,
    FigureLabels,
    counted,
    error_bars,
    new_figure,
    own_look,
    shades,
)
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How the layer was chosen -> the line that says so.
CHOICES = {
    "paper": "best layer of each area, chosen on the test images it is scored on (paper)",
    "held-out": "layer of each area chosen on half of the image splits, scored on the others (held-out)",
}
#: Share of an area's width that its bars take together.
_GROUP = 0.8
_CEILING = "ceiling: other animals"


def draw_scores(
    choices: Mapping[str, pd.DataFrame],
    ceiling: pd.DataFrame | None,
    *,
    labels: FigureLabels | None = None,
) -> Figure:
    """Draw the medians of models by area, with intervals, and the ceiling as a line with a band.

    Parameters
    ----------
    choices
        Model -> ``Scores.headline_layers()``: a row per area with ``median``, ``low``, ``high``, ``n_units``,
        ``n_animals`` and ``choice``. Areas in the order of the first model, ``"all"`` last.
    ceiling
        ``Scores.summary()`` of a ceiling: rows with ``area``, ``median``, ``low``, ``high``; None = none.
    labels
        Dataset and coverage of the intervals.

    Returns
    -------
    Figure
        One bar container per model, labelled with its name.

    Raises
    ------
    UsageError
        If there is nothing to draw, or the layers of two models were chosen in different ways.
    """
    labels = labels or FigureLabels()
    rows = {model: _by_area(frame) for model, frame in choices.items()}
    areas = _areas(rows)
    if not areas:
        raise UsageError("nothing to draw: no model with an area")
    line = _choice_line(choices)
    with own_look():
        width = max(5.6, 1.6 + len(areas) * max(0.95, 0.3 * len(rows) + 0.2))
        figure = new_figure(width, 4.4)
        axes = figure.subplots()
        axes.axhline(0.0, color=INK, linewidth=0.8)
        if ceiling is not None:
            _draw_ceiling(axes, areas, _by_area(ceiling), labels)
        for place, (model, colour) in enumerate(zip(rows, shades(len(rows)), strict=True)):
            _draw_model(axes, areas, rows[model], model, (place, len(rows)), colour)
        axes.set_xticks(range(len(areas)), [_area_label(area, rows) for area in areas])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("median score over units")
        axes.set_xlim(-0.5, len(areas) - 0.5)
        axes.set_title(labels.title("Predictivity corrected for noise", line, width_in=width), loc="left")
        marks = "error bars and band" if ceiling is not None else "error bars"
        figure.legend(
            loc="outside lower left",
            ncols=max(1, int(width / (0.8 + TITLE_LETTER_IN * max(len(name) for name in (*rows, _CEILING))))),
            frameon=False,
            title=f"{marks}: {labels.percent} intervals over animals and units",
            alignment="left",
        )
    return figure


Row = dict[str, Any]


def _by_area(frame: pd.DataFrame) -> dict[str, Row]:
    return {
        str(row["area"]): {str(name): value for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    }


def _areas(rows: Mapping[str, Mapping[str, Row]]) -> list[str]:
    found = list(dict.fromkeys(area for model in rows.values() for area in model))
    return [area for area in found if area != ALL_AREAS] + [area for area in found if area == ALL_AREAS]


def _choice_line(choices: Mapping[str, pd.DataFrame]) -> str:
    kinds = {model: set(frame["choice"]) for model, frame in choices.items() if "choice" in frame}
    found = sorted({str(kind) for model_kinds in kinds.values() for kind in model_kinds})
    if len(found) > 1:
        raise UsageError(
            f"layers chosen in different ways ({', '.join(found)}) do not go into one figure; "
            "choose one for all models"
        )
    return CHOICES.get(found[0], found[0]) if found else ""


def _draw_ceiling(axes: Axes, areas: list[str], ceiling: Mapping[str, Row], labels: FigureLabels) -> None:
    first = True
    for place, area in enumerate(areas):
        row = ceiling.get(area)
        if row is None or math.isnan(row["median"]):
            continue
        span = (place - 0.46, place + 0.46)
        if not math.isnan(row["low"]) and not math.isnan(row["high"]):
            axes.fill_between(span, row["low"], row["high"], color=PALE, linewidth=0, zorder=0.5)
        axes.plot(
            span,
            [row["median"]] * 2,
            color=INK,
            linestyle=(0, (4, 2)),
            linewidth=1.4,
            zorder=4,
            label=_CEILING if first else "_nolegend_",
        )
        first = False


def _draw_model(
    axes: Axes,
    areas: list[str],
    rows: Mapping[str, Row],
    model: str,
    position: tuple[int, int],
    colour: str,
) -> None:
    from matplotlib.patheffects import withStroke

    place, n_models = position
    width = _GROUP / n_models
    offset = (place - 0.5 * (n_models - 1)) * width
    known = [
        (index + offset, rows[area])
        for index, area in enumerate(areas)
        if area in rows and not math.isnan(rows[area]["median"])
    ]
    axes.bar(
        [x for x, _ in known],
        [row["median"] for _, row in known],
        width=0.9 * width,
        color=colour,
        edgecolor=INK,
        linewidth=0.6,
        zorder=2,
        label=model,
    )
    for x, row in known:
        below, above = error_bars(row["median"], row["low"], row["high"])
        if below or above:
            bar = axes.errorbar(
                x, row["median"], yerr=[[below], [above]], color=INK, elinewidth=1.2, capsize=2.5, zorder=5
            )
            for part in (*bar[1], *bar[2]):
                # A pale rim, or the lower half would be lost on a dark bar.
                part.set_path_effects([withStroke(linewidth=3.0, foreground="white")])
    for index, area in enumerate(areas):
        if area not in rows or math.isnan(rows[area]["median"]):
            axes.annotate(
                "no score",
                (index + offset, 0.0),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90,
                color=GREY,
                fontsize=8,
            )


def _area_label(area: str, rows: Mapping[str, Mapping[str, Row]]) -> str:
    present = [model[area] for model in rows.values() if area in model]
    name = "all areas" if area == ALL_AREAS else area
    counts = [
        counted(min(numbers), max(numbers), noun)
        for column, noun in (("n_units", "unit"), ("n_animals", "animal"))
        if (numbers := [int(row[column]) for row in present])
    ]
    return "\n".join([name, *counts])
