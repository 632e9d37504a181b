"""What must hold for any features and responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvkit.scoring import ScoreSettings, pls_predict, score_features
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import ImageSplit, halves_of, image_splits, trial_orders

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=20, deadline=None)


def draw(
    seed: int, n_units: int, n_features: int = 40, n_images: int = 60
) -> tuple[Any, Any, Any, ImageSplit]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_images, n_features)) * np.linspace(2.0, 0.2, n_features)
    responses = features[:, :3] @ rng.standard_normal((3, n_units)) + rng.standard_normal((n_images, n_units))
    return rng, features, responses, image_splits(n_images, n_splits=1, train_fraction=0.5, seed=1)[0]


class Plain:
    """A recording."""

    def __init__(self, responses: Any, specimen: int = 1) -> None:
        self.area = "VISp"
        self.specimen = specimen
        self.unit_ids = np.arange(responses.shape[2])
        self.responses = responses


@FEW
@given(seed=SEEDS, n_units=st.integers(1, 40), n_components=st.integers(1, 8))
def test_rotating_and_shifting_features_changes_nothing(seed: int, n_units: int, n_components: int) -> None:
    rng, features, responses, split = draw(seed, n_units)
    options = ScoreSettings(n_components=n_components)
    rotation = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    moved = features @ rotation + 10.0 * rng.standard_normal(40)
    before = pls_predict(features, responses, split, options)
    np.testing.assert_allclose(pls_predict(moved, responses, split, options), before, rtol=0, atol=1e-8)


@FEW
@given(seed=SEEDS, n_units=st.integers(1, 40), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_scaling_responses_scales_predictions(seed: int, n_units: int, scale: float, shift: float) -> None:
    _, features, responses, split = draw(seed, n_units)
    options = ScoreSettings(n_components=5)
    before = pls_predict(features, responses, split, options)
    after = pls_predict(features, scale * responses + shift, split, options)
    np.testing.assert_allclose(after, scale * before + shift, rtol=0, atol=1e-9 * (scale + abs(shift)))


@FEW
@given(seed=SEEDS, n_units=st.integers(1, 40))
def test_order_of_training_images_does_not_matter(seed: int, n_units: int) -> None:
    rng, features, responses, split = draw(seed, n_units)
    options = ScoreSettings(n_components=5)
    shuffled = ImageSplit(rng.permutation(split.train), split.test)
    np.testing.assert_allclose(
        pls_predict(features, responses, shuffled, options),
        pls_predict(features, responses, split, options),
        rtol=0,
        atol=1e-9,
    )


@FEW
@given(seed=SEEDS, n_units=st.integers(2, 40))
def test_converged_weights_do_not_depend_on_the_order_of_units(seed: int, n_units: int) -> None:
    rng, features, responses, split = draw(seed, n_units)
    options = ScoreSettings(n_components=3, pls_stopping="converged")
    order = rng.permutation(n_units)
    np.testing.assert_allclose(
        pls_predict(features, responses[:, order], split, options),
        pls_predict(features, responses, split, options)[:, order],
        rtol=0,
        atol=1e-7,
    )


@FEW
@given(seed=SEEDS, n_units=st.integers(1, 40), rank=st.integers(1, 6))
def test_noise_free_linear_responses_are_recovered(seed: int, n_units: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal((60, rank)) @ rng.standard_normal((rank, 50))
    tuning = wide @ rng.standard_normal((50, n_units))
    options = ScoreSettings(n_components=25, n_splits=1, n_halves=2)
    scores = score_features({"true": wide}, [Plain(np.repeat(tuning[None], 4, axis=0))], options)
    np.testing.assert_allclose(scores.columns["score"].astype(float), 1.0, rtol=0, atol=1e-7)


@FEW
@given(seed=SEEDS, lost=st.floats(0.0, 0.6))
def test_missing_trials_give_nan_with_a_reason_or_a_finite_score(seed: int, lost: float) -> None:
    rng, features, responses, _ = draw(seed, 6)
    trials = responses + rng.standard_normal((5, *responses.shape))
    trials[rng.random(trials.shape) < lost] = np.nan
    trials[:, :, 0] = 0.0
    options = ScoreSettings(n_components=4, n_splits=2, n_halves=3)
    table = score_features({"a": features}, [Plain(trials)], options).table()
    missing = table["score"].isna()
    assert missing[0]
    assert (table.loc[missing, "reason"] != "").all() and (table.loc[~missing, "reason"] == "").all()
    assert np.isfinite(table.loc[~missing, "score"]).all()


def test_unrelated_features_correlate_with_nothing_on_average() -> None:
    rng = np.random.default_rng(11)
    tuning = rng.standard_normal((118, 400))
    trials = tuning + rng.standard_normal((10, 118, 400))
    options = ScoreSettings(n_splits=2, n_halves=3)
    recordings = [Plain(trials[:, :, begin : begin + 50], begin) for begin in range(0, 400, 50)]
    table = score_features({"unrelated": rng.standard_normal((118, 500))}, recordings, options).table()
    # 400 units x 2 splits of 59 images: standard error about 0.13 / sqrt(800)
    assert abs(table["raw_correlation"].mean()) < 5 * 0.13 / np.sqrt(800)
    assert table["response_reliability"].mean() > 0.85


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_noise_correction_in_a_simulation_with_known_truth(noise: float) -> None:
    """Half of the tuning variance is linear in the features, so the true correlation is sqrt(1/2).

    All three correlations are between halves of the trials, r_cross = sqrt(r_map r_target / 2), but the two
    reliabilities are corrected to the full number of trials. What is left of the noise is therefore a factor
    sqrt((1 + r_map) / 2 * (1 + r_target) / 2).
    """
    rng = np.random.default_rng(12)
    n_images, n_units = 600, 60
    latents = rng.standard_normal((n_images, 8))
    weights = rng.standard_normal((8, n_units))
    explained = latents @ weights / np.linalg.norm(weights, axis=0)
    tuning = np.sqrt(0.5) * explained + np.sqrt(0.5) * rng.standard_normal((n_images, n_units))
    trials = tuning + noise * rng.standard_normal((20, n_images, n_units))
    features = latents @ rng.standard_normal((8, 100))
    options = ScoreSettings(n_components=8, n_splits=2, n_halves=3)
    table = score_features({"half": features}, [Plain(trials)], options).table()
    r_map, r_target = table["map_correlation"].mean(), table["response_correlation"].mean()
    # the mean of ten trials has signal variance 1 and noise variance noise^2 / 10
    assert r_target == pytest.approx(1 / (1 + noise**2 / 10), abs=0.02)
    left = np.sqrt((1 + r_map) / 2 * (1 + r_target) / 2)
    assert table["score"].mean() == pytest.approx(np.sqrt(0.5) * left, abs=0.015)
    assert table["raw_correlation"].mean() == pytest.approx(np.sqrt(0.5 * r_map * r_target), abs=0.015)


def test_units_without_valid_halves_leave_the_others_untouched() -> None:
    rng, features, responses, split = draw(13, 8)
    trials = responses + rng.standard_normal((6, *responses.shape))
    trials[:, split.train[3], 2] = np.nan
    options = ScoreSettings(n_components=5)
    members = halves_of(trial_orders(6, n_halves=4))
    layer = [[split_coordinates(layer_coordinates("a", features), split, 5)]]
    found = MAPPINGS["pls"].score(trials, members, [split], layer, options)[0].r_cross
    without = MAPPINGS["pls"].score(np.delete(trials, 2, axis=2), members, [split], layer, options)[0].r_cross
    assert np.isnan(found[:, :, 2]).all()
    np.testing.assert_allclose(np.delete(found, 2, axis=2), without, rtol=0, atol=1e-9)
