"""Extrapolated ceilings: what stands in the figure are the numbers of the tables."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mvkit.report.figures.ceilings import BEYOND, draw_extrapolation
from mvkit.report.figures.style import FigureStyle, caption_of
from mvkit.scoring.extrapolation import AreaSizes, Extrapolation
from mvkit.scoring.settings import ScoreSettings


def extrapolation(*, level=0.6, over="units", n_animals=4):
    """Two areas whose medians lie on a saturating curve, and one that was skipped."""
    rng = np.random.default_rng(0)
    sizes = np.array([4, 8, 16, 32, 64])
    animals = np.arange(40) % n_animals
    spread = 0.02 * rng.standard_normal(40)
    curve = level * np.sqrt(sizes / (sizes + 10.0))
    scores = curve[:, None] + spread - np.median(spread)
    area = AreaSizes("VISp", sizes, scores, animals, np.arange(40), {}, "")
    alone = AreaSizes.nothing("VISl", {}, "no other animal in this area")
    settings = ScoreSettings(n_resamples=200, ceiling="holdout", confidence=0.9)
    return Extrapolation(over, (area, alone, replace(area, area="all")), settings, "0" * 64)


def lines_of(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


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
    curves = lines_of(axes, "curve")
    inside, outside = curves[:2]
    assert inside.get_ydata()[-1] == outside.get_ydata()[0] == pytest.approx(fit["at_largest"])
    assert outside.get_xdata()[-1] == pytest.approx(BEYOND * 64)
    half, exponent = fit["half"], fit["exponent"]
    expected = fit["asymptote"] * (BEYOND * 64 / (BEYOND * 64 + half)) ** exponent
    assert outside.get_ydata()[-1] == pytest.approx(expected)
    assert curves[3].get_ydata()[-1] == pytest.approx(
        found.fits().iloc[1]["at_largest"] + found.fits().iloc[1]["slope"] * np.log(BEYOND)
    )


def test_two_animals_have_no_error_bars():
    figure = draw_extrapolation(extrapolation(n_animals=2))
    _, _, (bars,) = figure.axes[0].containers[0]
    assert all(segment[0, 1] == segment[1, 1] for segment in bars.get_segments())
    assert "no error bars with fewer than 3 animals: VISp, all areas" in caption_of(figure)


def test_a_determined_asymptote_is_a_line_with_its_interval():
    found = extrapolation()
    axes = draw_extrapolation(found).axes[0]
    fit = found.fits().iloc[0]
    assert fit["determined"]
    (line,) = lines_of(axes, "asymptote")
    assert line.get_ydata()[0] == fit["asymptote"] == pytest.approx(0.6, abs=0.01)
    text = next(text.get_text() for text in axes.texts if "asymptote" in text.get_text())
    expected = [f"{fit[name]:.2f}" for name in ("asymptote", "asymptote_low", "asymptote_high")]
    assert re.findall(r"\d\.\d\d", text) == expected


def test_an_asymptote_that_is_not_determined_has_no_line_but_a_reason():
    found = extrapolation()
    rising = replace(found.areas[0], scores=found.areas[0].scores * (found.areas[0].sizes / 64.0)[:, None])
    axes = draw_extrapolation(replace(found, areas=(rising,))).axes[0]
    assert not lines_of(axes, "asymptote")
    assert any("asymptote not determined" in " ".join(text.get_text().split()) for text in axes.texts)


def test_an_extrapolation_names_what_was_left_out_and_its_protocol():
    figure = draw_extrapolation(extrapolation(over="stimuli"), dataset="neuropixels")
    caption = caption_of(figure)
    assert "VISl: no other animal in this area" in caption and "in neuropixels" in caption
    assert "all other animals pooled" in caption and "90\N{NO-BREAK SPACE}% intervals" in caption
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["VISp", "all areas"]
    counts = [text.get_text() for text in figure.axes[0].texts if "units" in text.get_text()]
    assert counts == ["40 units, 4 animals"]
    labels = {text.get_gid(): text.get_text() for text in figure.texts}
    assert labels["x label"] == "images"


def test_nothing_is_cut_off_at_the_edges():
    one_area = replace(extrapolation(), areas=extrapolation().areas[:2])
    for figure in (
        draw_extrapolation(extrapolation(), dataset="simulated"),
        draw_extrapolation(one_area, style=FigureStyle(2.5)),
    ):
        figure.canvas.draw()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0.0 and box.y0 >= 0.0 and box.x1 <= width and box.y1 <= height
