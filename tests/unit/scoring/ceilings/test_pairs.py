"""One target from one source, against loops written out and against known truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

import mvkit.scoring.protocol
from mvkit.scoring import sparse
from mvkit.scoring.ceilings import PairDraws, PairSize, concatenate_split_halves, draw_pair, score_pair
from mvkit.scoring.correlation import Drop
from mvkit.scoring.protocol import splits_of
from mvkit.scoring.settings import ScoreSettings

Simulate = Callable[..., list[Any]]


def drawn(target: Any, source: Any, settings: ScoreSettings, n_kept: int | None = None) -> PairDraws:
    n_units = source.shape[2]
    return draw_pair(
        PairSize(len(target), len(source), target.shape[1], n_units, n_kept or n_units), settings
    )


def scored(target: Any, source: Any, settings: ScoreSettings) -> Any:
    draws = drawn(target, source, settings)
    return score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)


def weighted_mean(responses: Any, weights: Any) -> Any:
    """Mean over the trials that have a weight, by numpy's own ignoring of NaN."""
    return np.nanmean(np.repeat(responses, weights, axis=0), axis=0)


@pytest.mark.parametrize("mapping", ["pls", "ridge"])
@pytest.mark.parametrize("halving", ["split-half", "bootstrap"])
@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_equals_scikit_learn_halving_by_halving(
    animals: Simulate, mapping: str, halving: str, correlation: str
) -> None:
    target, source = animals((4, 9), n_trials=(11, 8))
    target[2, 5, :] = np.nan
    source[0, :, 3] = np.nan
    settings = ScoreSettings.model_validate(
        {
            "mapping": mapping,
            "halving": halving,
            "correlation": correlation,
            "n_components": 3,
            "n_splits": 2,
            "n_halves": 3,
        }
    )
    draws = drawn(target, source, settings)
    found = score_pair(target, source, draws, splits_of(40, settings), settings).halvings
    correlate = pearsonr if correlation == "pearson" else spearmanr
    for number, split in enumerate(splits_of(40, settings)):
        for halving_number in range(3):
            sets = [
                (
                    weighted_mean(source, draws.source[halving_number, half]),
                    weighted_mean(target, draws.target[halving_number, half]),
                )
                for half in (0, 1)
            ]
            model = PLSRegression(3, scale=False) if mapping == "pls" else Ridge(1.0)
            predictions = [
                model.fit(x[split.train], y[split.train]).predict(x[split.test]).copy() for x, y in sets
            ]
            for unit in range(4):
                second = sets[1][1][split.test, unit]
                expected = {
                    "r_cross": correlate(predictions[0][:, unit], second)[0],
                    "r_map": correlate(predictions[0][:, unit], predictions[1][:, unit])[0],
                    "r_target": correlate(sets[0][1][split.test, unit], second)[0],
                }
                for part, value in expected.items():
                    ours = getattr(found, part)[number, halving_number, unit]
                    assert ours == pytest.approx(value, abs=1e-9), part


def test_one_to_one_takes_the_best_correlated_source_unit(animals: Simulate) -> None:
    target, source = animals((3, 6))
    settings = ScoreSettings(mapping="one-to-one", n_splits=1, n_halves=2)
    draws = drawn(target, source, settings)
    (split,) = splits_of(40, settings)
    found = score_pair(target, source, draws, [split], settings).halvings
    for halving in range(2):
        x = weighted_mean(source, draws.source[halving, 0])
        y = weighted_mean(target, draws.target[halving, 0])
        second = weighted_mean(target, draws.target[halving, 1])
        for unit in range(3):
            by_source = [pearsonr(x[split.train, other], y[split.train, unit])[0] for other in range(6)]
            best = x[split.test, int(np.argmax(by_source))]
            expected = pearsonr(best, second[split.test, unit])[0]
            assert found.r_cross[0, halving, unit] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mapping", ["pls", "ridge", "rsa", "cka"])
def test_one_without_noise_and_zero_of_nothing_but_noise(animals: Simulate, mapping: str) -> None:
    settings = ScoreSettings.model_validate(
        {
            "mapping": mapping,
            "n_components": 3,
            "ridge_alpha": 1e-9,
            "cka_debiased": True,
            "n_splits": 3,
            "n_halves": 20,
        }
    )
    target, source = animals((60, 60), noise=0.0)
    clear = scored(target, source, settings).halvings.scores
    exact = 1e-6 if mapping in ("pls", "ridge") else 0.15  # two finite populations are not equally similar
    assert np.abs(clear - 1.0).max() < exact
    rng = np.random.default_rng(3)
    target, source = (rng.standard_normal((10, 40, 60)) for _ in range(2))
    r_cross = scored(target, source, settings).halvings.r_cross
    # 60 units, whose correlations over 20 test images have a standard deviation of about .23 each, and whose
    # maps share their source; one number over 780 pairs of images for a population.
    assert abs(r_cross.mean()) < 0.12


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_source_units_that_lack_an_image_in_a_half_change_nothing(animals: Simulate, mapping: str) -> None:
    target, source = animals((4, 9))
    settings = ScoreSettings.model_validate(
        {"mapping": mapping, "n_components": 3, "n_splits": 2, "n_halves": 3}
    )
    gaps = source.copy()
    gaps[1:, 7, 2] = np.nan
    gaps[:, 9, 5] = np.nan
    found = scored(target, gaps, settings)
    expected = scored(target, np.delete(source, [2, 5], axis=2), settings)
    assert found.n_source_units == 7
    np.testing.assert_array_equal(found.halvings.scores, expected.halvings.scores)


def test_sub_samples_are_taken_from_units_that_have_a_say(animals: Simulate) -> None:
    target, source = animals((4, 9))
    source[:, 9, [2, 5]] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=1, n_halves=2, n_subsamples=2)
    draws = drawn(target, source, settings, n_kept=4)
    splits = splits_of(40, settings)
    found = score_pair(target, source, draws, splits, settings)
    assert found.n_source_units == 4
    assert draws.units is not None
    for row, order in enumerate(draws.units):
        kept = [unit for unit in order if unit not in (2, 5)][:4]
        alone = PairDraws(draws.target[row : row + 1], draws.source[row : row + 1], None, 4)
        expected = score_pair(target, source[:, :, kept], alone, splits, settings).halvings
        np.testing.assert_allclose(
            found.halvings.scores[:, row], expected.scores[:, 0], rtol=0, atol=1e-9, equal_nan=True
        )


def test_target_units_that_lack_an_image_are_scored_where_they_can_be(animals: Simulate) -> None:
    target, source = animals((4, 9))
    target[2:, 7, 1] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=2, n_halves=8)
    draws = drawn(target, source, settings)
    found = scored(target, source, settings).halvings
    lost = ~(draws.target[:, :, :2] > 0).any(axis=2).all(axis=1)
    assert lost.any() and not lost.all()
    np.testing.assert_array_equal(found.drops[:, :, 1] == Drop.NO_TRIAL, np.tile(lost, (2, 1)))
    assert not np.isnan(found.r_cross[:, :, [0, 2, 3]]).any()
    assert list(found.missing_image) == [-1, 7, -1, -1]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda source: source[:, :, :2], "3 components need at least 3 source units, there are 2"),
        (lambda source: np.ones_like(source), "the source units do not vary over the training images"),
        (lambda source: source * np.nan, "no source unit is known for every image"),
    ],
)
def test_a_source_that_cannot_be_mapped_says_why(animals: Simulate, spoil: Any, reason: str) -> None:
    target, source = animals((4, 9))
    found = scored(target, spoil(source), ScoreSettings(n_components=3, n_splits=2, n_halves=2))
    assert found.reason == reason
    assert found.halvings.scores.shape == (2, 2, 4)
    assert np.isnan(found.halvings.scores).all()


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_results_do_not_depend_on_the_grouping_of_halvings(
    animals: Simulate, mapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = animals((4, 9))
    settings = ScoreSettings.model_validate(
        {"mapping": mapping, "n_components": 3, "n_splits": 2, "n_halves": 5}
    )
    at_once = scored(target, source, settings).halvings
    monkeypatch.setattr(mvkit.scoring.protocol, "GROUP_BYTES", 1)
    one_by_one = scored(target, source, settings).halvings
    for part in ("r_cross", "r_map", "r_target", "scores", "drops"):
        np.testing.assert_array_equal(getattr(at_once, part), getattr(one_by_one, part))


def test_joining_keeps_halvings_and_the_first_missing_image(animals: Simulate) -> None:
    target, *sources = animals((4, 9, 7))
    target[1:, 6, 2] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=2, n_halves=3)
    first, second = (scored(target, source, settings).halvings for source in sources)
    both = concatenate_split_halves([first, second])
    np.testing.assert_array_equal(both.scores[:, :3], first.scores)
    np.testing.assert_array_equal(both.scores[:, 3:], second.scores)
    np.testing.assert_array_equal(both.drops[:, 3:], second.drops)
    assert list(both.missing_image) == [-1, -1, 6, -1]


def test_a_map_that_does_not_converge_is_named(animals: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = animals((3, 9))
    target[:, :, 0] = 1.0
    monkeypatch.setattr(sparse, "MAX_ROUNDS", 1)
    settings = ScoreSettings(mapping="lasso", penalty=1e-6, n_splits=2, n_halves=3)
    drops = scored(target, source, settings).halvings.drops
    assert (drops[:, :, 0] == Drop.CONSTANT_RESPONSE).all()
    assert (drops[:, :, 1:] == Drop.NOT_CONVERGED).all()
