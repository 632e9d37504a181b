"""The printed table and the sentences around it, for scores whose medians are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from mvkit.report import Headline, headline, score_table
from mvkit.report.text import Table2Comparison
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


def overall(words: Headline) -> str:
    """The line with the result over all areas."""
    return next(line for line in words.below if line.startswith("all areas"))


def test_the_headline_pools_each_areas_best_layer(scores_of: ScoresOf) -> None:
    table2 = Table2Comparison("net", "neuropixels", 0.413, 0.5)
    words = headline(scores_of(VALUES, {"model": "net", "dataset": "neuropixels"}), table2=table2)
    pooled = [0.5, 0.6, 0.7, 0.3, 0.4, 0.5, 0.6]
    assert f"chosen on the test images (paper): median {np.median(pooled):.3f} [" in overall(words)
    assert "7 units, 2 animals" in overall(words)
    assert any(
        line.startswith("the paper's Table 2 has 0.413 for net on neuropixels") for line in words.below
    )
    assert words.above[0].startswith("net on neuropixels: 8 units, 2 animals")


def test_what_has_no_score_is_counted_with_its_reason(scores_of: ScoresOf) -> None:
    words = headline(scores_of(VALUES, {"skipped_areas": {"VISam": "no specimen passes"}}))
    assert "skipped VISam: no specimen passes" in words.below
    assert "without a score: 2 of 16 unit-layer pairs (constant response: 2)" in words.below
    assert "halvings dropped: 20 of 160 (12.5 %: constant response 20)" in words.below


def test_scores_that_cannot_be_correlations_are_pointed_out(scores_of: ScoresOf) -> None:
    scores = scores_of({("conv1", "VISp"): [0.1, 0.2, 0.3, 900.0]})
    words = headline(scores)
    start = "scores beyond ±2: 1 of 4 unit-layer pairs (units: 1)"
    assert any(line.startswith(start) for line in words.below)
    assert "median 0.250 [" in overall(words)
    assert "0.250 ± >1" in rendered(scores)
    assert not any("beyond" in line for line in headline(scores_of(VALUES)).below)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"dataset": "simulated"}, "the SIMULATED dataset"),
        (
            {"selection": {"name": "paper", "applied": True}},
            "selection paper (not checked against the paper's text)",
        ),
        ({"selection": {"name": "none", "applied": True}}, "selection none"),
        (
            {"selection": {"name": "code", "applied": False, "note": "not applied: why"}},
            "selection code (not applied: why)",
        ),
        ({}, "selection as given"),
    ],
)
def test_dataset_and_selection_are_named(
    scores_of: ScoresOf, context: dict[str, object], expected: str
) -> None:
    assert expected in headline(scores_of(VALUES, context)).above[0]
