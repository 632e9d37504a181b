"""Scores over ceilings of the same units."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mvkit.errors import UsageError
from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.comparison import NO_CEILING, RATIO, fraction_of_ceiling
from mvkit.scoring.intervals import ONE_ANIMAL, statistic_interval

NAN = math.nan
UNITS = [("VISp", 1, 10), ("VISp", 1, 11), ("VISp", 2, 10), ("VISl", 2, 10), ("VISl", 2, 11)]


def test_medians_are_over_the_units_that_have_both(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, [[0.1, 0.2, 0.3, 0.4, 0.5]])
    # The ceiling knows its units in another order, and one of them not at all.
    ceiling = scores_of([UNITS[index] for index in (4, 2, 0, 1, 3)], [[0.5, 0.6, 0.4, NAN, 1.0]])
    table = fraction_of_ceiling(scores, ceiling).set_index("area")
    assert table.loc["VISp", "fraction"] == pytest.approx(0.2 / 0.5)
    assert table.loc["VISl", "fraction"] == pytest.approx(0.45 / 0.75)
    assert table.loc["all", "fraction"] == pytest.approx(0.35 / 0.55)
    assert table["n_units"].tolist() == [2, 2, 4] and table["n_animals"].tolist() == [2, 1, 2]
    assert set(table["choice"]) == {"paper"}
    low, fraction, high = (table.loc["VISp", name] for name in ("low", "fraction", "high"))
    assert low < fraction < high
    assert math.isnan(table.loc["VISl", "low"]) and table.loc["VISl", "reason"] == ONE_ANIMAL


def test_a_model_as_good_as_the_ceiling_has_fraction_one_exactly(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, [[0.1, 0.2, 0.3, 0.4, 0.5]])
    table = fraction_of_ceiling(scores, scores).set_index("area")
    # Draws are shared: numerator and denominator move together.
    np.testing.assert_allclose(table.loc[["VISp", "all"], ["fraction", "low", "high"]], 1.0, atol=1e-12)


def test_the_width_is_the_first_order_t_interval() -> None:
    rng = np.random.default_rng(0)
    animals = np.repeat(np.arange(6), 15)
    ceiling = 0.6 + 0.1 * rng.normal(size=90) + 0.05 * rng.normal(size=6)[animals]
    score = 0.3 + 0.1 * rng.normal(size=90)
    found = statistic_interval(np.stack([score, ceiling]), animals, RATIO, ScoreSettings(n_resamples=200))
    top, bottom = np.median(score), np.median(ceiling)
    of_animals = [np.median(part.reshape(6, 15), axis=1) for part in (score, ceiling)]
    first_order = of_animals[0] / bottom - top / bottom**2 * of_animals[1]
    expected = 2 * stats.t.ppf(0.975, 5) * stats.sem(first_order)
    assert found.high - found.low == pytest.approx(expected, rel=1e-12)


def test_a_ceiling_of_zero_gives_a_reason(scores_of: Callable[..., Scores]) -> None:
    table = fraction_of_ceiling(
        scores_of(UNITS, [[0.1] * 5]), scores_of(UNITS, [[-0.1, 0.0, 0.0, 0.2, 0.2]])
    ).set_index("area")
    assert math.isnan(table.loc["VISp", "fraction"]) and table.loc["VISp", "reason"] == NO_CEILING
    assert table.loc["VISl", "fraction"] == pytest.approx(0.5)


def test_gaps_keep_their_reason(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, [[[0.1] * 5, [0.2] * 5]])
    table = fraction_of_ceiling(scores, scores_of(UNITS, [[0.5] * 5]), choice="held-out")
    assert set(table["reason"]) == {"held-out choice needs two splits"} and set(table["n_units"]) == {0}
    missing = scores_of(UNITS, [[NAN, NAN, NAN, 0.5, 0.5]])
    table = fraction_of_ceiling(scores_of(UNITS, [[0.1] * 5]), missing).set_index("area")
    assert table.loc["VISp", "reason"] == "no unit with a score"


def test_other_protocols_and_scores_in_place_of_a_ceiling_are_refused(
    scores_of: Callable[..., Scores],
) -> None:
    scores = scores_of(UNITS, [[0.1] * 5], context={"selection": {"name": "code", "min_reliability": 0.5}})
    settings = ScoreSettings(n_splits=3, ceiling="holdout", confidence=0.9)
    ceiling = scores_of(
        UNITS,
        [[0.5] * 5],
        settings=settings,
        context={"selection": {"name": "code", "min_reliability": 0.3}, "responses_sha256": "abc"},
    )
    with pytest.raises(UsageError) as refusal:
        fraction_of_ceiling(scores, ceiling)
    text = str(refusal.value)
    for part in (
        "n_splits: 10 and 3",
        "selection.min_reliability: 0.5 and 0.3",
        'responses_sha256: null and "abc"',
    ):
        assert part in text
    # Settings of ceilings and of reporting are no protocol.
    assert "confidence" not in text and "ceiling:" not in text and "selection.name" not in text
    with pytest.raises(UsageError, match="this one has 2"):
        fraction_of_ceiling(scores_of(UNITS, [[0.1] * 5]), scores_of(UNITS, [[0.1] * 5] * 2))
