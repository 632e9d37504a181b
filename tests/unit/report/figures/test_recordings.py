"""Figures of recordings: reliabilities, dissimilarities, one unit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.neural.selection import UnitFacts
from mvkit.report.figures import (
    RDMPair,
    UnitResponses,
    caption_of,
    draw_rdms,
    draw_reliability,
    draw_reliability_histogram,
    draw_unit,
)
from mvkit.report.figures.reliability import EDGES
from mvkit.report.figures.style import FigureStyle


def check_inside(figure):
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0.0 and box.y0 >= -0.01 and box.x1 <= width and box.y1 <= height


def line_of(axes, gid):
    return next(line for line in axes.lines if line.get_gid() == gid)


def facts(reliability, areas, time_s=None):
    return UnitFacts(
        areas=np.array(areas),
        specimens=np.ones(len(areas), np.int64),
        reliability=None if reliability is None else np.array(reliability, dtype=np.float64),
        run_p=None,
        time_s=time_s,
    )


TIMES = np.array([0.005, 0.015, 0.025])
TIMED = facts(
    [[0.1, 0.3, np.nan, 0.2], [0.6, 0.8, 0.4, 0.9], [0.2, 0.4, 0.1, 0.6]],
    ["VISp", "VISp", "VISp", "VISl"],
    TIMES,
)


def test_reliability_over_time_is_the_median_of_the_selected_units():
    figure = draw_reliability(TIMED, dataset="mine")
    axes = figure.axes[0]
    # The third unit stays below 0.5.
    assert line_of(axes, "VISp").get_xydata() == pytest.approx(np.array([[5, 0.2], [15, 0.7], [25, 0.3]]))
    assert line_of(axes, "VISl").get_ydata().tolist() == [0.2, 0.9, 0.6]
    assert line_of(axes, "threshold").get_ydata()[0] == 0.3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["VISp (2 units)", "VISl (1 unit)"]
    assert "units of reliability 0.5 or more" in caption_of(figure)
    assert axes.get_xlabel() == "time after onset of the image (ms)"
    check_inside(figure)


def test_reliability_as_a_fraction_of_its_maximum_over_all_units():
    figure = draw_reliability(TIMED, selection="none", fraction=True)
    axes = figure.axes[0]
    assert line_of(axes, "VISp").get_ydata() == pytest.approx(np.array([0.2, 0.6, 0.2]) / 0.6)
    assert line_of(axes, "VISl").get_ydata().max() == 1.0
    assert axes.get_ylabel() == "reliability, fraction of its maximum"
    assert not [line for line in axes.lines if line.get_gid() == "threshold"]


def test_recordings_without_time_bins_point_to_the_histogram():
    with pytest.raises(DataError, match="mvkit plot histogram"):
        draw_reliability(facts([0.1, 0.9], ["VISp", "VISp"]))
    with pytest.raises(DataError, match="no unit reaches the threshold"):
        draw_reliability(facts([[0.1], [0.2]], ["VISp"], TIMES[:2]))
    with pytest.raises(DataError, match="mvkit fetch reliability FILE"):
        draw_reliability(facts(None, ["VISp"], TIMES))


def test_histograms_count_units_and_show_the_threshold():
    values = [-0.5, 0.1, 0.76, 0.9, 0.97, np.nan]
    figure = draw_reliability_histogram(facts(values, ["VISp"] * 6), dataset="mine")
    axes = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    expected, _ = np.histogram(np.clip(values[:5], -0.2, 1), EDGES)
    assert heights == expected.tolist() and heights[0] == 1
    # Averaged recordings: the code's threshold is 0.75.
    assert line_of(axes, "threshold").get_xdata()[0] == 0.75
    assert axes.texts[0].get_text() == "3 of 5 units at 0.75 or more"
    pale = [
        bar.get_x() for bar in axes.patches if bar.get_facecolor()[:3] == axes.patches[0].get_facecolor()[:3]
    ]
    assert max(pale) + 0.05 == pytest.approx(0.75)
    assert "1 units without a reliability are left out" in caption_of(figure)
    check_inside(figure)


def test_histograms_of_time_resolved_recordings_take_the_best_bin():
    figure = draw_reliability_histogram(TIMED)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["VISp", "VISl"]
    assert figure.axes[0].texts[0].get_text() == "2 of 3 units at 0.5 or more"
    assert "in its best time bin" in caption_of(figure)
    with pytest.raises(DataError, match="mine: no reliabilities; measure them"):
        draw_reliability_histogram(facts(None, ["VISp"]), dataset="mine")


def pair():
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((12, 30)) + 3 * np.repeat(rng.standard_normal((3, 30)), 4, axis=0)
    shuffled = patterns[np.array([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])]
    rdm = 1 - np.corrcoef(shuffled)
    return RDMPair(rdm, 2 * rdm + 1, "VISp", "gabor", "energy", "mine", 30, 4)


def test_rdms_stand_side_by_side_in_the_order_of_the_area():
    rdms = pair()
    figure = draw_rdms(rdms)
    area, layer = figure.axes[:2]
    order = rdms.order()
    assert sorted(order) == list(range(12))
    # Groups of four like images become neighbours.
    assert [set(order[start : start + 4] % 3) for start in (0, 4, 8)].count(set()) == 0
    assert all(len(set(order[start : start + 4] % 3)) == 1 for start in (0, 4, 8))
    np.testing.assert_array_equal(area.images[0].get_array(), rdms.area_rdm[np.ix_(order, order)])
    np.testing.assert_array_equal(layer.images[0].get_array(), rdms.layer_rdm[np.ix_(order, order)])
    assert rdms.similarity() == pytest.approx(1.0)
    assert caption_of(figure).startswith("RDMs of VISp and of gabor, energy, r = 1.00.")
    assert area.texts[0].get_text() == "30 units, 4 animals"
    check_inside(figure)


def test_images_without_a_pattern_come_last():
    rdms = pair()
    holes = rdms.area_rdm.copy()
    holes[5], holes[:, 5] = np.nan, np.nan
    changed = replace(rdms, area_rdm=holes)
    assert changed.order()[-1] == 5
    assert changed.similarity() == pytest.approx(1.0)
    draw_rdms(changed)
    with pytest.raises(DataError, match="RDMs of 12 and 2 images"):
        draw_rdms(replace(rdms, layer_rdm=rdms.layer_rdm[:2, :2]))


def unit(**changes):
    """Responses of 4 trials to 12 images; image 7 is the best, 3 the worst; one trial is missing."""
    rng = np.random.default_rng(1)
    responses = rng.uniform(1, 2, (4, 12)).astype(np.float32)
    responses[:, 7], responses[:, 3] = 9.0, 0.0
    responses[0, 5] = np.nan
    stimuli = rng.integers(0, 256, (12, 40, 60)).astype(np.uint8)
    given = {
        "dataset": "mine",
        "area": "VISp",
        "specimen": 5,
        "unit_id": 77,
        "units_of_measure": "spikes/s",
        "stimuli": stimuli,
        "responses": responses,
        **changes,
    }
    return UnitResponses(**given)


def test_a_units_means_and_their_errors():
    one = unit()
    assert one.means() == pytest.approx(np.nanmean(one.responses, axis=0))
    expected = np.nanstd(one.responses, axis=0, ddof=1) / np.sqrt((~np.isnan(one.responses)).sum(axis=0))
    assert one.sems() == pytest.approx(expected, rel=1e-5)
    assert one.ranking()[0] == 7 and one.ranking()[-1] == 3


def test_a_unit_is_drawn_with_its_best_and_worst_images():
    one = unit(reliability=0.876)
    figure = draw_unit(one)
    tuning, *pictures = figure.axes
    assert line_of(tuning, "means").get_ydata() == pytest.approx(np.sort(one.means())[::-1])
    assert len(pictures) == 10
    np.testing.assert_array_equal(pictures[0].images[0].get_array(), one.stimuli[7])
    np.testing.assert_array_equal(pictures[-1].images[0].get_array(), one.stimuli[3])
    assert pictures[0].get_xlabel() == "9" and pictures[-1].get_xlabel() == "0"
    assert "Unit 77 in VISp of animal 5, mine, reliability 0.876" in caption_of(figure)
    assert tuning.get_ylabel() == "mean response (spikes/s)"
    check_inside(figure)


def test_a_unit_over_time_and_as_predicted():
    course = np.outer([0.0, 2.0, 1.0], unit().means())
    predicted = unit().means() * 0.5 + 1
    one = unit(time_s=TIMES, course=course, prediction=predicted, model="gabor", layer="energy")
    figure = draw_unit(one)
    _, time, model = figure.axes[:3]
    best = one.ranking()[:5]
    assert line_of(time, "best").get_xdata() == pytest.approx([5, 15, 25])
    assert line_of(time, "best").get_ydata() == pytest.approx(course[:, best].mean(axis=1))
    assert line_of(time, "all").get_ydata() == pytest.approx(course.mean(axis=1))
    points = np.concatenate([line.get_xydata() for line in model.lines if line.get_gid() == "images"])
    assert sorted(points[:, 0].tolist()) == pytest.approx(sorted(predicted.tolist()))
    assert points[:, 0] == pytest.approx(points[:, 1] * 0.5 + 1)
    assert one.correlation() == pytest.approx(1.0)
    assert model.get_title(loc="left") == "prediction: r = 1.00"
    assert model.get_xlabel().startswith("gabor, energy")
    assert figure.get_figwidth() == 7.2
    check_inside(figure)


def test_a_unit_without_responses_is_refused():
    with pytest.raises(DataError, match="unit 77 of VISp: no responses to two images"):
        draw_unit(unit(responses=np.full((2, 12), np.nan)))
    assert math.isnan(unit().correlation())
    check_inside(draw_unit(unit(), style=FigureStyle(3.0)))
