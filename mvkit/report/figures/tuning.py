"""Figure of one unit: responses to all images, the best and the worst, over time, and as predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.report.figures.style import (
    GREY,
    INK,
    PALE,
    PALETTE,
    SMALL,
    FigureStyle,
    layer_name,
    looks,
    new_figure,
    own_look,
    recordings_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pictures of the images with the largest, and with the smallest responses.
N_THUMBNAILS = 5
#: Longer side of a picture in pixels: more would only make files large.
_THUMBNAIL_PX = 160
_BEST, _WORST = PALETTE[1], PALETTE[3]


@dataclass(frozen=True, eq=False)
class UnitResponses:
    """Responses of one unit to all images, and what a model makes of them.

    Attributes
    ----------
    dataset, area, specimen, unit_id
        Where the unit is from.
    units_of_measure
        Of the responses, for example ``"spikes/s"``.
    stimuli
        uint8 (n_images, height, width).
    responses
        float (n_trials, n_images), averaged over time; NaN = missing.
    reliability
        Split-half reliability (in the best time bin); NaN = not known.
    time_s
        float64 (n_bins,), centres of time bins in seconds after onset; None without a time axis.
    course
        float64 (n_bins, n_images), mean over trials; None without a time axis.
    prediction
        float64 (n_images,), in the units of measure: each image predicted by a map that was fitted without
        it; None without a model.
    model, layer
        Names of what predicts, or "".
    """

    dataset: str
    area: str
    specimen: int
    unit_id: int
    units_of_measure: str
    stimuli: NDArray[np.uint8]
    responses: NDArray[np.floating[Any]]
    reliability: float = math.nan
    time_s: NDArray[np.float64] | None = None
    course: NDArray[np.float64] | None = None
    prediction: NDArray[np.float64] | None = None
    model: str = ""
    layer: str = ""

    def means(self) -> NDArray[np.float64]:
        """Return the mean response to every image over its trials, float64 (n_images,); NaN without one."""
        has_trial = ~np.isnan(self.responses)
        counts = has_trial.sum(axis=0)
        totals = np.where(has_trial, self.responses, 0.0).sum(axis=0, dtype=np.float64)
        return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)

    def sems(self) -> NDArray[np.float64]:
        """Return the standard error of these means, float64 (n_images,); NaN of fewer than two trials."""
        has_trial = ~np.isnan(self.responses)
        counts = has_trial.sum(axis=0)
        deviations = np.where(has_trial, self.responses - self.means(), 0.0)
        variance = np.square(deviations).sum(axis=0) / np.maximum(counts - 1, 1)
        return np.where(counts > 1, np.sqrt(variance / np.maximum(counts, 1)), np.nan)

    def ranking(self) -> NDArray[np.int64]:
        """Return the images with a response, from the largest mean to the smallest."""
        means = self.means()
        order = np.argsort(-means, kind="stable")
        return order[~np.isnan(means[order])]

    def correlation(self) -> float:
        """Return Pearson's correlation of prediction and mean response; NaN without a prediction."""
        if self.prediction is None:
            return math.nan
        means = self.means()
        known = ~(np.isnan(means) | np.isnan(self.prediction))
        if known.sum() < 2 or np.ptp(means[known]) == 0 or np.ptp(self.prediction[known]) == 0:
            return math.nan
        return float(np.corrcoef(means[known], self.prediction[known])[0, 1])


def draw_unit(unit: UnitResponses, *, style: FigureStyle | None = None) -> Figure:
    """Draw one unit: its mean response to every image by rank, with the best and the worst images.

    Parameters
    ----------
    unit
        Its responses.
    style
        Width and titles.

    Returns
    -------
    Figure
        Panels: responses by rank with standard errors; over time, where there are time bins, for the best and
        the worst images and all; prediction against response, where there is a model; and pictures of the
        images.

    Raises
    ------
    DataError
        If fewer than two images have a response.
    """
    style = style or FigureStyle()
    ranking = unit.ranking()
    if len(ranking) < 2:
        raise DataError(f"unit {unit.unit_id} of {unit.area}: no responses to two images")
    n_shown = min(N_THUMBNAILS, len(ranking) // 2)
    best, worst = ranking[:n_shown], ranking[-n_shown:][::-1]
    kinds = [
        "tuning",
        *(["time"] if unit.course is not None else []),
        *(["model"] if unit.prediction is not None else []),
    ]
    notes = ["Shaded: s.e.m. over trials"]
    if unit.course is not None:
        notes.append(f"over time: mean over the {n_shown} best and the {n_shown} worst images, and all")
    if unit.prediction is not None:
        notes.append(
            "predictions: of each image from the others (PLS, five folds); dashed: equal; r: not corrected "
            "for noise"
        )
    known = "" if math.isnan(unit.reliability) else f", reliability {unit.reliability:.3f}"
    with own_look():
        width = style.width(2 if len(kinds) > 1 else 1)
        picture = (width - 0.5) / (2 * n_shown) * unit.stimuli.shape[1] / unit.stimuli.shape[2]
        figure = new_figure(
            width,
            1.85 + picture + 0.35,
            title=f"Unit {unit.unit_id} in {unit.area} of animal {unit.specimen}, "
            f"{recordings_name(unit.dataset)}{known}",
            note="; ".join(notes),
            style=style,
        )
        rows = figure.add_gridspec(2, 1, height_ratios=[1.95, picture + 0.15])
        panels = rows[0].subgridspec(
            1, len(kinds), width_ratios=[1.5 if kind == "tuning" else 1 for kind in kinds]
        )
        for index, kind in enumerate(kinds):
            axes = figure.add_subplot(panels[index])
            {"tuning": _draw_tuning, "time": _draw_course, "model": _draw_prediction}[kind](
                axes, unit, best, worst
            )
        pictures = rows[1].subgridspec(
            1, 2 * n_shown + 1, width_ratios=[*[1.0] * n_shown, 0.1, *[1.0] * n_shown]
        )
        for index, image in enumerate((*best, *worst[::-1])):
            is_best = index < n_shown
            axes = figure.add_subplot(pictures[index if is_best else index + 1])
            _draw_picture(axes, unit, int(image), _BEST if is_best else _WORST)
            if index in (0, n_shown):
                words = "largest responses" if is_best else "smallest responses"
                # Wider than its picture, it must not push the others away; the blank title makes room.
                axes.set_title(" ", loc="left", fontsize=SMALL, pad=2.0)
                options: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
                label = axes.annotate(words, (0.0, 1.0), xytext=(0.0, 2.5), fontsize=SMALL, **options)
                label.set_in_layout(False)
    return figure


def _draw_tuning(axes: Axes, unit: UnitResponses, best: NDArray[np.int64], worst: NDArray[np.int64]) -> None:
    ranking = unit.ranking()
    means, sems = unit.means()[ranking], np.nan_to_num(unit.sems()[ranking])
    ranks = np.arange(1, len(ranking) + 1)
    axes.fill_between(ranks, means - sems, means + sems, color=PALE, linewidth=0, zorder=1)
    axes.plot(ranks, means, color=INK, linewidth=1.0, zorder=2, gid="means")
    for images, colour in ((best, _BEST), (worst, _WORST)):
        chosen = np.isin(ranking, images)
        axes.plot(ranks[chosen], means[chosen], "o", color=colour, markersize=3, zorder=3)
    axes.set_xlabel("images by response")
    axes.set_ylabel(f"mean response ({unit.units_of_measure})")
    axes.set_xlim(0, len(ranking) + 1)
    axes.set_title("tuning over images", loc="left", fontweight="bold")


def _draw_course(axes: Axes, unit: UnitResponses, best: NDArray[np.int64], worst: NDArray[np.int64]) -> None:
    if unit.course is None or unit.time_s is None:
        return
    time_ms = 1000 * unit.time_s
    everything = np.arange(unit.course.shape[1])
    for images, colour, name in ((everything, GREY, "all"), (worst, _WORST, "worst"), (best, _BEST, "best")):
        part = unit.course[:, images]
        counts = (~np.isnan(part)).sum(axis=1)
        mean = np.where(counts > 0, np.nansum(part, axis=1) / np.maximum(counts, 1), np.nan)
        axes.plot(time_ms, mean, color=colour, linewidth=1.1, gid=name)
    axes.set_xlabel("time after onset (ms)")
    axes.set_ylabel(f"response ({unit.units_of_measure})")
    axes.set_title("response over time", loc="left", fontweight="bold")


def _draw_prediction(
    axes: Axes, unit: UnitResponses, best: NDArray[np.int64], worst: NDArray[np.int64]
) -> None:
    if unit.prediction is None:
        return
    look = looks([unit.model])[unit.model]
    means = unit.means()
    rest = np.setdiff1d(np.arange(len(means)), np.concatenate([best, worst]))
    for images, colour in ((rest, look.colour), (worst, _WORST), (best, _BEST)):
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 2.6, "markeredgewidth": 0}
        axes.plot(unit.prediction[images], means[images], color=colour, alpha=0.8, gid="images", **style)
    axes.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    r = unit.correlation()
    words = "" if math.isnan(r) else f": r = {r:.2f}".replace("-", "\N{MINUS SIGN}")
    axes.set_title(f"prediction{words}", loc="left", fontweight="bold")
    axes.set_xlabel(f"{layer_name(unit.model, unit.layer)}\n({unit.units_of_measure})", linespacing=1.15)
    axes.set_ylabel(f"mean response ({unit.units_of_measure})")


def _draw_picture(axes: Axes, unit: UnitResponses, image: int, colour: str) -> None:
    picture = unit.stimuli[image]
    step = max(1, max(picture.shape) // _THUMBNAIL_PX)
    # Means over blocks; single pixels would alias.
    height, width = (size // step * step for size in picture.shape)
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step)
    axes.imshow(blocks.mean(axis=(1, 3)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colour)
    axes.spines[:].set_linewidth(1.0)
    axes.set_xlabel(f"{unit.means()[image]:.3g}", fontsize=SMALL, labelpad=1.5)
