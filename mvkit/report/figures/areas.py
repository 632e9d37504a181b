"""Figures of scores: models by area, layers, extrapolated ceilings; drawn by matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.files import replacing
from mvkit.report.tables import area_name, best_layers
from mvkit.report.text import ScoreRun
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores
    from mvkit.scoring.extrapolation import Extrapolation, FittedArea


#: Suffix -> metadata to leave out, so that equal figures are equal files.
FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
DOTS_PER_INCH = 160
#: Mean width of a letter in titles and legends.
TITLE_LETTER_IN = 0.08
_MARGIN_IN = 0.7
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
#: Panels beside one another in figures of many areas.
COLUMNS = 4

# Whatever a user's matplotlibrc says, a figure looks the same.
_LOOK: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "mvkit",
    "text.usetex": False,
}

Row = dict[str, Any]

#: Curves are drawn up to so many times the largest size.
BEYOND = 8.0
_N_POINTS = 60
_HEADROOM = 1.25
_SOURCES = {"holdout": "all other animals pooled", "pairwise": "one other animal"}
_SIZES = {"units": "source units", "stimuli": "images"}

#: How the layer was chosen -> the line that says so.
CHOICES = {
    "paper": "best layer of each area, chosen on the test images it is scored on (paper)",
    "held-out": "layer of each area chosen on half of the image splits, scored on the others (held-out)",
}
#: Share of an area's width that its bars take together.
_GROUP = 0.8
_CEILING = "ceiling: other animals"


@dataclass(frozen=True)
class FigureLabels:
    """What a figure says beyond its table.

    Attributes
    ----------
    dataset
        Name of the recordings, "" = leave out.
    simulated
        Whether they are simulated; then the title says so, in capitals.
    confidence
        Coverage of the intervals.
    """

    dataset: str = ""
    simulated: bool = False
    confidence: float = 0.95

    @property
    def percent(self) -> str:
        """The coverage as text, e.g. ``"95%"``."""
        return f"{100 * self.confidence:g}%"

    def title(self, first: str, *more: str, width_in: float) -> str:
        """Put the dataset behind the first line of a title and more lines below, broken to fit a width."""
        recordings = "SIMULATED data, not mouse recordings" if self.simulated else self.dataset
        lines = (f"{first} ({recordings})" if recordings else first, *filter(None, more))
        n_letters = int((width_in - _MARGIN_IN) / TITLE_LETTER_IN)
        return "\n".join(textwrap.fill(line, n_letters) for line in lines)


def draw_run(run: ScoreRun, path: Path) -> list[Path]:
    """Draw a run: scores of every model with intervals and the ceiling; and the extrapolation beside it.

    Parameters
    ----------
    run
        The run.
    path
        File of the scores' figure; that of an extrapolation has ``-extrapolation`` before the suffix.

    Returns
    -------
    list of Path
        The files written.
    """
    labels = labels_of(run.scores)
    choice = run.scores.settings.layer_choice
    choices = {name: best_layers(scores, choice) for name, scores in {**run.models, **run.earlier}.items()}
    ceiling = None if run.ceiling is None else run.ceiling.summary()
    files = [save_figure(draw_scores(choices, ceiling, labels=labels), path)]
    if run.extrapolation is not None:
        beside = path.with_name(f"{path.stem}-extrapolation{path.suffix}")
        files.append(save_figure(draw_extrapolation(run.extrapolation, labels=labels), beside))
    return files


def check_figure(path: Path) -> None:
    """Check the file of a figure before hours of work end in it.

    Raises
    ------
    UsageError
        If the suffix is that of no format, or the path is a folder.
    """
    check_suffix(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file")


def check_suffix(path: Path) -> None:
    """Check that the suffix of a file names a format.

    Raises
    ------
    UsageError
        Naming the valid ones.
    """
    if path.suffix.lower() not in FORMATS:
        given = f"suffix '{path.suffix}'" if path.suffix else "no suffix"
        raise UsageError(f"{path}: {given} names no figure format; valid: {', '.join(FORMATS)}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all; equal figures give equal bytes with one version of matplotlib.

    Raises
    ------
    UsageError
        If the suffix names no format.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    with own_look(), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], metadata=FORMATS[suffix], dpi=DOTS_PER_INCH)
    return path


def labels_of(scores: Scores) -> FigureLabels:
    """Take the labels from scores of the dataset that is drawn."""
    dataset = str(scores.context.get("dataset", ""))
    return FigureLabels(dataset, dataset == "simulated", scores.settings.confidence)


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
        for index, (model, colour) in enumerate(zip(rows, shades(len(rows)), strict=True)):
            _draw_model(axes, areas, rows[model], model, (index, len(rows)), colour)
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


def _by_area(frame: pd.DataFrame) -> dict[str, Row]:
    return {
        str(row["area"]): {str(name): value for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    }


def _areas(rows: Mapping[str, Mapping[str, Row]]) -> list[str]:
    areas = dict.fromkeys(area for model in rows.values() for area in model)
    return sorted(areas, key=lambda area: area == ALL_AREAS)


def _choice_line(choices: Mapping[str, pd.DataFrame]) -> str:
    kinds = sorted({str(kind) for frame in choices.values() if "choice" in frame for kind in frame["choice"]})
    if len(kinds) > 1:
        raise UsageError(
            f"layers chosen in different ways ({', '.join(kinds)}) do not go into one figure; "
            "choose one for all models"
        )
    return CHOICES.get(kinds[0], kinds[0]) if kinds else ""


def _draw_ceiling(axes: Axes, areas: list[str], ceiling: Mapping[str, Row], labels: FigureLabels) -> None:
    first = True
    for index, area in enumerate(areas):
        row = ceiling.get(area)
        if row is None or math.isnan(row["median"]):
            continue
        span = (index - 0.46, index + 0.46)
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

    own_index, n_models = position
    width = _GROUP / n_models
    offset = (own_index - 0.5 * (n_models - 1)) * width
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
        if not math.isnan(row["low"]) and not math.isnan(row["high"]):
            bar = _draw_error_bars(
                axes, [x], [row], fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5, zorder=5
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
    return "\n".join([area_name(area), *_counts(present)])


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
            _draw_layers_of_area(axes, summary[summary["area"] == area], area, layers)
        bars = f"error bars: {labels.percent} intervals over animals and units"
        second = "filled: highest median of the area"
        title = labels.title("Predictivity of each layer", bars, second, width_in=width)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        figure.supylabel("median score over units", fontsize=9)
    return figure


def _draw_layers_of_area(axes: Axes, rows: pd.DataFrame, area: str, layers: list[str]) -> None:
    position = {layer: index for index, layer in enumerate(layers)}
    known = [row for row in rows.to_dict(orient="records") if not math.isnan(row["median"])]
    colour = shades(1)[0]
    axes.axhline(0.0, color=GREY, linewidth=0.6)
    axes.plot(
        [position[str(row["layer"])] for row in known],
        [row["median"] for row in known],
        color=colour,
        marker="o",
        markersize=4.5,
        markerfacecolor="white",
        linewidth=1.3,
        zorder=3,
    )
    if known:
        positions = [position[str(row["layer"])] for row in known]
        if "low" in rows:
            _draw_error_bars(axes, positions, known, fmt="none", ecolor=colour, zorder=2)
        best = max(known, key=lambda row: float(row["median"]))
        axes.plot(
            [position[str(best["layer"])]], [best["median"]], "o", color=colour, markersize=5.5, zorder=4
        )
    else:
        axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", color=GREY)
    counts = ", ".join(_counts(rows.to_dict(orient="records")))
    axes.set_title(f"{area_name(area)}\n{counts}", fontsize=9)
    axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    axes.set_xlim(-0.5, len(layers) - 0.5)


def draw_extrapolation(extrapolation: Extrapolation, *, labels: FigureLabels | None = None) -> Figure:
    """Draw medians by size with intervals, and the two curves through them, a panel per area.

    Parameters
    ----------
    extrapolation
        Ceilings by number of units or images.
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
                axes.set_xlabel(_SIZES[extrapolation.over])
        # All panels share this axis: room for the text above every curve.
        axes.set_ylim(top=_HEADROOM * axes.get_ylim()[1])
        first = f"Consistency between animals, predicted from {_SOURCES[extrapolation.settings.ceiling]}"
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
        _draw_error_bars(axes, sizes, known, fmt="o", color=dark, markersize=4, zorder=4)
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
    # Every size has all units of the targets.
    largest = [max(rows.to_dict(orient="records"), key=lambda row: int(row["n_units"]))]
    axes.set_title("\n".join((area_name(area), ", ".join(_counts(largest)))), fontsize=9)


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


@contextmanager
def own_look() -> Iterator[None]:
    """Draw with mvkit's settings of matplotlib, and put the user's back."""
    import matplotlib

    with matplotlib.rc_context(_LOOK):
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that belongs to no window and no pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Figure, n: int) -> list[Axes]:
    """Return ``n`` panels in rows, with shared y axes."""
    n_columns = min(n, COLUMNS)
    grid = figure.subplots(-(-n // n_columns), n_columns, sharey=True, squeeze=False)
    flat = list(grid.ravel())
    for spare in flat[n:]:
        spare.set_visible(False)
    return flat[:n]


def panel_size(n: int) -> tuple[float, float]:
    """Return width and height in inches of a figure of ``n`` panels."""
    n_columns = min(n, COLUMNS)
    return 1.2 + 2.5 * n_columns, 1.5 + 2.3 * -(-n // n_columns)


def shades(n: int) -> list[str]:
    """Return ``n`` colours from dark to light that differ in lightness, for all eyes and in grey print."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    cividis = colormaps["cividis"]
    # A single model needs no contrast to others; the lightest yellow would not show on white.
    positions = [0.35] if n == 1 else [0.08 + 0.84 * index / (n - 1) for index in range(n)]
    return [to_hex(cividis(position)) for position in positions]


def _counts(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Write numbers of units and animals, ``12 units`` or, where rows differ, ``10-12 units``."""
    texts = []
    for column, noun in (("n_units", "unit"), ("n_animals", "animal")):
        numbers = [int(row[column]) for row in rows]
        low, high = min(numbers), max(numbers)
        number = str(low) if low == high else f"{low}-{high}"
        texts.append(f"{number} {noun}{'' if number == '1' else 's'}")
    return texts


def _draw_error_bars(
    axes: Axes, x: Sequence[float], rows: Sequence[Mapping[Any, Any]], **style: Any
) -> ErrorbarContainer:
    """Draw medians with their intervals; bars of no length where there is no interval."""
    lengths = []
    for row in rows:
        has_interval = not (math.isnan(row["low"]) or math.isnan(row["high"]))
        below, above = row["median"] - row["low"], row["high"] - row["median"]
        lengths.append((max(below, 0.0), max(above, 0.0)) if has_interval else (0.0, 0.0))
    return axes.errorbar(
        x,
        [row["median"] for row in rows],
        yerr=[[below for below, _ in lengths], [above for _, above in lengths]],
        **{"elinewidth": 1.0, "capsize": 2.0, **style},
    )
