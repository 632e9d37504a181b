"""Figures: what stands in them are the numbers of the tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from mvkit.errors import UsageError
from mvkit.report.figures import (
    BEYOND,
    FORMATS,
    FigureLabels,
    check_suffix,
    draw_extrapolation,
    draw_layers,
    draw_scores,
    labels_of,
    save_figure,
    shades,
)
from mvkit.scoring.extrapolation import AreaSizes, Extrapolation
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import ScoreSettings


def rows(medians, *, choice="held-out", n_units=40):
    """A table of chosen layers: area -> median; intervals reach 0.1 down and 0.2 up."""
    return pd.DataFrame(
        [
            {
                "area": area,
                "layer": "conv1",
                "median": median,
                "low": median - 0.1,
                "high": median + 0.2,
                "n_units": n_units,
                "n_animals": 3,
                "choice": choice,
            }
            for area, median in medians.items()
        ]
    )


MODELS = {
    "dual": rows({"VISp": 0.4, "VISl": 0.3, "all": 0.35}),
    "single": rows({"VISp": 0.5, "VISl": math.nan, "all": 0.45}, n_units=38),
}
CEILING = pd.DataFrame(
    {"area": ["VISp", "all"], "median": [0.6, 0.55], "low": [0.5, math.nan], "high": [0.7, math.nan]}
)


def bars_of(axes, label):
    return next(container for container in axes.containers if container.get_label() == label)


def error_bar_ends(axes):
    """(x, low, high) of every error bar of a figure of bars."""
    ends = []
    for container in axes.containers:
        if hasattr(container, "has_yerr"):
            for segment in container[2][0].get_segments():
                ends.append((segment[0][0], segment[0][1], segment[1][1]))
    return ends


def test_bars_and_their_intervals_are_the_rows():
    axes = draw_scores(MODELS, None).axes[0]
    dual, single = bars_of(axes, "dual"), bars_of(axes, "single")
    assert [bar.get_height() for bar in dual] == [0.4, 0.3, 0.35]
    # An area without a score has no bar, and the others stay in their places.
    assert [bar.get_height() for bar in single] == [0.5, 0.45]
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in single] == [0, 2]
    centres = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in (*dual, *single)}
    ends = error_bar_ends(axes)
    assert len(ends) == 5
    for x, low, high in ends:
        centre = min(centres, key=lambda place: abs(place - x))
        assert centre == pytest.approx(x)
        assert [low, high] == pytest.approx([centres[centre] - 0.1, centres[centre] + 0.2])


def test_a_missing_score_is_written_not_left_blank():
    axes = draw_scores(MODELS, None).axes[0]
    missing = [text for text in axes.texts if text.get_text() == "no score"]
    assert [round(text.xy[0]) for text in missing] == [1]


def test_bars_of_models_do_not_overlap():
    axes = draw_scores(MODELS, None).axes[0]
    edges = sorted(
        (bar.get_x(), bar.get_x() + bar.get_width())
        for container in (bars_of(axes, "dual"), bars_of(axes, "single"))
        for bar in container
    )
    assert all(right <= left for (_, right), (left, _) in pairwise(edges))


def test_areas_carry_their_counts_and_the_pooled_one_is_last():
    shuffled = {name: frame.iloc[[2, 0, 1]] for name, frame in MODELS.items()}
    axes = draw_scores(shuffled, None).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "VISp\n38-40 units\n3 animals",
        "VISl\n38-40 units\n3 animals",
        "all areas\n38-40 units\n3 animals",
    ]


def test_the_ceiling_is_a_line_with_a_band_where_it_has_an_interval():
    figure = draw_scores(MODELS, CEILING)
    axes = figure.axes[0]
    lines = {
        round(float(np.mean(line.get_xdata()))): line.get_ydata()[0]
        for line in axes.lines
        if line.get_linestyle() == "--"
    }
    assert lines == {0: 0.6, 2: 0.55}
    bands = [part.get_paths()[0].get_extents() for part in axes.collections if part.get_zorder() == 0.5]
    assert [(band.y0, band.y1, round((band.x0 + band.x1) / 2)) for band in bands] == [(0.5, 0.7, 0)]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["ceiling: other animals", "dual", "single"]


def test_the_title_says_how_layers_were_chosen_and_that_data_are_simulated():
    title = draw_scores(MODELS, None, labels=FigureLabels(simulated=True)).axes[0].get_title(loc="left")
    assert "SIMULATED" in title and "held-out" in title
    paper = {"dual": rows({"VISp": 0.4}, choice="paper")}
    title = draw_scores(paper, None, labels=FigureLabels("neuropixels")).axes[0].get_title(loc="left")
    assert "(neuropixels)" in title and "(paper)" in title and "SIMULATED" not in title


def test_intervals_are_named_with_their_coverage():
    figure = draw_scores(MODELS, CEILING, labels=FigureLabels(confidence=0.9))
    assert "90% intervals" in figure.legends[0].get_title().get_text()


def test_layers_chosen_in_two_ways_do_not_share_a_figure():
    mixed = {"dual": rows({"VISp": 0.4}), "single": rows({"VISp": 0.4}, choice="paper")}
    with pytest.raises(UsageError, match="held-out, paper"):
        draw_scores(mixed, None)
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_scores({}, None)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_colours_differ_in_grey_print(n):
    lightness = [float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))) for colour in shades(n)]
    assert len(lightness) == n and lightness[-1] < 0.9
    assert all(after - before > 0.03 for before, after in pairwise(lightness))


def summary():
    """Three layers, two areas; the last layer of VISl has no score."""
    medians = {"VISp": [0.2, 0.4, 0.3], "VISl": [0.1, 0.15, math.nan]}
    return pd.DataFrame(
        [
            {"layer": layer, "area": area, "median": median, "low": median - 0.05, "high": median + 0.1}
            | {"n_units": 0 if math.isnan(median) else 7, "n_animals": 2}
            for place, layer in enumerate(["conv1", "conv2", "fc"])
            for area, values in medians.items()
            for median in [values[place]]
        ]
    )


def test_layers_stand_in_the_order_of_the_network():
    visp, visl = draw_layers(summary()).axes
    assert [label.get_text() for label in visp.get_xticklabels()] == ["conv1", "conv2", "fc"]
    assert visp.lines[1].get_xydata().tolist() == [[0, 0.2], [1, 0.4], [2, 0.3]]
    assert visl.lines[1].get_xydata().tolist() == [[0, 0.1], [1, 0.15]]
    assert visp.get_title() == "VISp\n7 units, 2 animals"
    assert visl.get_title() == "VISl\n0-7 units, 2 animals"


def test_intervals_of_layers_are_the_rows():
    visp = draw_layers(summary()).axes[0]
    ends = [segment[:, 1].tolist() for segment in visp.containers[0][2][0].get_segments()]
    assert np.array(ends) == pytest.approx(np.array([[0.15, 0.3], [0.35, 0.5], [0.25, 0.4]]))
    without = draw_layers(summary().drop(columns=["low", "high"])).axes[0]
    assert not without.containers


def test_the_best_layer_of_an_area_is_filled():
    axes = draw_layers(summary()).axes[0]
    filled = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [line.get_xydata().tolist() for line in filled] == [[[1, 0.4]]]


def extrapolation(*, level=0.6, over="units"):
    """Two areas whose medians lie on a saturating curve, and one that was skipped."""
    rng = np.random.default_rng(0)
    sizes = np.array([4, 8, 16, 32, 64])
    animals = np.repeat(np.arange(4), 10)
    spread = 0.02 * rng.standard_normal(40)
    curve = level * np.sqrt(sizes / (sizes + 10.0))
    scores = curve[:, None] + spread - np.median(spread)
    area = AreaSizes("VISp", sizes, scores, animals, np.arange(40), {}, "")
    alone = AreaSizes.nothing("VISl", {}, "no other animal in this area")
    settings = ScoreSettings(n_resamples=200, ceiling="holdout", confidence=0.9)
    return Extrapolation(over, (area, alone, replace(area, area="all")), settings, "0" * 64)


def test_points_and_curves_of_an_extrapolation_are_those_of_its_tables():
    found = extrapolation()
    axes = draw_extrapolation(found).axes[0]
    table = found.table()
    of_area = table[table["area"] == "VISp"]
    points, _, (bars,) = axes.containers[0]
    assert points.get_xydata().tolist() == of_area[["size", "median"]].to_numpy(dtype=float).tolist()
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(of_area[["low", "high"]].to_numpy())
    fit = found.fits().iloc[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) > 10]
    inside, outside = curves[:2]
    assert inside.get_ydata()[-1] == outside.get_ydata()[0] == pytest.approx(fit["at_largest"])
    assert outside.get_xdata()[-1] == pytest.approx(BEYOND * 64)
    half, exponent = fit["half"], fit["exponent"]
    expected = fit["asymptote"] * (BEYOND * 64 / (BEYOND * 64 + half)) ** exponent
    assert outside.get_ydata()[-1] == pytest.approx(expected)
    assert curves[3].get_ydata()[-1] == pytest.approx(
        found.fits().iloc[1]["at_largest"] + found.fits().iloc[1]["slope"] * np.log(BEYOND)
    )


def test_a_determined_asymptote_is_a_line_with_its_interval():
    found = extrapolation()
    axes = draw_extrapolation(found).axes[0]
    fit = found.fits().iloc[0]
    assert fit["determined"]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted[0].get_ydata()[0] == fit["asymptote"] == pytest.approx(0.6, abs=0.01)
    numbers = re.findall(r"\d\.\d\d", axes.texts[0].get_text())
    expected = [f"{fit[name]:.2f}" for name in ("asymptote", "asymptote_low", "asymptote_high")]
    assert numbers == expected


def test_an_asymptote_that_is_not_determined_has_no_line_but_a_reason():
    found = extrapolation()
    rising = replace(found.areas[0], scores=found.areas[0].scores * (found.areas[0].sizes / 64.0)[:, None])
    figure = draw_extrapolation(replace(found, areas=(rising,)))
    axes = figure.axes[0]
    assert not [line for line in axes.lines if line.get_linestyle() == ":"]
    assert "asymptote not determined" in " ".join(axes.texts[0].get_text().split())


def test_an_extrapolation_names_what_was_left_out_and_its_protocol():
    figure = draw_extrapolation(extrapolation(over="stimuli"), labels=FigureLabels("neuropixels"))
    title = figure.get_suptitle()
    assert "VISl: no other animal in this area" in title and "(neuropixels)" in title
    assert "all other animals pooled" in title and "90% intervals" in title
    assert [axes.get_title() for axes in figure.axes] == [
        "VISp\n40 units, 4 animals",
        "all areas\n40 units, 4 animals",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"images"}


def test_nothing_is_cut_off_at_the_edges():
    simulated = FigureLabels(simulated=True)
    long_names = {
        f"{name}_with_a_name_of_many_letters_as_of_a_checkpoint": rows for name, rows in MODELS.items()
    }
    one_area = replace(extrapolation(), areas=extrapolation().areas[:2])
    for figure in (
        draw_scores(MODELS, CEILING, labels=simulated),
        draw_scores(long_names, CEILING),
        draw_layers(summary(), labels=simulated),
        draw_layers(summary().iloc[::2], labels=simulated),
        draw_extrapolation(extrapolation()),
        draw_extrapolation(one_area, labels=simulated),
    ):
        figure.canvas.draw()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0.0 and box.y0 >= 0.0 and box.x1 <= width and box.y1 <= height


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_figures_are_equal_files(tmp_path, suffix):
    first, second = tmp_path / f"first{suffix}", tmp_path / "deep" / f"second{suffix}"
    assert save_figure(draw_scores(MODELS, CEILING), first) == first
    save_figure(draw_scores(MODELS, CEILING), second)
    assert first.read_bytes() == second.read_bytes()
    start = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert first.read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", first.name]


def test_a_users_settings_of_matplotlib_neither_matter_nor_change(tmp_path):
    save_figure(draw_layers(summary()), tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30.0, "svg.hashsalt": "mine", "axes.spines.top": True}):
        save_figure(draw_layers(summary()), tmp_path / "mine.svg")
        assert matplotlib.rcParams["font.size"] == 30.0
        assert matplotlib.rcParams["svg.hashsalt"] == "mine"
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "mine.svg").read_bytes()


@pytest.mark.parametrize("name", ["scores.jpg", "scores", "scores.svgz"])
def test_unknown_formats_are_refused_naming_the_known(tmp_path, name):
    with pytest.raises(UsageError, match=r"valid: \.svg, \.png, \.pdf"):
        save_figure(draw_extrapolation(extrapolation()), tmp_path / name)
    assert not list(tmp_path.iterdir())
    check_suffix(tmp_path / "SCORES.PNG")


def test_a_failed_save_leaves_no_file(tmp_path):
    figure = draw_layers(summary())
    figure.text(0.5, 0.5, "$\\nonsense$")
    with pytest.raises(ValueError):
        save_figure(figure, tmp_path / "layers.svg")
    assert not list(tmp_path.iterdir())


def test_labels_come_from_the_scores():
    scores = Scores({}, (), (), ScoreSettings(confidence=0.9), {"dataset": "simulated"})
    assert labels_of(scores) == FigureLabels("simulated", simulated=True, confidence=0.9)
    assert not labels_of(replace(scores, context={"dataset": "neuropixels"})).simulated


def test_nothing_is_left_of_pyplot():
    import sys

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
