"""Every map: against what it is said to be, and through the whole of scoring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.scoring import ScoreSettings, score_features
from mvkit.scoring.gram import LayerCoordinates, layer_coordinates
from mvkit.scoring.maps import MAPPINGS, MAPS, JoinedFeatures, join_coordinates, prepare_layers
from mvkit.scoring.protocol import splits_of

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


def parts_of_a_layer(n_images: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    # The last one in another unit of measure, and wide enough for a Gram matrix.
    widths, scales = (30, 7, 9000), (1.0, 20.0, 0.3)
    return {
        name: (scale * rng.standard_normal((n_images, width)) + 5).astype(np.float32)
        for name, width, scale in zip("abc", widths, scales, strict=True)
    }


def test_gram_matrices_of_joined_layers_add_up() -> None:
    parts = parts_of_a_layer()
    joined = join_coordinates("abc", [layer_coordinates(name, values) for name, values in parts.items()])
    whole = np.hstack(list(parts.values())).astype(np.float64)
    whole -= whole.mean(axis=0)
    gram = whole @ whole.T
    products = joined.coordinates @ joined.coordinates.T
    np.testing.assert_allclose(products, gram, rtol=0, atol=1e-12 * np.abs(gram).max())
    assert joined.n_features == 9037
    assert joined.coordinates.shape[1] <= 40


@pytest.mark.parametrize("mapping", ["pls", "ridge"])
def test_a_joined_layer_predicts_as_scikit_learn_from_features_side_by_side(mapping: str) -> None:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.linear_model import Ridge

    settings = options(mapping, n_components=5, ridge_alpha=100.0, n_splits=1)
    parts = parts_of_a_layer()
    whole = np.hstack(list(parts.values())).astype(np.float64)
    (split,) = splits_of(len(whole), settings)
    rng = np.random.default_rng(2)
    targets = whole[:, ::300] @ rng.standard_normal((whole[:, ::300].shape[1], 3))
    targets -= targets[split.train].mean(axis=0)
    saved: list[LayerCoordinates] = []
    composition = {"abc": ("a", "b", "c"), "b": ("b",), "ba": ("b", "a")}
    prepared = prepare_layers(
        MAPPINGS[mapping],
        parts,
        [split],
        settings,
        n_jobs=2,
        save=saved.append,
        composition=composition,
    )
    assert list(prepared) == list(composition)
    assert sorted(layer.name for layer in saved) == ["a", "b", "c"], "every part once"
    predicted = MAPS[mapping].predict(targets[None, split.train], prepared["abc"][0], settings)[0]
    model = PLSRegression(5, scale=False) if mapping == "pls" else Ridge(alpha=100.0)
    expected = model.fit(whole[split.train], targets[split.train]).predict(whole[split.test])
    deviations = predicted - expected
    np.testing.assert_allclose(deviations - deviations.mean(axis=0), 0, atol=1e-9 * np.abs(expected).max())


def test_joined_features_are_columns_side_by_side() -> None:
    parts = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(4).reshape(2, 2), "c": np.ones((2, 1), bool)}
    joined, whole = JoinedFeatures(list(parts.values())), np.hstack(list(parts.values()))
    assert (joined.shape, joined.dtype) == ((2, 6), np.float64)
    for begin in range(6):
        for stop in range(begin + 1, 7):
            np.testing.assert_array_equal(joined.columns(begin, stop), whole[:, begin:stop])
    np.testing.assert_array_equal(np.asarray(joined), whole)
