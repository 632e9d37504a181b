"""Models by area: what stands in the figure are the numbers of the tables."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.report.figures.areas import LIMITS, draw_areas, draw_run
from mvkit.report.figures.style import FigureStyle, caption_of
from mvkit.report.text import ScoreRun


def bars_of(axes, label):
    return next(container for container in axes.containers if container.get_label() == label)


def whiskers(axes):
    """(x, low, high) of every interval that is drawn."""
    return [
        (segment[0][0], segment[0][1], segment[1][1])
        for container in axes.containers
        if hasattr(container, "has_yerr")
        for segment in container[2][0].get_segments()
    ]


def lines_of(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_are_the_medians_of_the_best_layers(models):
    axes = draw_areas(models).axes[0]
    assert [bar.get_height() for bar in bars_of(axes, "dual")] == pytest.approx([0.4, 0.65, 0.5])
    best = models["pixels"].best_layers()["median"].tolist()
    assert [bar.get_height() for bar in bars_of(axes, "pixels")] == pytest.approx(best)


def test_intervals_are_the_rows_and_left_out_below_three_animals(models):
    figure = draw_areas(models)
    rows = dict(models["dual"].best_layers().set_index("area").iterrows())
    dual = bars_of(figure.axes[0], "dual")
    centres = {area: bar.get_x() + bar.get_width() / 2 for area, bar in zip(rows, dual, strict=True)}
    drawn = {x: (low, high) for x, low, high in whiskers(figure.axes[0])}
    # Of each model VISp and all areas; VISam has two animals.
    assert len(drawn) == 4
    for area in ("VISp", "all"):
        found = next(span for x, span in drawn.items() if x == pytest.approx(centres[area]))
        assert found == pytest.approx((rows[area]["low"], rows[area]["high"]))
    assert not any(x == pytest.approx(centres["VISam"]) for x in drawn)
    assert "no interval with fewer than 3 animals: VISam" in caption_of(figure)


def test_the_axis_ends_near_what_is_drawn(animal_scores):
    # Two animals give intervals from far below 0 to far above 1, which once stretched the axis.
    two = animal_scores({("a", "VISp"): {1: [0.1, 0.2, 0.15], 2: [0.5, 0.6, 0.55]}})
    row = two.best_layers().iloc[0]
    assert row["low"] < -1.0 and row["high"] > 2.0
    low, high = draw_areas({"two": two}).axes[0].get_ylim()
    assert low == 0.0 and 0.55 < high < 0.6


def test_points_are_the_medians_of_animals(models):
    axes = draw_areas({"dual": models["dual"]}).axes[0]
    heights = [sorted(line.get_ydata().tolist()) for line in lines_of(axes, "animals")]
    assert heights == [
        pytest.approx([0.3, 0.4, 0.5]),
        pytest.approx([0.6, 0.7]),
        pytest.approx([0.3, 0.5, 0.5]),
    ]
    bar = bars_of(axes, "dual")[0]
    across = lines_of(axes, "animals")[0].get_xdata()
    assert (across > bar.get_x()).all() and (across < bar.get_x() + bar.get_width()).all()


def test_an_animal_beyond_the_axis_is_a_triangle_at_its_edge(animal_scores):
    far = animal_scores({("a", "VISp"): {1: [0.4], 2: [0.5], 3: [5.0]}})
    figure = draw_areas({"far": far})
    (beyond,) = lines_of(figure.axes[0], "animals beyond")
    assert beyond.get_ydata().tolist() == [LIMITS[1]] and beyond.get_marker() == "^"
    assert "triangles: 1 points beyond the axis" in caption_of(figure)
    assert figure.axes[0].get_ylim()[1] < 1.4


def test_areas_carry_their_counts_and_the_pooled_one_stands_apart(models):
    figure = draw_areas(models)
    assert words(figure)[:9] == [
        *("VISp", "9 units", "3 animals"),
        *("VISam", "3\N{EN DASH}4 units", "2 animals"),
        *("all areas", "12\N{EN DASH}13 units", "3 animals"),
    ]
    places = figure.axes[0].get_xticks()
    assert places[2] - places[1] > places[1] - places[0]


def test_narrow_figures_have_numbers_without_words(models):
    figure = draw_areas(models, style=FigureStyle(2.0))
    assert words(figure)[:6] == ["VISp", "9", "3", "VISam", "4", "2"]
    assert "below areas: numbers of units, of the model with most, and animals" in caption_of(figure)


def test_one_area_has_no_second_group_for_all(models, animal_scores):
    figure = draw_areas({"one": animal_scores({("a", "VISp"): {1: [0.4], 2: [0.5]}})})
    assert len(bars_of(figure.axes[0], "one")) == 1


def test_bars_of_models_do_not_overlap(models):
    axes = draw_areas(models).axes[0]
    edges = sorted(
        (bar.get_x(), bar.get_x() + bar.get_width()) for name in models for bar in bars_of(axes, name)
    )
    assert all(right <= left for (_, right), (left, _) in pairwise(edges))


def test_a_missing_score_is_written_not_left_blank(animal_scores):
    values = {("a", "VISp"): {1: [math.nan], 2: [math.nan]}, ("a", "VISl"): {1: [0.3], 2: [0.4]}}
    axes = draw_areas({"holes": animal_scores(values)}).axes[0]
    missing = [text for text in axes.texts if text.get_text() == "no score"]
    assert [text.xy[0] for text in missing] == [0.0]


def test_the_ceiling_is_a_line_with_a_band_where_it_has_an_interval(models, animal_scores):
    ceiling = animal_scores(
        {("holdout", "VISp"): {1: [0.7], 2: [0.8], 3: [0.9]}, ("holdout", "VISam"): {1: [0.7], 2: [0.8]}}
    )
    figure = draw_areas(models, ceiling)
    axes = figure.axes[0]
    heights = [line.get_ydata()[0] for line in lines_of(axes, "ceiling")]
    assert heights == pytest.approx([0.8, 0.75, 0.8])
    bands = [part.get_paths()[0].get_extents() for part in axes.collections if part.get_zorder() == 0.5]
    rows = ceiling.best_layers().set_index("area")
    # VISam has two animals.
    assert [(band.y0, band.y1) for band in bands] == [
        pytest.approx((rows.loc[area, "low"], rows.loc[area, "high"])) for area in ("VISp", "all")
    ]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(texts) == {"dual", "pixels", "ceiling: other animals"}
    assert "whiskers and band: 95\N{NO-BREAK SPACE}% intervals" in caption_of(figure)


def test_titles_and_captions_say_what_was_done(models, animal_scores):
    assert caption_of(draw_areas(models)).startswith(
        "Neural predictivity of models on neuropixels. Best layer"
    )
    assert "(paper)" in caption_of(draw_areas(models, choice="paper"))
    simulated = animal_scores({("a", "VISp"): {1: [0.4]}}, context={"dataset": "simulated"})
    figure = draw_areas({"a": simulated})
    assert "on SIMULATED data, not mouse recordings" in caption_of(figure)
    # Of a single layer there was no choice.
    assert "layer" not in caption_of(figure)


def test_axes_are_named_by_what_is_on_them(models, animal_scores):
    def label(scores):
        return " ".join(draw_areas({"a": scores}).axes[0].get_ylabel().split())

    one = {("a", "VISp"): {1: [0.4], 2: [0.5], 3: [0.6]}}
    assert label(models["dual"]) == "noise-corrected correlation (median)"
    assert label(animal_scores(one, correction="none")) == "correlation (median)"
    rsa = animal_scores(one, mapping="rsa", population=True)
    assert label(rsa) == "noise-corrected similarity of RDMs (median)"
    assert label(animal_scores(one, mapping="cka", population=True)) == "noise-corrected CKA (median)"
    figure = draw_areas({"a": rsa})
    # Populations of animals are no units.
    assert words(figure) == ["VISp", "3 animals"] and "unit" not in caption_of(figure)
    assert "bars: medians over animals" in caption_of(figure).lower()


def test_pooled_animals_have_neither_points_nor_intervals(animal_scores):
    values = {("a", "VISp"): {-1: [0.4]}, ("a", "VISl"): {-1: [0.3]}}
    scores = animal_scores(values, mapping="rsa", population=True)
    pooled = replace(scores, settings=scores.settings.model_copy(update={"population": "pooled"}))
    figure = draw_areas({"a": pooled})
    assert not whiskers(figure.axes[0]) and not lines_of(figure.axes[0], "animals")
    assert "animals of an area pooled" in caption_of(figure).lower()


def test_equal_scores_are_remarked_upon(models):
    figure = draw_areas({"dual": models["dual"], "copy": models["dual"]})
    assert "dual and copy have the same scores" in caption_of(figure)


def test_layers_chosen_in_two_ways_do_not_share_a_figure(models, animal_scores):
    other = animal_scores({("a", "VISp"): {1: [0.4]}}, layer_choice="held-out")
    with pytest.raises(UsageError, match="held-out, paper"):
        draw_areas({**models, "other": other})
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_areas({})


def test_nothing_is_cut_off_at_the_edges(models):
    long_name = "a_model_with_a_name_of_many_letters_as_of_a_checkpoint_in_a_folder"
    many = {f"model_{index}": models["dual"] for index in range(9)}
    for given in (models, {long_name: models["dual"]}, many):
        for width in (2.0, 7.2):
            figure = draw_areas(given, models["pixels"], style=FigureStyle(width))
            figure.canvas.draw()
            box, (wide, high) = figure.get_tightbbox(), figure.get_size_inches()
            assert box.x0 >= 0.0 and box.y0 >= -0.01 and box.x1 <= wide and box.y1 <= high
            assert wide == width


def test_a_run_is_drawn_to_its_file(models, tmp_path):
    run = ScoreRun(models=models, table2={}, ceiling=None)
    assert draw_run(run, tmp_path / "a.svg") == [tmp_path / "a.svg"]
    assert (tmp_path / "a.svg").is_file()
    assert np.isfinite(models["dual"].best_layers()["median"]).all()
