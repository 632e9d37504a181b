"""Figure of layers: the median of every layer of a model, or of several models over their depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.report.figures.areas import counts_of, median_label, percent_text
from mvkit.report.figures.style import (
    FEWEST_ANIMALS,
    FONT_SIZE,
    GREY,
    INK,
    SMALL,
    FigureStyle,
    Look,
    dataset_of,
    label_panel,
    looks,
    new_figure,
    own_look,
    panels,
    title_with,
)
from mvkit.report.tables import area_name, has_units, is_pooled
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores

_PANEL_IN = 1.25
#: Names of layers beyond which only some are written.
_MOST_NAMES = 14

Row = Mapping[Any, Any]


def draw_layers(
    models: Mapping[str, Scores], ceiling: Scores | None = None, *, style: FigureStyle | None = None
) -> Figure:
    """Draw the median of every layer in the order of the network, a panel per area.

    Layers of a single model are named; those of several models stand at their depth, from the first (0) to
    the last (1) of the layers that were scored.

    Parameters
    ----------
    models
        Label -> scores of one protocol.
    ceiling
        Consistency between animals, of the same protocol.
    style
        Width and titles.

    Returns
    -------
    Figure
        Per area one panel with a line per model, whose points are the layers with a score; the layer of the
        highest median is a larger point. "All areas" is one layer for every area. Intervals are drawn for a
        single model, where there are at least three animals.

    Raises
    ------
    UsageError
        If there is nothing to draw.
    """
    style = style or FigureStyle()
    if not models or not any(scores.layers for scores in models.values()):
        raise UsageError("nothing to draw: no model with a layer")
    first = next(iter(models.values()))
    single = len(models) == 1
    areas = [*first.areas, *((ALL_AREAS,) if len(first.areas) > 1 else ())]
    tables = {name: _rows(scores) for name, scores in models.items()}
    of_ceiling = {} if ceiling is None else {str(row["area"]): row for row in _records(ceiling)}
    with own_look():
        look_of = looks(models)
        n_columns = min(4, len(areas))
        width = style.width(1 if len(areas) <= 2 else 2)
        n_columns = max(1, min(n_columns, int(width / 1.5)))
        n_rows = -(-len(areas) // n_columns)
        title = (
            f"Predictivity of the layers of {next(iter(models))}" if single else "Predictivity over layers"
        )
        figure = new_figure(
            width,
            n_rows * (_PANEL_IN + 0.3) + (_names_in(first.layers) if single else 0.4),
            title=title_with(title, dataset_of(first)),
            x_label="" if single else "relative depth of the layer (first 0, last 1)",
            y_label=median_label(first),
            note=_note(first, tables, ceiling, single=single),
            handles=_handles(look_of, ceiling, single=single),
            style=style,
        )
        grid = panels(figure, len(areas), n_columns, sharey=True, sharex=True)
        for axes, area in zip(grid, areas, strict=True):
            axes.axhline(0.0, color=GREY, linewidth=0.5)
            if area in of_ceiling and not math.isnan(of_ceiling[area]["median"]):
                axes.axhline(
                    of_ceiling[area]["median"], color=INK, linestyle=(0, (4, 2)), linewidth=0.9, gid="ceiling"
                )
            for name, scores in models.items():
                rows = [row for row in tables[name] if row["area"] == area]
                _draw_line(axes, rows, scores.layers, look_of[name], single=single)
            shown = [
                row for table in tables.values() for row in table if row["area"] == area and row["n_units"]
            ]
            label_panel(axes, area_name(area), ", ".join(counts_of(shown, first)) if shown else "no score")
        if single:
            _name_layers(grid, first.layers)
        else:
            grid[0].set_xlim(-0.05, 1.05)
            grid[0].set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    return figure


def depth_of(layer: str, layers: Sequence[str]) -> float:
    """Return the depth of a layer among those that were scored: first 0, last 1; NaN of a single one."""
    return layers.index(layer) / (len(layers) - 1) if len(layers) > 1 else math.nan


def _records(scores: Scores) -> list[Row]:
    return list(scores.summary().to_dict("records"))


def _rows(scores: Scores) -> list[Row]:
    return [row for row in _records(scores) if row["layer"] in scores.layers]


def _note(first: Scores, tables: Mapping[str, list[Row]], ceiling: Scores | None, *, single: bool) -> str:
    parts = ["Large point: highest median of the area"]
    rows = [row for table in tables.values() for row in table]
    if single and not is_pooled(first) and any(_has_interval(row) for row in rows):
        over = "animals and units" if has_units(first) else "animals"
        parts.append(f"bars: {percent_text(first)} intervals over {over}")
    few = dict.fromkeys(
        area_name(row["area"])
        for row in rows
        if row["n_units"] and row["n_animals"] < FEWEST_ANIMALS and not is_pooled(first)
    )
    if few and single:
        parts.append(f"no interval with fewer than {FEWEST_ANIMALS} animals: {', '.join(few)}")
    if ceiling is not None and single:
        parts.append("dashed: ceiling (other animals)")
    if len(first.areas) > 1:
        parts.append("all areas: one layer for every area")
    return "; ".join(parts)


def _handles(look_of: Mapping[str, Look], ceiling: Scores | None, *, single: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    if single:
        return []
    handles = [Line2D([], [], label=name, **look.line()) for name, look in look_of.items()]
    if ceiling is not None:
        line: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 0.9}
        handles.append(Line2D([], [], label="ceiling: other animals", **line))
    return handles


def _has_interval(row: Row) -> bool:
    return row["n_animals"] >= FEWEST_ANIMALS and not (math.isnan(row["low"]) or math.isnan(row["high"]))


def _draw_line(axes: Axes, rows: Sequence[Row], layers: Sequence[str], look: Look, *, single: bool) -> None:
    known = [row for row in rows if not math.isnan(row["median"])]
    if not known:
        return
    if single:
        places = [float(layers.index(row["layer"])) for row in known]
    else:
        # A model of one layer has no depth: a line across.
        places = [depth_of(row["layer"], layers) for row in known]
    medians = [float(row["median"]) for row in known]
    if math.isnan(places[0]):
        axes.axhline(medians[0], **{**look.line(), "marker": ""}, zorder=2, gid="one layer")
        return
    line = {**look.line(), "markersize": 2.5, **({"linestyle": "-"} if single else {})}
    axes.plot(places, medians, zorder=3, gid="layers", **line)
    if single:
        with_interval = [index for index, row in enumerate(known) if _has_interval(row)]
        axes.errorbar(
            [places[index] for index in with_interval],
            [medians[index] for index in with_interval],
            yerr=[
                [max(medians[index] - known[index]["low"], 0.0) for index in with_interval],
                [max(known[index]["high"] - medians[index], 0.0) for index in with_interval],
            ],
            fmt="none",
            ecolor=look.colour,
            elinewidth=0.7,
            zorder=2,
        )
    best = max(range(len(known)), key=lambda index: medians[index])
    style = {**look.line(), "markersize": 5.5, "markerfacecolor": look.colour}
    axes.plot([places[best]], [medians[best]], zorder=4, gid="best", **style)


def _names_in(layers: Sequence[str]) -> float:
    """Return the height of the longest name of a layer that stands upright, roughly."""
    return 0.1 + 0.062 * max(len(layer) for layer in layers) * SMALL / FONT_SIZE


def _name_layers(grid: Sequence[Axes], layers: Sequence[str]) -> None:
    step = -(-len(layers) // _MOST_NAMES)
    # The last layer is always named.
    named = sorted({*range(len(layers) - 1, -1, -step)})
    for axes in grid:
        axes.set_xticks(named, [layers[index] for index in named], rotation=90, fontsize=SMALL)
        axes.set_xlim(-0.5, len(layers) - 0.5)
