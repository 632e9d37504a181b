"""Reduced coordinates keep what PLS can see."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.scoring import gram
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.protocol import image_splits

SPLIT = image_splits(30, n_splits=1, train_fraction=0.5)[0]


@pytest.mark.parametrize("n_features", [4, 30, 31, 500])
@pytest.mark.parametrize("block", [7, 64, 8192])
def test_inner_products_are_kept(n_features: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = np.random.default_rng(0).standard_normal((30, n_features)).astype(np.float32)
    layer = layer_coordinates("a", features)
    assert layer.coordinates.shape == (30, min(30, n_features))
    exact = features.astype(np.float64)
    exact -= exact.mean(axis=0)
    np.testing.assert_allclose(layer.coordinates @ layer.coordinates.T, exact @ exact.T, atol=1e-11)

    coordinates = split_coordinates(layer, SPLIT, 2)
    train = exact[SPLIT.train] - exact[SPLIT.train].mean(axis=0)
    test = exact[SPLIT.test] - exact[SPLIT.train].mean(axis=0)
    reduced = coordinates.basis.T * coordinates.scale
    np.testing.assert_allclose(reduced @ reduced.T, train @ train.T, atol=1e-11)
    np.testing.assert_allclose(coordinates.test @ reduced.T, test @ train.T, atol=1e-11)
    assert coordinates.scale.size == min(14, n_features)


def test_rounding_errors_are_no_directions() -> None:
    rng = np.random.default_rng(1)
    features = 1e6 + rng.standard_normal((30, 3)) @ rng.standard_normal((3, 200))
    assert split_coordinates(layer_coordinates("a", features), SPLIT, 3).scale.size == 3


def test_constant_layer_and_narrow_layer_say_so() -> None:
    constant = split_coordinates(layer_coordinates("a", np.full((30, 40), 1 / 3)), SPLIT, 5)
    assert constant.reason.startswith("constant features") and constant.scale.size == 0
    narrow = split_coordinates(layer_coordinates("a", np.eye(30)[:, :4]), SPLIT, 5)
    assert narrow.reason == "5 components need at least 5 features, the layer has 4"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_place(value: float) -> None:
    features = np.zeros((30, 9))
    features[12, 5] = value
    with pytest.raises(DataError, match=r"layer 'conv3': feature 5 of image 12 is -?(nan|inf)"):
        layer_coordinates("conv3", features)


@pytest.mark.parametrize("features", [np.zeros(30), np.zeros((30, 0)), np.array([["a"] * 3] * 30)])
def test_features_must_be_a_matrix_of_numbers(features: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match="must be numbers of shape"):
        layer_coordinates("conv3", features)
