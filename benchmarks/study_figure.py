"""The figure of docs/science/simulation.md, for benchmarks/simulation_study.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from study_estimators import PUBLISHED, Cell

HONEST = ("corrected-mean", "attenuation")
N_BINS = 8
STYLES = {"mean-of-corrected": "--", "corrected-mean": "-"}
COLOURS = {
    "spearman-brown-denominator": "#c44e52",
    "spearman-brown-ratio": "#8c8c8c",
    "attenuation": "#2b6cb0",
    "none": "#55a868",
}
SHADES = ("#a6bddb", "#3690c0", "#034e7b")


def draw_figure(cells: list[Cell], biases: pd.DataFrame, coverage: pd.DataFrame, path: Path) -> None:
    """Write the three panels: recovery, bias over reliability, coverage over the number of animals."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mvkit", "font.size": 9}):
        figure = Figure(figsize=(12.0, 3.9), layout="constrained")
        FigureCanvasSVG(figure)
        first, second, third = figure.subplots(1, 3)
        _recovery(first, cells)
        _bias(second, biases)
        _coverage(third, coverage)
        figure.savefig(path, metadata={"Date": None})


def _recovery(axes: Axes, cells: list[Cell]) -> None:
    """Median score of units of about equal true predictivity."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    shown = [cell for cell in cells if cell.reliability in (0.3, 0.5, 0.9)]
    for cell, colour in zip(shown, SHADES, strict=False):
        truth = np.broadcast_to(cell.truth[:, None], next(iter(cell.scores.values())).shape).ravel()
        order = np.array_split(np.argsort(truth, kind="stable"), N_BINS)
        for combination, style in ((PUBLISHED, "--"), (HONEST, "-")):
            scores = cell.scores[combination].ravel()
            axes.plot(
                [truth[group].mean() for group in order],
                [np.nanmedian(scores[group]) for group in order],
                style,
                color=colour,
                marker="o",
                markersize=3,
                label=f"reliability {cell.reliability:g}, {'published' if style == '--' else 'honest'}",
            )
    axes.set(xlabel="true predictivity of the map", ylabel="score (median over units)", title="Recovery")
    axes.legend(frameon=False, fontsize=7)


def _bias(axes: Axes, biases: pd.DataFrame) -> None:
    axes.axhline(0.0, color="black", linewidth=0.8)
    for (correction, estimator), part in biases.groupby(["correction", "estimator"]):
        axes.errorbar(
            part["reliability"],
            part["median_bias"],
            yerr=2.0 * part["median_se"],
            linestyle=STYLES[str(estimator)],
            color=COLOURS[str(correction)],
            marker="o",
            markersize=3,
            label=f"{correction}, {estimator}",
        )
    axes.set(
        xlabel="reliability of the mean of all trials",
        ylabel="score - truth (median over units)",
        title="Bias",
        ylim=(-0.36, 0.95),
    )
    axes.legend(frameon=False, fontsize=7, loc="upper right")


def _coverage(axes: Axes, coverage: pd.DataFrame) -> None:
    axes.axhspan(0.93, 0.97, color="#e8eef5")
    axes.axhline(0.95, color="black", linewidth=0.8)
    largest = coverage["n_units"].max()
    for (shape, share), part in coverage[coverage["n_units"] == largest].groupby(["shape", "animal_share"]):
        axes.plot(
            part["n_animals"],
            part["coverage"],
            marker="o",
            markersize=3,
            label=f"{shape}, animals {share:.0%} of variance",
        )
    axes.set(
        xlabel="animals",
        ylabel="share of intervals that hold the truth",
        title="Coverage of 95 % intervals",
        ylim=(0.85, 1.0),
        xscale="log",
    )
    numbers = sorted(coverage["n_animals"].unique())
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7, loc="lower right")
