"""Models compared with one another and with the ceiling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mvkit.errors import DataError, UsageError
from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.comparison import (
    NO_CEILING,
    RATIO,
    PairDifference,
    compare_models,
    fraction_of_ceiling,
    holm,
    sentence,
    short,
)
from mvkit.scoring.intervals import few_animals, median_interval, p_value, statistic_interval

NAN = math.nan
UNITS = [("VISp", 1, 10), ("VISp", 2, 11), ("VISp", 3, 10), ("VISl", 2, 10), ("VISl", 3, 10)]


def test_holm_against_an_example_by_hand() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04 -> the last is raised to .06.
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02], rtol=0, atol=1e-15
    )
    np.testing.assert_array_equal(holm(np.array([0.6, NAN, 0.7])), [1.0, NAN, 1.0])
    assert holm(np.array([0.02])) == 0.02 and holm(np.empty(0)).size == 0


def test_units_are_matched_by_name_and_gaps_are_counted(scores_of: Callable[..., Scores]) -> None:
    first = scores_of(UNITS, [[0.5, 0.6, 0.7, 0.1, 0.2]])
    second = scores_of([UNITS[index] for index in (2, 0, 1, 4, 3)], [[0.1, 0.4, NAN, 0.3, 0.4]])
    table = compare_models({"A": first, "B": second}).table().set_index("area")
    # VISp: .5 - .4 and .7 - .1; VISl: .1 - .4 and .2 - .3.
    assert table.loc["VISp", "difference"] == pytest.approx(0.35)
    assert table.loc["VISl", "difference"] == pytest.approx(-0.2)
    assert table.loc["all", "difference"] == pytest.approx(0.0, abs=1e-15)
    assert table["n_units"].tolist() == [2, 2, 4] and table["n_left_out"].tolist() == [1, 0, 1]
    assert table["n_animals"].tolist() == [2, 2, 3]
    assert table.loc[["VISp", "VISl"], "reason"].tolist() == ["2 animals: no interval"] * 2
    row = table.loc["all"]
    assert row["low"] < row["difference"] < row["high"]


def test_identical_models_do_not_differ(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, [[0.5, 0.6, 0.7, 0.1, 0.2]])
    table = compare_models({"A": scores, "B": scores}).table().set_index("area")
    assert (table.loc[["VISp", "all"], ["difference", "low", "high"]] == 0.0).all(axis=None)
    assert (table.loc[["VISp", "all"], "p"] == 1.0).all() and not table["resolved"].any()


def test_each_area_is_corrected_for_its_pairs(scores_of: Callable[..., Scores]) -> None:
    rng = np.random.default_rng(0)
    units = [(area, animal, unit) for area in ("VISp", "VISl") for animal in range(6) for unit in range(10)]
    base = rng.normal(0.4, 0.2, len(units))
    models = {
        name: scores_of(units, [base + shift + 0.05 * rng.normal(size=len(units))])
        for name, shift in (("A", 0.0), ("B", 0.01), ("C", 0.1))
    }
    comparison = compare_models(models)
    table = comparison.table()
    assert len(table) == 9 and set(table["choice"]) == {"paper"}
    for _, rows in table.groupby("area"):
        np.testing.assert_array_equal(rows["p_holm"], holm(rows["p"].to_numpy()))
    resolved = table.set_index(["area", "first", "second"])["resolved"]
    assert resolved.loc[("all", "A", "C")] and resolved.loc[("all", "B", "C")]
    assert ((table["p_holm"] < 0.05) == table["resolved"]).all()
    document = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert document["models"] == ["A", "B", "C"] and len(document["sentences"]) == 9
    assert document["pairs"][0]["first"] == "A" and "within one area" in document["holm_family"]


def test_the_chosen_layers_are_compared(scores_of: Callable[..., Scores]) -> None:
    first = scores_of(UNITS, [[0.5] * 5, [0.1] * 3 + [0.9] * 2])
    second = scores_of(UNITS, [[0.3] * 5])
    table = compare_models({"A": first, "B": second}).table().set_index("area")
    assert table["difference"].round(12).tolist() == [0.2, 0.6, 0.2]


def test_one_animal_gives_a_difference_without_an_interval(scores_of: Callable[..., Scores]) -> None:
    units = [("VISp", 1, unit) for unit in range(4)]
    comparison = compare_models({"A": scores_of(units, [[0.4] * 4]), "B": scores_of(units, [[0.3] * 4])})
    pair = comparison.pairs[0]
    assert pair.difference == pytest.approx(0.1) and math.isnan(pair.p_holm) and not pair.resolved
    assert comparison.sentences()[0] == (
        "A and B, VISp: difference .100, no interval (1 animal: no interval)"
    )
    assert comparison.to_json()["pairs"][0]["p"] is None


def test_nothing_in_common_is_said(scores_of: Callable[..., Scores]) -> None:
    pair = {"A": scores_of(UNITS[:3], [[0.4] * 3]), "B": scores_of(UNITS[3:], [[0.3] * 2])}
    first = compare_models(pair).sentences()[0]
    assert first == "A and B, VISp: no difference can be given (no unit with a score from both)"


def _pair(p: float, *, resolved: bool) -> PairDifference:
    return PairDifference("all", "A", "B", 0.012, -0.01, 0.034, p / 2, p, resolved, 120, 5, 0, "")


def test_sentences() -> None:
    assert sentence(_pair(0.312, resolved=False)) == (
        "A and B, all areas: difference .012 [-.010, .034], not resolved by these data (p = .31, 5 animals)"
    )
    assert sentence(_pair(0.0314, resolved=True)).endswith("A predicts better (p = .031, 5 animals)")
    assert sentence(_pair(1e-7, resolved=True)).endswith("(p < .001, 5 animals)")
    assert [short(value) for value in (-0.25, 1.25, -1e-9, 0.9996)] == ["-.250", "1.250", ".000", "1.000"]


def test_what_cannot_be_compared_is_refused(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS, [[0.5] * 5])
    with pytest.raises(UsageError, match="needs two models, got 1"):
        compare_models({"A": scores})
    other = scores_of(UNITS, [[0.5] * 5], settings=ScoreSettings(n_components=20))
    with pytest.raises(UsageError, match=r"A and B are of different protocols.*n_components: 25 and 20"):
        compare_models({"A": scores, "B": other})
    allowed = compare_models({"A": scores, "B": other}, different_protocols="allow")
    assert not allowed.same_protocol and "different protocols" in allowed.sentences()[0]
    held_out = scores_of(UNITS, [[0.5] * 5], settings=ScoreSettings(layer_choice="held-out"))
    with pytest.raises(UsageError, match="layer_choice differs: A paper, B held-out"):
        compare_models({"A": scores, "B": held_out})
    assert compare_models({"A": scores, "B": held_out}, choice="paper").same_protocol
    twice = scores_of([*UNITS, UNITS[0]], [[0.5] * 6])
    with pytest.raises(DataError, match="unit 10 is there twice"):
        compare_models({"A": scores, "B": twice})


@pytest.mark.parametrize("n_animals", [3, 6])
def test_equal_models_are_told_apart_in_5_of_100_cases(n_animals: int) -> None:
    # Differences with heavy tails; each animal prefers one of the models a little.
    rng = np.random.default_rng(10 + n_animals)
    rejected = 0
    for _ in range(200):
        animals = np.repeat(np.arange(n_animals), rng.integers(10, 120, n_animals))
        differences = 0.06 * rng.standard_t(3, len(animals)) + 0.02 * rng.normal(size=n_animals)[animals]
        settings = ScoreSettings(n_resamples=200)
        found = median_interval(differences, animals, settings)
        rejected += p_value(float(np.median(differences)), found, settings) < 0.05
    # Once in 1000 times a binomial count of 200 with chance .05 is outside.
    low, high = stats.binom.ppf([0.0005, 0.9995], 200, 0.05)
    assert low <= rejected <= high


NAN_FRACTIONS = math.nan
UNITS_FRACTIONS = [
    ("VISp", 1, 10),
    ("VISp", 4, 11),
    ("VISp", 2, 10),
    ("VISp", 3, 10),
    ("VISl", 2, 10),
    ("VISl", 2, 11),
]


def test_medians_are_over_the_units_that_have_both(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS_FRACTIONS, [[0.1, 0.2, 0.3, 0.2, 0.4, 0.5]])
    # The ceiling knows its units in another order, and one of them not at all.
    ceiling = scores_of(
        [UNITS_FRACTIONS[index] for index in (5, 2, 0, 1, 4, 3)], [[0.5, 0.6, 0.4, NAN_FRACTIONS, 1.0, 0.5]]
    )
    table = fraction_of_ceiling(scores, ceiling).set_index("area")
    assert table.loc["VISp", "fraction"] == pytest.approx(0.2 / 0.5)
    assert table.loc["VISl", "fraction"] == pytest.approx(0.45 / 0.75)
    assert table.loc["all", "fraction"] == pytest.approx(0.3 / 0.5)
    assert table["n_units"].tolist() == [3, 2, 5] and table["n_animals"].tolist() == [3, 1, 3]
    assert set(table["choice"]) == {"paper"}
    low, fraction, high = (table.loc["VISp", name] for name in ("low", "fraction", "high"))
    assert low < fraction < high
    assert math.isnan(table.loc["VISl", "low"]) and table.loc["VISl", "reason"] == few_animals(1)


def test_a_model_as_good_as_the_ceiling_has_fraction_one_exactly(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS_FRACTIONS, [[0.1, 0.2, 0.3, 0.35, 0.4, 0.5]])
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
        scores_of(UNITS_FRACTIONS, [[0.1] * 6]),
        scores_of(UNITS_FRACTIONS, [[-0.1, 0.0, 0.0, 0.0, 0.2, 0.2]]),
    ).set_index("area")
    assert math.isnan(table.loc["VISp", "fraction"]) and table.loc["VISp", "reason"] == NO_CEILING
    assert table.loc["VISl", "fraction"] == pytest.approx(0.5)


def test_gaps_keep_their_reason(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(UNITS_FRACTIONS, [[[0.1] * 6, [0.2] * 6]])
    table = fraction_of_ceiling(scores, scores_of(UNITS_FRACTIONS, [[0.5] * 6]), choice="held-out")
    assert set(table["reason"]) == {"held-out choice needs two splits"} and set(table["n_units"]) == {0}
    missing = scores_of(UNITS_FRACTIONS, [[NAN_FRACTIONS] * 4 + [0.5] * 2])
    table = fraction_of_ceiling(scores_of(UNITS_FRACTIONS, [[0.1] * 6]), missing).set_index("area")
    assert table.loc["VISp", "reason"] == "no unit with a score"


def test_other_protocols_and_scores_in_place_of_a_ceiling_are_refused(
    scores_of: Callable[..., Scores],
) -> None:
    scores = scores_of(
        UNITS_FRACTIONS, [[0.1] * 6], context={"selection": {"name": "code", "min_reliability": 0.5}}
    )
    settings = ScoreSettings(n_splits=3, ceiling="holdout", confidence=0.9)
    ceiling = scores_of(
        UNITS_FRACTIONS,
        [[0.5] * 6],
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
        fraction_of_ceiling(
            scores_of(UNITS_FRACTIONS, [[0.1] * 6]), scores_of(UNITS_FRACTIONS, [[0.1] * 6] * 2)
        )
