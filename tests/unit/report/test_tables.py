"""The printed table, for scores whose medians are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from rich.console import Console

from mvkit.report import score_table
from mvkit.scoring import Scores

ScoresOf = Callable[..., Scores]

VALUES = {
    ("conv1", "VISp"): [0.1, 0.2, 0.3, 0.4],
    ("conv1", "VISl"): [0.5, 0.6, 0.7, math.nan],
    ("conv2", "VISp"): [0.3, 0.4, 0.5, 0.6],
    ("conv2", "VISl"): [0.1, 0.2, 0.3, math.nan],
}


def rendered(scores: Scores, *, width: int = 160, narrow: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(score_table(scores, narrow=narrow))
    return stream.getvalue()


def test_cells_are_medians_and_standard_errors(scores_of: ScoresOf) -> None:
    lines = rendered(scores_of(VALUES)).splitlines()
    assert lines[0].split() == ["layer", "VISp", "VISl", "all", "areas"]
    sem = np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2
    assert f"0.250 ± {sem:.3f}" in lines[1]
    assert "0.600 ± 0.058" in lines[1]
    assert "0.450 ± 0.065" in lines[2]
    words = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert words["units"] == ["units", "4", "3", "7"]
    assert words["animals"] == ["animals", "2", "2", "2"]


def test_an_area_without_scores_is_said_to_have_none(scores_of: ScoresOf) -> None:
    nothing = scores_of({("conv1", "VISp"): [math.nan] * 4, ("conv1", "VISl"): [0.1, 0.2, 0.3, 0.4]})
    assert "no score" in rendered(nothing)


def test_a_narrow_table_fits_eighty_columns(scores_of: ScoresOf) -> None:
    areas = ["VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam"]
    scores = scores_of({("features.10", area): [0.1, 0.2, 0.3, 0.4] for area in areas})
    text = rendered(scores, width=80, narrow=True)
    assert "…" not in text
    assert text.count("±0.065") == 6
    assert "all areas" in text


def test_scores_that_cannot_be_correlations_spoil_the_standard_error_only(scores_of: ScoresOf) -> None:
    assert "0.250 ± >1" in rendered(scores_of({("conv1", "VISp"): [0.1, 0.2, 0.3, 900.0]}))
