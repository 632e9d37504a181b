"""Figure of areas over the anatomical hierarchy: score, or depth of the best layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mvkit.errors import UsageError, unknown_name
from mvkit.report.figures.areas import (
    CHOICES,
    choice_of,
    median_label,
    percent_text,
)
from mvkit.report.figures.layers import depth_of
from mvkit.report.figures.style import (
    FEWEST_ANIMALS,
    GREY,
    INK,
    SMALL,
    FigureStyle,
    Look,
    dataset_of,
    label_y,
    looks,
    new_figure,
    own_look,
    title_with,
)
from mvkit.report.tables import best_layers, has_units, is_pooled
from mvkit.scoring.layer_choice import OR
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores

#: Hierarchy scores of the mouse's visual areas, from feedforward and feedback connections between cortical
#: and thalamic areas (Harris et al. 2019, "Hierarchical organization of cortical and thalamic connectivity",
#: Nature 575:195-202), as used by Siegle et al. 2021, "Survey of spiking in the mouse visual system reveals
#: functional hierarchy", Nature 592:86-92. The numbers are those of the code published with the latter
#: (github.com/AllenInstitute/neuropixels_platform_paper, Figure3/Figure3.py).
HIERARCHY = {
    "VISp": -0.357,
    "VISl": -0.093,
    "VISrl": -0.059,
    "VISal": 0.152,
    "VISpm": 0.327,
    "VISam": 0.441,
}
SOURCE = "anatomical hierarchy scores: Harris et al. 2019, as used by Siegle et al. 2021"

#: Between the points of two models in one area.
_ASIDE = 0.008

Value = Literal["score", "depth"]
VALUES: tuple[Value, ...] = ("score", "depth")
Row = Mapping[Any, Any]


def draw_hierarchy(
    models: Mapping[str, Scores],
    *,
    value: str = "score",
    choice: str | None = None,
    style: FigureStyle | None = None,
) -> Figure:
    """Draw scores, or the depth of best layers, over the anatomical hierarchy of visual areas.

    Parameters
    ----------
    models
        Label -> scores of one protocol.
    value
        ``"score"``: median with the best layer of the area; ``"depth"``: where that layer stands among those
        scored, from the first (0) to the last (1), for models of at least two layers.
    choice
        How the layer of each area is chosen, ``"paper"`` or ``"held-out"``; None: as the settings say.
    style
        Width and titles.

    Returns
    -------
    Figure
        A line per model with a point per area. Its legend has Spearman's rank correlation with the hierarchy
        (areas are few: no test).

    Raises
    ------
    UsageError
        If ``value`` is unknown, fewer than two areas have a place in the hierarchy, or no model has two
        layers.

    References
    ----------
    .. [1] Harris, J. A. et al. Hierarchical organization of cortical and thalamic connectivity. Nature 575,
       195-202 (2019). doi:10.1038/s41586-019-1716-z
    .. [2] Siegle, J. H. et al. Survey of spiking in the mouse visual system reveals functional hierarchy.
       Nature 592, 86-92 (2021). doi:10.1038/s41586-020-03171-x; the numbers are those of the code published
       with it, github.com/AllenInstitute/neuropixels_platform_paper, Figure3/Figure3.py.
    """
    style = style or FigureStyle()
    if value not in VALUES:
        raise unknown_name("value over the hierarchy", value, VALUES)
    choice = choice_of(models, choice)
    points = {name: _points(scores, value, choice) for name, scores in models.items()}
    shown = {name: rows for name, rows in points.items() if rows}
    placed = sorted({area for rows in shown.values() for area in rows}, key=HIERARCHY.__getitem__)
    if value == "depth" and not shown and any(len(scores.layers) == 1 for scores in models.values()):
        raise UsageError("depth of the best layer: give a model of at least two layers, scored with several")
    if len(placed) < 2:
        raise UsageError(f"hierarchy: needs scores in at least two of {', '.join(HIERARCHY)}")
    first = next(iter(models.values()))
    title = "Predictivity" if value == "score" else "Depth of the best layer"
    with own_look():
        look_of = looks(models)
        figure = new_figure(
            style.width(1),
            2.4,
            title=title_with(f"{title} over the visual hierarchy", dataset_of(first)),
            note=_note(models, points, value, choice),
            handles=_handles(look_of, shown),
            style=style,
        )
        axes = figure.subplots()
        intervals = value == "score" and not is_pooled(first)
        for index, (name, rows) in enumerate(shown.items()):
            # Side by side, or the intervals of models would cover one another.
            aside = _ASIDE * (index - 0.5 * (len(shown) - 1)) if intervals else 0.0
            _draw_model(axes, rows, look_of[name], aside, intervals=intervals)
        _name_areas(axes, placed)
        axes.set_xlabel("anatomical hierarchy score")
        if value == "score":
            label_y(axes, median_label(first), 1.6)
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        else:
            axes.set_ylabel("relative depth of the best layer")
            axes.set_ylim(-0.05, 1.05)
    return figure


def _points(scores: Scores, value: str, choice: str) -> dict[str, Row]:
    """Return area -> row of best layers with ``value``, in the order of the hierarchy."""
    rows: dict[str, Row] = {}
    for row in best_layers(scores, choice).to_dict("records"):
        area, height = str(row["area"]), float(row["median"])
        if area == ALL_AREAS or area not in HIERARCHY or not row["layer"]:
            continue
        if value == "depth":
            depths = [depth_of(layer, scores.layers) for layer in str(row["layer"]).split(OR)]
            height = sum(depths) / len(depths)
        if not math.isnan(height):
            rows[area] = {**row, "value": height}
    return dict(sorted(rows.items(), key=lambda item: HIERARCHY[item[0]]))


def rank_correlation(rows: Mapping[str, Row]) -> float:
    """Return Spearman's correlation of the areas' values with their hierarchy; NaN if all are equal."""
    from scipy.stats import rankdata

    values = [float(row["value"]) for row in rows.values()]
    if len(values) < 3 or max(values) == min(values):
        return math.nan
    import numpy as np

    return float(np.corrcoef(rankdata(values), rankdata([HIERARCHY[area] for area in rows]))[0, 1])


def _note(
    models: Mapping[str, Scores], points: Mapping[str, Mapping[str, Row]], value: str, choice: str
) -> str:
    first = next(iter(models.values()))
    parts = [SOURCE[:1].upper() + SOURCE[1:]]
    if any(len(scores.layers) > 1 for scores in models.values()):
        parts.append(CHOICES[choice])
    if value == "score" and not is_pooled(first):
        over = "animals and units" if has_units(first) else "animals"
        parts.append(f"bars: {percent_text(first)} intervals over {over}")
        few = dict.fromkeys(
            area
            for rows in points.values()
            for area, row in rows.items()
            if row["n_animals"] < FEWEST_ANIMALS
        )
        if few:
            parts.append(f"no interval with fewer than {FEWEST_ANIMALS} animals: {', '.join(few)}")
    if value == "depth":
        parts.append("depth: first layer 0, last layer 1")
    parts.append("r: rank correlation with the hierarchy, over areas")
    without = [area for area in first.areas if area not in HIERARCHY]
    if without:
        parts.append(f"without a place in the hierarchy: {', '.join(without)}")
    single = [name for name, rows in points.items() if not rows]
    if value == "depth" and single:
        parts.append(f"a single layer has no depth: {', '.join(single)}")
    return "; ".join(parts)


def _handles(look_of: Mapping[str, Look], shown: Mapping[str, Mapping[str, Row]]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for name, rows in shown.items():
        r = rank_correlation(rows)
        sign = "\N{MINUS SIGN}" if r < 0 else ""
        label = name if math.isnan(r) else f"{name}, r = {sign}{abs(r):.2f}"
        handles.append(Line2D([], [], label=label, **look_of[name].line()))
    return handles


def _draw_model(axes: Axes, rows: Mapping[str, Row], look: Look, aside: float, *, intervals: bool) -> None:
    places = [HIERARCHY[area] + aside for area in rows]
    heights = [float(row["value"]) for row in rows.values()]
    axes.plot(places, heights, zorder=3, gid="areas", **look.line())
    if not intervals:
        return
    for place, height, row in zip(places, heights, rows.values(), strict=True):
        if row["n_animals"] >= FEWEST_ANIMALS and not (math.isnan(row["low"]) or math.isnan(row["high"])):
            axes.errorbar(
                [place],
                [height],
                yerr=[[max(height - row["low"], 0.0)], [max(row["high"] - height, 0.0)]],
                fmt="none",
                ecolor=look.colour,
                elinewidth=0.7,
                zorder=2,
            )


def _name_areas(axes: Axes, areas: Sequence[str]) -> None:
    """Write areas above the panel at their places; neighbours that are close are moved apart."""
    low, high = HIERARCHY[areas[0]], HIERARCHY[areas[-1]]
    margin = 0.08 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    span = high - low + 2 * margin
    places = [HIERARCHY[area] for area in areas]
    # Room for a name, as a share of the axis.
    apart = 0.125 * span
    for index in range(1, len(places)):
        lack = apart - (places[index] - places[index - 1])
        if lack > 0:
            places[index - 1] -= lack / 2
            places[index] += lack / 2
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0}
    for area, place in zip(areas, places, strict=True):
        axes.axvline(HIERARCHY[area], color="#eeeeee", linewidth=0.6, zorder=0)
        axes.annotate(
            area,
            (HIERARCHY[area], 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(place, 1.04),
            textcoords=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color=INK,
            annotation_clip=False,
            arrowprops=leader if abs(place - HIERARCHY[area]) > 0.002 else None,
        )
