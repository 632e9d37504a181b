"""How datasets are shown, and the plots of their reliabilities."""

from __future__ import annotations

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError
from mvkit.neural import Recording


def dataset(areas: tuple[str, ...] = ("VISp", "<b>"), name: str = "toy") -> mvkit.NeuralDataset:
    """Recordings of three animals in every area; more trials in the last."""
    rng = np.random.default_rng(0)
    recordings = [
        Recording(area, animal, np.arange(5), rng.random((4 + (animal == 3), 6, 5), dtype=np.float32))
        for area in areas
        for animal in (1, 2, 3)
    ]
    stimuli = rng.integers(0, 255, (6, 8, 9), dtype=np.uint8)
    return mvkit.NeuralDataset(name, stimuli, np.arange(6), "spikes/s", tuple(recordings))


def test_a_line_says_what_there_is() -> None:
    shown = repr(dataset())
    assert shown == (
        "NeuralDataset(toy: 6 images, 30 units of 3 animals, spikes/s; units by area: VISp 15, <b> 15)"
    )
    assert repr(dataset().recordings[0]) == "Recording(VISp, specimen 1: 4 trials, 6 images, 5 units)"


def test_lines_stay_short() -> None:
    large = dataset(tuple(f"AREA{number}" for number in range(200)), name="n" * 5000)
    assert len(repr(large)) < 1000
    assert len(repr(mvkit.open_dataset("simulated"))) < 1000


def test_a_table_has_a_row_per_area() -> None:
    table = dataset()._repr_html_()
    assert "6 images of 8 x 9 px" in table
    assert "<b>" not in table and "&lt;b&gt;" in table
    assert table.count("<tr>") == 3
    assert ">15<" in table and ">4 to 5<" in table


def test_pandas_is_the_table_of_units() -> None:
    one = dataset()
    assert one.to_pandas().equals(one.unit_table())


def test_reliabilities_of_arrays_are_not_in_a_file() -> None:
    figures = pytest.importorskip("mvkit.report.figures")
    if not hasattr(figures, "draw_reliability"):
        pytest.skip("the figures of reliabilities are not here yet")
    with pytest.raises(DataError, match="dataset toy: reliabilities are read from its neural file"):
        dataset().plot_reliability_histogram()
