"""Every map: against what it is said to be, and through the whole of scoring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.scoring import ScoreSettings, score_features
from mvkit.scoring.maps import MAPPINGS, MAPS

OTHERS = sorted(set(MAPS) - {"pls"})


def options(mapping: str, **more: Any) -> ScoreSettings:
    settings: dict[str, Any] = {"mapping": mapping, "penalty": 0.1, "n_splits": 2, "n_halves": 4}
    return ScoreSettings(**{**settings, **more})


@pytest.mark.parametrize("mapping", OTHERS)
def test_the_true_map_scores_high_and_noise_does_not(
    mapping: str, noisy_linear: Callable[..., Any], recording: Callable[..., Any]
) -> None:
    features, responses = noisy_linear(noise=0.3, rank=1, n_features=30)
    unrelated = np.random.default_rng(5).standard_normal(features.shape)
    scores = score_features(
        {"true": features, "unrelated": unrelated}, [recording(responses)], options(mapping)
    )
    found = scores.table().groupby("layer")["raw_correlation"].median()
    assert found["true"] > 0.9
    assert abs(found["unrelated"]) < 0.3


@pytest.mark.parametrize("mapping", OTHERS)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_layer_that_does_not_vary_says_so(
    mapping: str, value: float, noisy_linear: Callable[..., Any], recording: Callable[..., Any]
) -> None:
    _, responses = noisy_linear()
    flat = np.full((responses.shape[1], 7), value, dtype=np.float32)
    frame = score_features({"flat": flat}, [recording(responses)], options(mapping)).table()
    assert frame["score"].isna().all()
    assert set(frame["reason"]) == {"unmapped"}
    assert set(frame["detail"]) == {"constant features: the layer does not vary over the training images"}


@pytest.mark.parametrize("mapping", OTHERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_must_be_finite(mapping: str, bad: float) -> None:
    features = np.ones((10, 4))
    features[7, 2] = bad
    with pytest.raises(DataError, match="layer 'conv1': feature 2 of image 7 is"):
        MAPPINGS[mapping].prepare("conv1", features, [], ScoreSettings(mapping=mapping))


@pytest.mark.parametrize("mapping", OTHERS)
def test_only_units_without_a_response_are_lost(
    mapping: str, noisy_linear: Callable[..., Any], recording: Callable[..., Any]
) -> None:
    features, responses = noisy_linear(n_units=5)
    settings = options(mapping)
    whole = score_features({"a": features}, [recording(responses)], settings).table()
    broken = responses.copy()
    broken[:, :, 1] = 2.5
    broken[:, 13, 3] = np.nan
    found = score_features({"a": features}, [recording(broken)], settings).table()
    assert found["reason"][1] == "constant_response"
    assert found["reason"][3] == "no_trial"
    assert found["detail"][3] == "image 13 has no valid trial in one half"
    kept = [0, 2, 4]
    np.testing.assert_array_equal(found["score"][kept], whole["score"][kept])
    assert found["score"][kept].notna().all()


@pytest.mark.parametrize("mapping", OTHERS)
def test_one_feature_and_one_unit_suffice(
    mapping: str, noisy_linear: Callable[..., Any], recording: Callable[..., Any]
) -> None:
    """With one feature every linear map predicts that feature, up to its sign and scale."""
    features, responses = noisy_linear(n_features=1, n_units=1, rank=1, noise=0.5)
    frame = score_features({"a": features}, [recording(responses)], options(mapping)).table()
    by_pls = score_features({"a": features}, [recording(responses)], options("pls", n_components=1)).table()
    sign = 1.0 if np.corrcoef(features[:, 0], responses.mean(axis=0)[:, 0])[0, 1] > 0 else -1.0
    expected = by_pls["raw_correlation"] if mapping != "one-to-one" else sign * by_pls["raw_correlation"]
    np.testing.assert_allclose(frame["raw_correlation"], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [options("ridge", ridge_alpha="cv"), options("one-to-one")], ids=["ridge", "one-to-one"]
)
def test_workers_change_no_bit(
    settings: ScoreSettings, noisy_linear: Callable[..., Any], recording: Callable[..., Any]
) -> None:
    features, responses = noisy_linear(n_features=300)
    layers = {"a": features, "b": features[:, :20] ** 2}
    recordings = [recording(responses), recording(responses[:, :, :2] ** 2, specimen=2)]
    alone, several = (score_features(layers, recordings, settings, n_jobs=n_jobs) for n_jobs in (1, 2))
    for column in ("score", "raw_correlation", "map_correlation"):
        np.testing.assert_array_equal(alone.columns[column], several.columns[column])
