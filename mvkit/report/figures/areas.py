"""Figure of models by area: medians with intervals, a point per animal, and the ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.report.figures.ceilings import draw_extrapolation
from mvkit.report.figures.style import (
    FEWEST_ANIMALS,
    FONT_SIZE,
    GREY,
    INK,
    PALE,
    SMALL,
    FigureStyle,
    Look,
    count_range,
    dataset_of,
    label_y,
    looks,
    new_figure,
    own_look,
    save_figure,
    title_with,
)
from mvkit.report.tables import area_name, best_layers, has_units, is_pooled
from mvkit.scoring.measures import MEASURES
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.report.text import ScoreRun
    from mvkit.scoring import Scores

#: How the layer was chosen -> the words that say so.
CHOICES = {
    "paper": "best layer of each area, chosen on the test images it is scored on (paper)",
    "held-out": "layer of each area chosen on half of the image splits, scored on the others (held-out)",
}
#: Points beyond are drawn at the edge.
LIMITS = (-0.3, 1.2)
#: Share of an area's width that its bars take together.
_GROUP = 0.82
#: Width of an area below which numbers stand without words.
_WIDE_IN = 0.85
#: Animals above which points are smaller.
_MANY = 12
#: Space before the bars of all areas together.
_GAP = 0.35


@dataclass(frozen=True)
class _Bar:
    """What is drawn of one model in one area."""

    median: float
    low: float
    high: float
    n_units: int
    n_animals: int
    #: Median of every animal's units; NaN left out.
    animals: NDArray[np.float64]

    @property
    def has_interval(self) -> bool:
        return self.n_animals >= FEWEST_ANIMALS and not (math.isnan(self.low) or math.isnan(self.high))


def draw_areas(
    models: Mapping[str, Scores],
    ceiling: Scores | None = None,
    *,
    choice: str | None = None,
    style: FigureStyle | None = None,
) -> Figure:
    """Draw the medians of models by area, with intervals, a point per animal, and the ceiling.

    Parameters
    ----------
    models
        Label -> scores of one protocol.
    ceiling
        Consistency between animals, of the same protocol.
    choice
        How the layer of each area is chosen, ``"paper"`` or ``"held-out"``; None: as the settings say.
    style
        Width and titles.

    Returns
    -------
    Figure
        One bar container per model, labelled with its name. Intervals are left out of areas of fewer than
        three animals, and the small print says so.

    Raises
    ------
    UsageError
        If there is nothing to draw, or the layers of two models were chosen in different ways.
    """
    style = style or FigureStyle()
    choice = choice_of(models, choice)
    bars = {name: _bars(scores, choice) for name, scores in models.items()}
    areas = _areas(bars)
    if not areas:
        raise UsageError("nothing to draw: no model with an area")
    first = next(iter(models.values()))
    of_ceiling = {} if ceiling is None else _bars(ceiling, "paper")
    with own_look():
        places = _places(areas)
        look_of = looks(models)
        title = title_with(what_is_scored(first), dataset_of(first))
        note = _note(models, bars, of_ceiling, areas, choice)
        handles = [*_handles(look_of), *(_ceiling_handles() if of_ceiling else ())]
        width = style.width(1 if len(areas) * (len(models) + 1) <= 9 else 2)
        # Words below the areas need this much.
        short = width / (len(areas) + 0.5) < _WIDE_IN
        if short and not is_pooled(first):
            what = "units, of the model with most, and animals" if has_units(first) else "animals"
            note = f"{note}; below areas: numbers of {what}"
        figure = new_figure(width, 2.3, title=title, note=note, handles=handles, style=style)
        axes = figure.subplots()
        axes.axhline(0.0, color=INK, linewidth=0.6)
        for area in areas:
            if area in of_ceiling:
                _draw_ceiling(axes, places[area], of_ceiling[area])
        for index, name in enumerate(models):
            _draw_model(axes, places, bars[name], name, (index, len(models)), look_of[name])
        _write_areas(axes, areas, places, bars, first, short=short)
        _set_axes(axes, areas, places, bars, of_ceiling, first)
    return figure


def draw_run(run: ScoreRun, path: Path, *, style: FigureStyle | None = None) -> list[Path]:
    """Draw a run: scores of every model with intervals and the ceiling; and the extrapolation beside it.

    Parameters
    ----------
    run
        The run.
    path
        File of the scores' figure; that of an extrapolation has ``-extrapolation`` before the suffix.
    style
        Width and titles.

    Returns
    -------
    list of Path
        The files written.
    """
    models = {**run.models, **run.earlier}
    # Earlier scores may have been chosen in another way; the run's own says how all are.
    choice = run.scores.settings.layer_choice
    files = [save_figure(draw_areas(models, run.ceiling, choice=choice, style=style), path)]
    if run.extrapolation is not None:
        beside = path.with_name(f"{path.stem}-extrapolation{path.suffix}")
        figure = draw_extrapolation(run.extrapolation, dataset=dataset_of(run.scores), style=style)
        files.append(save_figure(figure, beside))
    return files


def choice_of(models: Mapping[str, Scores], choice: str | None) -> str:
    """Return how layers are chosen in a figure of these models.

    Raises
    ------
    UsageError
        If there are no models, or they have it differently and ``choice`` is None.
    """
    if not models:
        raise UsageError("nothing to draw: no model")
    kinds = sorted({scores.settings.layer_choice for scores in models.values()})
    if choice is not None:
        return choice
    if len(kinds) > 1:
        raise UsageError(
            f"layers chosen in different ways ({', '.join(kinds)}) do not go into one figure; "
            "choose one for all models"
        )
    return kinds[0]


def what_is_scored(scores: Scores) -> str:
    """Name what scores measure, for titles."""
    if scores.settings.mapping in ("rsa", "cka"):
        return f"Similarity of models and areas by {scores.settings.mapping.upper()}"
    return "Neural predictivity of models"


def score_label(scores: Scores) -> str:
    """Name a score for an axis: ``noise-corrected correlation``."""
    if scores.settings.measure != "corrected":
        return MEASURES[scores.settings.measure]
    corrected = "noise-corrected " if scores.settings.is_corrected else ""
    if scores.settings.mapping == "rsa":
        return f"{corrected}similarity of RDMs"
    return f"{corrected}CKA" if scores.settings.mapping == "cka" else f"{corrected}correlation"


def median_label(scores: Scores) -> str:
    """Name a median for an axis; an area's only population has none."""
    return score_label(scores) if is_pooled(scores) else f"{score_label(scores)} (median)"


def percent_text(scores: Scores) -> str:
    """Write the coverage of intervals so that no line breaks within: ``95 %``."""
    return f"{100 * scores.settings.confidence:g}\N{NO-BREAK SPACE}%"


def counts_of(rows: Sequence[Mapping[Any, Any]], scores: Scores) -> list[str]:
    """Write numbers of units and animals; populations of an animal are counted as animals."""
    if is_pooled(scores):
        return ["animals pooled"]
    animals = count_range((row["n_animals"] for row in rows), "animal")
    return (
        [count_range((row["n_units"] for row in rows), "unit"), animals] if has_units(scores) else [animals]
    )


def _bars(scores: Scores, choice: str) -> dict[str, _Bar]:
    chosen = scores.chosen_units(choice)
    bars = {}
    for row in best_layers(scores, choice).to_dict("records"):
        area = str(row["area"])
        parts = list(chosen.values()) if area == ALL_AREAS else [chosen[area]]
        specimens = np.concatenate([part.specimen for part in parts])
        values = np.concatenate([part.score for part in parts])
        medians = [] if is_pooled(scores) else animal_medians(specimens, values)
        bars[area] = _Bar(
            float(row["median"]),
            float(row["low"]),
            float(row["high"]),
            int(row["n_units"]),
            int(row["n_animals"]),
            np.array(medians),
        )
    return bars


def animal_medians(specimens: NDArray[np.int64], scores: NDArray[np.float64]) -> list[float]:
    """Return the median score of every animal with a score, in the order of their ids."""
    has_score = ~np.isnan(scores)
    return [
        float(np.median(scores[has_score & (specimens == specimen)]))
        for specimen in np.unique(specimens[has_score])
    ]


def _areas(bars: Mapping[str, Mapping[str, _Bar]]) -> list[str]:
    areas = list(dict.fromkeys(area for model in bars.values() for area in model))
    single = [area for area in areas if area != ALL_AREAS]
    # One area and all areas are the same.
    return single if len(single) == 1 else [*single, *(area for area in areas if area == ALL_AREAS)]


def _places(areas: Sequence[str]) -> dict[str, float]:
    return {area: index + _GAP * (area == ALL_AREAS) for index, area in enumerate(areas)}


def _note(
    models: Mapping[str, Scores],
    bars: Mapping[str, Mapping[str, _Bar]],
    ceiling: Mapping[str, _Bar],
    areas: Sequence[str],
    choice: str,
) -> str:
    scores = next(iter(models.values()))
    percent = percent_text(scores)
    several = any(len(one.layers) > 1 for one in models.values())
    parts = [CHOICES[choice]] if several else []
    if is_pooled(scores):
        parts.append("animals of an area pooled into one population: neither intervals nor points")
    else:
        over, point = (
            ("units", "an animal (median of its units)") if has_units(scores) else ("animals", "an animal")
        )
        parts.append(f"bars: medians over {over}; points: {point}")
        shown = [
            bar for of_area in (*bars.values(), ceiling) for area, bar in of_area.items() if area in areas
        ]
        if any(bar.has_interval for bar in shown):
            what = "animals and units" if has_units(scores) else "animals"
            band = " and band" if ceiling else ""
            parts.append(f"whiskers{band}: {percent} intervals over {what}")
        few = [
            area_name(area)
            for area in areas
            if any(
                area in of and of[area].n_animals < FEWEST_ANIMALS and of[area].n_units
                for of in bars.values()
            )
        ]
        if few:
            parts.append(f"no interval with fewer than {FEWEST_ANIMALS} animals: {', '.join(few)}")
        beyond = sum(int(((bar.animals < LIMITS[0]) | (bar.animals > LIMITS[1])).sum()) for bar in shown)
        if beyond:
            parts.append(f"triangles: {beyond} points beyond the axis")
    parts += [f"{', '.join(names[:-1])} and {names[-1]} have the same scores" for names in _equal(models)]
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _equal(models: Mapping[str, Scores]) -> list[list[str]]:
    """Return groups of models whose scores are the same, unit for unit."""
    groups: dict[bytes, list[str]] = {}
    for name, scores in models.items():
        groups.setdefault(scores.columns["score"].astype(np.float64).tobytes(), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _handles(look_of: Mapping[str, Look]) -> list[Artist]:
    from matplotlib.patches import Patch

    return [Patch(**look.bar(), label=name) for name, look in look_of.items()]


def _ceiling_handles() -> list[Artist]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=INK, linestyle=(0, (4, 2)), linewidth=1.0, label="ceiling: other animals")]


def _draw_ceiling(axes: Axes, place: float, bar: _Bar) -> None:
    if math.isnan(bar.median):
        return
    span = (place - 0.46, place + 0.46)
    if bar.has_interval:
        axes.fill_between(span, bar.low, bar.high, color=PALE, linewidth=0, zorder=0.5)
    axes.plot(
        span, [bar.median] * 2, color=INK, linestyle=(0, (4, 2)), linewidth=1.0, zorder=4, gid="ceiling"
    )


def _draw_model(
    axes: Axes,
    places: Mapping[str, float],
    bars: Mapping[str, _Bar],
    model: str,
    position: tuple[int, int],
    look: Look,
) -> None:
    own_index, n_models = position
    width = _GROUP / n_models
    offset = (own_index - 0.5 * (n_models - 1)) * width
    shown = [
        (place + offset, bars[area])
        for area, place in places.items()
        if area in bars and not math.isnan(bars[area].median)
    ]
    axes.bar(
        [x for x, _ in shown],
        [bar.median for _, bar in shown],
        width=0.86 * width,
        zorder=2,
        label=model,
        **look.bar(),
    )
    for x, bar in shown:
        _draw_animals(axes, x, bar, width)
        if bar.has_interval:
            axes.errorbar(
                [x],
                [bar.median],
                yerr=[[max(bar.median - bar.low, 0.0)], [max(bar.high - bar.median, 0.0)]],
                fmt="none",
                ecolor=INK,
                elinewidth=0.9,
                capsize=1.8,
                capthick=0.9,
                zorder=5,
            )
    for area, place in places.items():
        if area not in bars or math.isnan(bars[area].median):
            axes.annotate(
                "no score",
                (place + offset, 0.0),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90,
                color=GREY,
                fontsize=SMALL,
            )


def _draw_animals(axes: Axes, x: float, bar: _Bar, width: float) -> None:
    """Draw a point per animal, side by side over the bar; beyond the axis, a triangle at its edge."""
    n = len(bar.animals)
    if not n:
        return
    # Neighbours in rank stand apart, so that points of equal height do not cover one another.
    order = np.argsort(np.argsort(bar.animals, kind="stable"), kind="stable")
    steps = (order * 0.618034) % 1.0 - 0.5 if n > 1 else np.zeros(1)
    across = x + 0.6 * width * steps
    low, high = LIMITS
    inside = (bar.animals >= low) & (bar.animals <= high)
    style: dict[str, Any] = {
        "linestyle": "",
        "markerfacecolor": "white",
        "markeredgecolor": INK,
        "markeredgewidth": 0.5,
        "zorder": 4.5,
        "gid": "animals",
    }
    axes.plot(across[inside], bar.animals[inside], marker="o", markersize=2.2 if n <= _MANY else 1.5, **style)
    for mark, chosen, edge in (("v", bar.animals < low, low), ("^", bar.animals > high, high)):
        if chosen.any():
            axes.plot(
                across[chosen],
                np.full(int(chosen.sum()), edge),
                marker=mark,
                markersize=3,
                clip_on=False,
                **{**style, "gid": "animals beyond"},
            )


def _set_axes(
    axes: Axes,
    areas: Sequence[str],
    places: Mapping[str, float],
    bars: Mapping[str, Mapping[str, _Bar]],
    ceiling: Mapping[str, _Bar],
    scores: Scores,
) -> None:
    axes.set_xlim(-0.55, places[areas[-1]] + 0.55)
    label_y(axes, median_label(scores), 1.6)
    if areas[-1] == ALL_AREAS and len(areas) > 1:
        axes.axvline(places[ALL_AREAS] - 0.5 - _GAP / 2, color=PALE, linewidth=0.6)
    values = [0.0]
    for bar in (*ceiling.values(), *(bar for of_model in bars.values() for bar in of_model.values())):
        values += [bar.median, *bar.animals, *((bar.low, bar.high) if bar.has_interval else ())]
    known = np.clip([value for value in values if not math.isnan(value)], *LIMITS)
    low, high = float(known.min()), float(known.max())
    room = 0.04 * (high - low) or 0.05
    axes.set_ylim(low - (room if low < 0 else 0.0), high + room)


def _write_areas(
    axes: Axes,
    areas: Sequence[str],
    places: Mapping[str, float],
    bars: Mapping[str, Mapping[str, _Bar]],
    scores: Scores,
    *,
    short: bool,
) -> None:
    """Write areas below the axis, and how many units and animals."""
    # Labels of ticks would not stand on one line: letters with descenders are centred with the others.
    axes.set_xticks([places[area] for area in areas], [""] * len(areas))
    axes.tick_params(axis="x", length=0)
    for area in areas:
        counts = [(count, SMALL, GREY) for count in _counts(area, bars, scores, short=short)]
        for line, (text, size, colour) in enumerate([(area_name(area), FONT_SIZE, INK), *counts]):
            axes.annotate(
                text,
                (places[area], 0.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0.0, -10.0 - line * (SMALL + 2.0)),
                textcoords="offset points",
                ha="center",
                va="baseline",
                fontsize=size,
                color=colour,
                annotation_clip=False,
            )


def _counts(area: str, bars: Mapping[str, Mapping[str, _Bar]], scores: Scores, *, short: bool) -> list[str]:
    """Write numbers of units and animals, in narrow figures without words."""
    shown = [of[area] for of in bars.values() if area in of]
    if short and not is_pooled(scores):
        units = [f"{max(bar.n_units for bar in shown):,}"] if has_units(scores) else []
        return [*units, f"{max(bar.n_animals for bar in shown):,}"]
    return counts_of([{"n_units": bar.n_units, "n_animals": bar.n_animals} for bar in shown], scores)
