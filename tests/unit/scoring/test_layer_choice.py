"""Which layer of an area, by either choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from mvkit.errors import DataError, UsageError
from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.layer_choice import ONE_SPLIT, highest_median, unit_grid

NAN = math.nan
UNITS = [("VISp", 1, 10), ("VISp", 1, 11), ("VISp", 2, 10), ("VISl", 2, 10), ("VISl", 3, 4)]
#: (split, layer, unit): on even splits layer0 is best in VISp, on odd ones layer1.
BY_SPLIT = [
    [[0.9, 0.8, 0.7, 0.1, 0.2], [0.1, 0.2, 0.3, 0.5, 0.6]],
    [[0.2, 0.3, 0.4, 0.1, 0.1], [0.6, 0.5, 0.4, 0.3, NAN]],
    [[0.7, 0.6, 0.5, 0.3, 0.2], [0.3, 0.4, 0.5, 0.7, NAN]],
]


def test_each_half_of_the_splits_chooses_for_the_other(scores_of: Callable[..., Scores]) -> None:
    units = scores_of(UNITS, BY_SPLIT).chosen_units("held-out")
    visp = units["VISp"]
    # Chosen on splits 0 and 2: layer0, scored on split 1. Chosen on split 1: layer1, scored on 0 and 2.
    np.testing.assert_allclose(
        visp.score, [(0.2 + 0.2) / 2, (0.3 + 0.3) / 2, (0.4 + 0.4) / 2], rtol=0, atol=1e-15
    )
    assert visp.layer == "layer0 / layer1"
    # layer1 both times; the last unit has no score from it on split 1 and only one on the even ones.
    np.testing.assert_allclose(units["VISl"].score, [(0.3 + 0.6) / 2, 0.6], rtol=0, atol=1e-15)
    assert units["VISl"].layer == "layer1"


def test_the_papers_choice_is_the_highest_median_of_all_splits(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, BY_SPLIT)
    units = scores.chosen_units("paper")
    assert units["VISp"].layer == "layer0"
    np.testing.assert_array_equal(units["VISp"].score, scores.columns["score"][:3])


def test_tables_say_which_choice_they_hold(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, BY_SPLIT)
    held_out, paper = scores.held_out_layers(), scores.best_layers()
    assert list(held_out.columns) == list(paper.columns)
    assert set(held_out["choice"]) == {"held-out"} and set(paper["choice"]) == {"paper"}
    rows = held_out.set_index("area")
    assert list(rows.index) == ["VISp", "VISl", "all"]
    assert rows.loc["VISp", "median"] == pytest.approx(0.3)
    assert rows.loc["all", "median"] == pytest.approx(np.median([0.2, 0.3, 0.4, 0.45, 0.6]))
    assert (rows.loc["all", "n_units"], rows.loc["all", "n_animals"]) == (5, 3)
    assert scores.headline_layers().equals(paper)
    other = scores_of(UNITS, BY_SPLIT, settings=ScoreSettings(layer_choice="held-out"))
    assert other.headline_layers().equals(held_out)


def test_one_split_cannot_hold_out_and_says_so(scores_of: Callable[..., Scores]) -> None:
    for scores in (scores_of(UNITS, BY_SPLIT[:1]), scores_of(UNITS, BY_SPLIT[0])):
        table = scores.held_out_layers()
        assert table["median"].isna().all() and table["low"].isna().all()
        assert set(table["reason"]) == {ONE_SPLIT}
        assert set(table["n_units"]) == {0}


def test_a_single_layer_is_no_choice(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, np.array(BY_SPLIT)[:1, :1])
    assert scores.held_out_layers().drop(columns="choice").equals(scores.best_layers().drop(columns="choice"))


def test_equal_medians_and_nothing_at_all() -> None:
    assert highest_median(np.array([[NAN, NAN], [0.1, 0.3], [0.2, 0.2]])) == 1
    assert highest_median(np.full((2, 3), NAN)) is None


def test_an_area_scored_on_one_half_only_keeps_that_direction(scores_of: Callable[..., Scores]) -> None:
    table = np.array(BY_SPLIT)
    table[1, :, :3] = NAN  # no score of VISp on the odd split: nothing is chosen there, nothing is scored
    visp = scores_of(UNITS, table).chosen_units("held-out")["VISp"]
    assert visp.layer == "layer0" and np.isnan(visp.score).all()


def test_layers_of_different_units_are_refused(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, BY_SPLIT)
    ids = scores.columns["unit_id"].copy()
    ids[-1] = 99
    with pytest.raises(DataError, match=r"VISl: layers 'layer0' and 'layer1' hold different units"):
        unit_grid({**scores.columns, "unit_id": ids}, scores.by_fold, scores.layers, "VISl")


def test_an_unknown_choice_is_refused(scores_of: Callable[..., Scores]) -> None:
    with pytest.raises(UsageError, match="did you mean 'held-out'"):
        scores_of(UNITS, BY_SPLIT).chosen_units("heldout")
