"""Figure of two models by unit: a point per unit, its score from one model against that from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.report.figures.areas import CHOICES, choice_of, score_label
from mvkit.report.figures.style import (
    GREY,
    INK,
    FigureStyle,
    count_range,
    dataset_of,
    label_panel,
    looks,
    new_figure,
    own_look,
    panels,
    title_with,
)
from mvkit.report.tables import has_units, is_pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores

#: Scores beyond are drawn at the edge; few units of low reliability are corrected to far more than 1.
LIMITS = (-0.6, 1.4)
#: Of many scores, so many at either end are drawn at the edge too.
_OUTER, _MANY = 0.01, 100
_PANEL_IN = 1.95

Pairs = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def draw_units(
    models: Mapping[str, Scores], *, choice: str | None = None, style: FigureStyle | None = None
) -> Figure:
    """Draw the score of every unit from one model against that from another, a panel per area.

    Parameters
    ----------
    models
        Label -> scores of one protocol, two of them; the first is on the x axis.
    choice
        How the layer of each area is chosen, ``"paper"`` or ``"held-out"``; None: as the settings say.
    style
        Width and titles.

    Returns
    -------
    Figure
        Per area one panel with a point per unit that has both scores, a cross at the medians, and the line of
        equal scores. Scores below -0.6 or above 1.4, and of many the outermost in 100, are triangles at the
        edge.

    Raises
    ------
    UsageError
        If there are not two models, or no unit has both scores.
    """
    style = style or FigureStyle()
    if len(models) != 2:
        raise UsageError(f"models by unit: give two models, not {len(models)}: {', '.join(models)}")
    choice = choice_of(models, choice)
    (one, first), (other, second) = models.items()
    pairs = {area: _pairs(first, second, area, choice) for area in first.areas if area in second.areas}
    shown = {area: pair for area, pair in pairs.items() if len(pair[0])}
    if not shown:
        raise UsageError(f"nothing to draw: no unit has scores from both {one} and {other}")
    limits = _limits(list(shown.values()))
    beyond = sum(int((np.clip(pair[:2], *limits) != pair[:2]).any(axis=0).sum()) for pair in shown.values())
    population = "unit" if has_units(first) else "area" if is_pooled(first) else "animal"
    article = "an" if population[0] == "a" else "a"
    notes = [f"A point is {article} {population}, the cross the medians"]
    if max(len(first.layers), len(second.layers)) > 1:
        notes.append(CHOICES[choice])
    notes.append("percentages: points above the line of equal scores")
    if beyond:
        notes.append(f"triangles: {beyond} points beyond the axes")
    from matplotlib.ticker import MaxNLocator

    with own_look():
        n_columns = 3 if len(shown) > 4 or len(shown) == 3 else min(2, len(shown))
        width = style.width(1 if len(shown) == 1 else 2)
        n_columns = max(1, min(n_columns, int(width / 1.6)))
        n_rows = -(-len(shown) // n_columns)
        height = min(_PANEL_IN, (width - 0.5) / n_columns - 0.15)
        figure = new_figure(
            width,
            n_rows * (height + 0.5) + 0.3,
            title=title_with(f"{other} against {one} by {population}", dataset_of(first)),
            x_label=f"{one}: {score_label(first)}",
            y_label=f"{other}: {score_label(second)}",
            note="; ".join(notes),
            style=style,
        )
        grid = panels(figure, len(shown), n_columns, sharex=True, sharey=True)
        colour = looks(models)[other].colour
        for axes, (area, pair) in zip(grid, shown.items(), strict=True):
            _draw_pairs(axes, pair, limits, colour)
            above = 100 * float(np.mean(pair[1] > pair[0]))
            counts = count_range([len(pair[0])], population)
            if population == "unit":
                counts += f", {count_range([len(np.unique(pair[2]))], 'animal')}"
            label_panel(axes, area, f"{counts}, {above:.0f}\N{NO-BREAK SPACE}% above")
        low, high = limits
        room = 0.04 * (high - low)
        for axis in (grid[0].xaxis, grid[0].yaxis):
            axis.set_major_locator(MaxNLocator(5))
        grid[0].set_xlim(low - room, high + room)
        grid[0].set_ylim(low - room, high + room)
    return figure


def _pairs(first: Scores, second: Scores, area: str, choice: str) -> Pairs:
    """Return the scores of the units that have both, and their animals."""
    one, other = (scores.chosen_units(choice)[area] for scores in (first, second))
    place = {
        key: index
        for index, key in enumerate(zip(other.specimen.tolist(), other.unit_id.tolist(), strict=True))
    }
    keys = list(zip(one.specimen.tolist(), one.unit_id.tolist(), strict=True))
    both = [(index, place[key]) for index, key in enumerate(keys) if key in place]
    left = np.array([index for index, _ in both], dtype=np.int64)
    right = np.array([index for _, index in both], dtype=np.int64)
    x, y, specimens = one.score[left], other.score[right], one.specimen[left]
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known], y[known], specimens[known]


def _limits(pairs: Sequence[Pairs]) -> tuple[float, float]:
    """Return limits that hold all but the outermost scores."""
    values = np.concatenate([np.concatenate(pair[:2]) for pair in pairs])
    low, high = (
        np.quantile(values, (_OUTER, 1.0 - _OUTER)) if len(values) > _MANY else (values.min(), values.max())
    )
    return max(min(float(low), 0.0), LIMITS[0]), min(max(float(high), 0.2), LIMITS[1])


def _draw_pairs(axes: Axes, pair: Pairs, limits: tuple[float, float], colour: str) -> None:
    x, y = np.clip(pair[0], *limits), np.clip(pair[1], *limits)
    beyond = (x != pair[0]) | (y != pair[1])
    axes.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.6, linestyle=(0, (3, 2)), zorder=1)
    # Many points on top of one another: let the density show.
    alpha = 0.35 if len(x) > 150 else 0.6
    style: dict[str, Any] = {"linestyle": "", "markeredgewidth": 0.0, "markerfacecolor": colour}
    axes.plot(x[~beyond], y[~beyond], marker="o", markersize=2.4, alpha=alpha, zorder=2, gid="units", **style)
    if beyond.any():
        axes.plot(
            x[beyond],
            y[beyond],
            marker="^",
            markersize=3,
            alpha=0.8,
            zorder=2,
            gid="units beyond",
            clip_on=False,
            **style,
        )
    axes.plot(
        [float(np.median(pair[0]))],
        [float(np.median(pair[1]))],
        marker="+",
        markersize=7,
        markeredgewidth=1.2,
        color=INK,
        zorder=3,
        gid="medians",
    )
    axes.set_aspect("equal", adjustable="box")
