"""How scores and comparisons are shown, and what they become: pandas, xarray, folders, figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mvkit
from mvkit.scoring import Scores, compare_models, read_scores

CONTEXT = {"model": "<b>net</b>", "weights_source": "random, seed 0", "dataset": "toy"}
UNITS = [(area, animal, unit) for area in ("VISp", "VISl") for animal in (1, 2, 3) for unit in range(4)]


@pytest.fixture
def scores(scores_of: Callable[..., Scores]) -> Scores:
    """Two layers, the second one .1 better; one unit without a score."""
    values = np.stack([np.linspace(0.1, 0.7, len(UNITS)), np.linspace(0.2, 0.8, len(UNITS))])
    values[0, 0] = np.nan
    return scores_of(UNITS, values, context=CONTEXT)


def test_a_line_says_what_was_scored(scores: Scores) -> None:
    assert repr(scores) == (
        "Scores(<b>net</b> on toy, pls, 2 layers, 24 units of 3 animals; "
        "median of the best layer: VISp 0.343, VISl 0.657)"
    )


def test_lines_stay_short(scores_of: Callable[..., Scores]) -> None:
    units = [(f"AREA{number}", 1, number) for number in range(400)]
    large = scores_of(units, np.zeros((3, 400)), context={"model": "m" * 5000, "dataset": "d" * 5000})
    assert len(repr(large)) < 1000
    assert len(repr(compare_models({"a" * 900: large, "b" * 900: large}))) < 1000


def test_a_table_has_the_medians_of_layers_and_areas(scores: Scores) -> None:
    table = scores._repr_html_()
    medians = scores.summary()
    for median in medians["median"]:
        assert f">{median:.3f}<" in table
    assert "<b>" not in table and "&lt;b&gt;net&lt;/b&gt;" in table


def test_pandas_says_who_it_is_of(scores: Scores) -> None:
    table = scores.to_pandas()
    assert list(table.columns[:4]) == ["model", "weights", "dataset", "layer"]
    assert set(table["weights"]) == {"random, seed 0"}
    assert table.drop(columns=["model", "weights", "dataset"]).equals(scores.table())


def test_xarray_has_layers_and_units(scores: Scores) -> None:
    data = scores.to_xarray()
    assert data["score"].dims == ("layer", "unit")
    assert data["score"].shape == (2, 24)
    assert data.attrs["dataset"] == "toy"
    one = data["score"].sel(layer="layer1").where(data["area"] == "VISl", drop=True)
    expected = scores.table().query("layer == 'layer1' and area == 'VISl'")["score"]
    np.testing.assert_array_equal(one, expected)
    assert list(data["specimen"].values[:5]) == [1, 1, 1, 1, 2]


def test_a_saved_folder_is_read_back(scores: Scores, tmp_path: Path) -> None:
    files = scores.save(str(tmp_path / "out"))
    assert all(file.is_file() for file in files)
    assert read_scores(tmp_path / "out").table().equals(scores.table())


def test_a_comparison_is_a_line_and_a_table(scores_of: Callable[..., Scores]) -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, (1, len(UNITS)))
    better = base + 0.2 + 0.01 * rng.standard_normal(base.shape)
    models = {name: scores_of(UNITS, values) for name, values in (("<i>a</i>", better), ("b", base))}
    comparison = mvkit.compare_models(models)
    assert repr(comparison) == "Comparison(<i>a</i>, b: 3 of 3 differences resolved)"
    table = comparison._repr_html_()
    assert "<i>" not in table and "&lt;i&gt;a&lt;/i&gt; is higher" in table
    assert f">{comparison.pairs[0].difference:.3f}<" in table
    figure = comparison.plot(width_in=5)
    assert figure.get_size_inches()[0] == 5
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["VISp", "VISl", "all areas"]
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert points[0].get_xdata()[0] == comparison.pairs[0].difference


def test_scores_draw_themselves(scores: Scores) -> None:
    figures = pytest.importorskip("mvkit.report.figures")
    if not hasattr(figures, "draw_areas"):
        pytest.skip("the figures of areas are not here yet")
    assert scores.plot().axes
    assert scores.plot_layers().axes
