"""Figures of models: layers, units, hierarchy, and the saved runs that they are drawn from."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from mvkit.errors import DataError, UsageError
from mvkit.report import ScoreRun, save_run
from mvkit.report.figures import caption_of, draw_hierarchy, draw_layers, draw_units, read_runs
from mvkit.report.figures.hierarchy import HIERARCHY
from mvkit.report.figures.style import FigureStyle
from mvkit.report.figures.units import LIMITS
from mvkit.scoring.correlation import DROPPED_COLUMNS


def lines_of(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def check_inside(figure):
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0.0 and box.y0 >= -0.01 and box.x1 <= width and box.y1 <= height


def test_layers_stand_in_the_order_of_the_network(models):
    figure = draw_layers({"dual": models["dual"]})
    visp, visam, pooled = figure.axes
    assert [label.get_text() for label in visam.get_xticklabels()] == ["conv1", "conv2"]
    assert lines_of(visp, "layers")[0].get_xydata().tolist() == [[0, 0.4], [1, pytest.approx(0.3)]]
    assert lines_of(visam, "layers")[0].get_ydata().tolist() == pytest.approx([0.15, 0.65])
    # The best layer of each area is the large point; of all areas, one layer for every area.
    best = [lines_of(axes, "best")[0].get_xydata().tolist()[0] for axes in figure.axes]
    summary = models["dual"].summary().set_index(["area", "layer"])["median"]
    assert best == [[0, 0.4], [1, pytest.approx(0.65)], [1, pytest.approx(summary["all", "conv2"])]]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["VISp", "VISam", "all areas"]
    assert pooled.texts[0].get_text() == "13 units, 3 animals"
    assert "layers of dual on neuropixels" in caption_of(figure)
    check_inside(figure)


def test_intervals_of_layers_need_three_animals(models):
    figure = draw_layers({"dual": models["dual"]})
    summary = models["dual"].summary()
    rows = summary[summary["area"] == "VISp"]
    bars = figure.axes[0].containers[0][2][0].get_segments()
    assert np.array([bar[:, 1] for bar in bars]) == pytest.approx(rows[["low", "high"]].to_numpy())
    assert not figure.axes[1].containers[0][2][0].get_segments()
    assert "no interval with fewer than 3 animals: VISam" in caption_of(figure)


def test_several_models_stand_at_their_depth(models):
    figure = draw_layers(models, models["pixels"])
    dual = lines_of(figure.axes[0], "layers")
    # Pixels have one layer: a line across.
    assert [line.get_xdata().tolist() for line in dual] == [[0.0, 1.0]]
    assert lines_of(figure.axes[0], "one layer")[0].get_ydata()[0] == pytest.approx(0.1)
    assert lines_of(figure.axes[0], "ceiling")[0].get_ydata()[0] == pytest.approx(0.1)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(texts) == {"dual", "pixels", "ceiling: other animals"}
    check_inside(figure)


def test_many_layers_are_named_in_part(animal_scores):
    values = {(f"layer{index}", "VISp"): {1: [index / 100], 2: [0.1]} for index in range(60)}
    axes = draw_layers({"deep": animal_scores(values)}).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) <= 14 and names[-1] == "layer59"
    assert len(lines_of(axes, "layers")[0].get_xdata()) == 60


def test_an_area_without_scores_says_so(animal_scores):
    values = {("a", "VISp"): {1: [0.3]}, ("a", "VISl"): {1: [math.nan]}}
    figure = draw_layers({"holes": animal_scores(values)})
    assert figure.axes[1].texts[0].get_text() == "no score"
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_layers({})


def test_units_are_paired_by_animal_and_id(models):
    figure = draw_units({"pixels": models["pixels"], "dual": models["dual"]})
    visp, visam = figure.axes
    assert lines_of(visp, "units")[0].get_xydata().tolist() == [
        *([0.1, 0.4], [0.2, 0.5], [0.3, 0.6]),
        *([0.1, 0.3], [0.1, 0.4], [0.1, 0.5]),
        *([0.0, 0.2], [0.1, 0.3], [0.1, 0.4]),
    ]
    # A unit without one of the scores has no point.
    assert len(lines_of(visam, "units")[0].get_xdata()) == 3
    assert lines_of(visp, "medians")[0].get_xydata().tolist() == [[0.1, 0.4]]
    assert visam.texts[0].get_text() == "3 units, 2 animals, 100\N{NO-BREAK SPACE}% above"
    labels = {text.get_gid(): text.get_text() for text in figure.texts}
    assert labels["x label"] == "pixels: noise-corrected correlation"
    assert labels["y label"] == "dual: noise-corrected correlation"
    assert visp.get_xlim() == visp.get_ylim()
    check_inside(figure)


def test_units_beyond_the_axes_are_triangles_at_the_edge(models, animal_scores):
    far = animal_scores({("a", "VISp"): {1: [0.4, 9.0, 0.6], 2: [0.3, 0.4, 0.5], 3: [0.2, 0.3, -7.0]}})
    figure = draw_units({"far": far, "dual": models["dual"]})
    (beyond,) = lines_of(figure.axes[0], "units beyond")
    assert sorted(beyond.get_xdata().tolist()) == list(LIMITS)
    assert "triangles: 2 points beyond the axes" in caption_of(figure)


def test_other_numbers_of_models_are_refused(models):
    with pytest.raises(UsageError, match="give two models, not 1: dual"):
        draw_units({"dual": models["dual"]})


def test_populations_are_called_animals(animal_scores):
    rsa = animal_scores({("a", "VISp"): {1: [0.4], 2: [0.5]}}, mapping="rsa", population=True)
    figure = draw_units({"one": rsa, "other": rsa})
    assert "by animal" in caption_of(figure) and figure.axes[0].texts[0].get_text().startswith("2 animals, ")


def hierarchical(animal_scores, medians, **settings):
    """A model of two layers; the second is the better one where the median is above 0.3."""
    values = {}
    for layer, height in (("first", 0.3), ("second", None)):
        for area, median in medians.items():
            value = median if height is None else height
            values[layer, area] = {animal: [value, value] for animal in (1, 2, 3)}
    return animal_scores(values, **settings)


def test_areas_stand_at_their_hierarchy_scores(animal_scores):
    medians = {"VISam": 0.6, "VISp": 0.35, "VISrl": 0.4, "other": 0.9}
    figure = draw_hierarchy({"a": hierarchical(animal_scores, medians)})
    (line,) = lines_of(figure.axes[0], "areas")
    assert line.get_xdata().tolist() == pytest.approx([-0.357, -0.059, 0.441])
    assert line.get_ydata().tolist() == pytest.approx([0.35, 0.4, 0.6])
    assert figure.legends[0].get_texts()[0].get_text() == "a, r = 1.00"
    assert "Harris et al. 2019, as used by Siegle et al. 2021" in caption_of(figure)
    assert "without a place in the hierarchy: other" in caption_of(figure)
    assert list(HIERARCHY) == ["VISp", "VISl", "VISrl", "VISal", "VISpm", "VISam"]
    check_inside(figure)


def test_intervals_over_the_hierarchy_are_drawn_for_few_models(animal_scores):
    scores = hierarchical(animal_scores, {"VISp": 0.35, "VISam": 0.6})
    few = draw_hierarchy({f"m{index}": scores for index in range(4)})
    many = draw_hierarchy({f"m{index}": scores for index in range(5)})
    assert len(few.axes[0].containers) == 8 and not many.axes[0].containers
    assert "intervals" in caption_of(few) and "intervals" not in caption_of(many)
    # The points of several models stand side by side only where intervals would hide one another.
    assert len({line.get_xdata()[0] for line in lines_of(few.axes[0], "areas")}) == 4
    assert len({line.get_xdata()[0] for line in lines_of(many.axes[0], "areas")}) == 1


def test_the_depth_of_best_layers(animal_scores, models):
    medians = {"VISp": 0.2, "VISl": 0.25, "VISrl": 0.28, "VISal": 0.5, "VISpm": 0.5, "VISam": 0.6}
    deep = hierarchical(animal_scores, medians, context={"dataset": "x"})
    figure = draw_hierarchy({"deep": deep, "pixels": models["pixels"]}, value="depth")
    (line,) = lines_of(figure.axes[0], "areas")
    assert line.get_ydata().tolist() == [0, 0, 0, 1, 1, 1]
    assert "a single layer has no depth: pixels" in caption_of(figure)
    labels = [text for text in figure.axes[0].texts if text.get_text() in HIERARCHY]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == 6
    # VISl and VISrl are neighbours: their names are moved apart.
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_a_hierarchy_needs_areas_and_layers(animal_scores, models):
    with pytest.raises(UsageError, match="at least two of VISp, VISl"):
        draw_hierarchy({"a": animal_scores({("a", "VISp"): {1: [0.4]}})})
    with pytest.raises(UsageError, match="a model of at least two layers"):
        draw_hierarchy({"pixels": models["pixels"]}, value="depth")
    with pytest.raises(UsageError, match="did you mean 'depth'"):
        draw_hierarchy(models, value="deth")


def saved(models):
    """The same with the columns that saving needs."""
    full = {}
    for name, scores in models.items():
        n = len(scores.columns["score"])
        counts = ("halves_dropped", *DROPPED_COLUMNS.values())
        extra = {"detail": np.full(n, ""), "halves_used": np.ones(n, int)}
        extra |= dict.fromkeys(counts, np.zeros(n, int))
        full[name] = replace(
            scores,
            columns={**scores.columns, **extra},
            context={**scores.context, "model": name, "weights_source": "", "weights_id": ""},
        )
    return full


def test_saved_runs_are_read_back_with_their_ceiling(models, tmp_path):
    several = saved(models)
    run = ScoreRun(models=several, table2={}, ceiling=several["pixels"])
    save_run(run, tmp_path / "run")
    read = read_runs([tmp_path / "run"])
    assert sorted(read.models) == ["dual", "pixels"]
    assert read.ceiling is not None and read.ceiling.layers == ("pixels",)
    heights = [bar.get_height() for bar in draw_layers({"dual": read.models["dual"]}).axes[0].patches]
    assert heights == []
    one = ScoreRun(models={"dual": several["dual"]}, table2={})
    save_run(one, tmp_path / "one")
    both = read_runs([tmp_path / "one", tmp_path / "run"])
    assert sorted(both.models) == [f"dual in {tmp_path / 'one'}", f"dual in {tmp_path / 'run'}", "pixels"]


def test_runs_of_other_protocols_are_refused_naming_the_difference(models, tmp_path):
    several = saved(models)
    save_run(ScoreRun(models={"dual": several["dual"]}, table2={}), tmp_path / "a")
    settings = several["pixels"].settings.model_copy(update={"n_halves": 5})
    other = replace(several["pixels"], settings=settings)
    save_run(ScoreRun(models={"pixels": other}, table2={}), tmp_path / "b")
    with pytest.raises(UsageError, match="n_halves: 4 and 5"):
        read_runs([tmp_path / "a", tmp_path / "b"])


def test_folders_without_scores_say_what_to_give(tmp_path):
    with pytest.raises(DataError, match="no such folder; give one that 'mvkit score --out' wrote"):
        read_runs([tmp_path / "none"])
    with pytest.raises(DataError, match="written by 'mvkit score --out'"):
        read_runs([tmp_path])
    with pytest.raises(UsageError, match="give a folder"):
        read_runs([])


def test_narrow_figures_hold_everything(models):
    for draw in (draw_layers, draw_hierarchy):
        check_inside(draw(models, style=FigureStyle(2.5)))
    check_inside(draw_units(models, style=FigureStyle(2.5)))
