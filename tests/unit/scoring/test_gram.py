"""Coordinates of noisy sources, against those of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.scoring.gram import SplitCoordinates, gram_coordinates, layer_coordinates, split_coordinates
from mvkit.scoring.protocol import image_splits

SPLITS = image_splits(30, n_splits=3, train_fraction=0.5)


def gram_matrix(coordinates: SplitCoordinates) -> tuple[Any, Any]:
    """What does not depend on the signs of directions: train x train and test x train."""
    train = coordinates.basis.T * coordinates.scale
    return train @ train.T, coordinates.test @ train.T


@pytest.mark.parametrize("n_units", [1, 4, 14, 15, 29, 30, 200])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equal_the_coordinates_of_a_layer(n_units: int, offset: float) -> None:
    rng = np.random.default_rng(n_units)
    features = offset + rng.standard_normal((30, n_units)) * np.exp(rng.standard_normal(n_units))
    found = gram_coordinates("source", features, SPLITS, 1)
    for split, coordinates in zip(SPLITS, found, strict=True):
        expected = split_coordinates(layer_coordinates("layer", features), split, 1)
        assert coordinates.reason == ""
        np.testing.assert_allclose(coordinates.scale, expected.scale, rtol=1e-9)
        np.testing.assert_allclose(
            coordinates.basis @ coordinates.basis.T, np.eye(coordinates.scale.size), atol=1e-9
        )
        for ours, theirs in zip(gram_matrix(coordinates), gram_matrix(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("case", ["copies", "constant units", "steep"])
def test_spectra_with_gaps_are_reduced_the_careful_way(case: str) -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 20))
    if case == "copies":
        features = np.repeat(features[:, :5], 4, axis=1)
    elif case == "constant units":
        features[:, 3:] = 7.0
    else:
        features = features @ np.diag(10.0 ** -np.arange(20))
    for split, coordinates in zip(SPLITS, gram_coordinates("source", features, SPLITS, 1), strict=True):
        expected = split_coordinates(layer_coordinates("layer", features), split, 1)
        np.testing.assert_array_equal(coordinates.scale, expected.scale)
        np.testing.assert_array_equal(coordinates.test, expected.test)


def test_reasons_speak_of_source_units() -> None:
    features = np.random.default_rng(2).standard_normal((30, 4))
    reasons = {part.reason for part in gram_coordinates("source", features, SPLITS, 5)}
    assert reasons == {"5 components need at least 5 source units, there are 4"}
    reasons = {part.reason for part in gram_coordinates("source", np.ones((30, 4)), SPLITS, 4)}
    assert reasons == {"the source units do not vary over the training images"}


def test_gaps_are_refused() -> None:
    features = np.ones((30, 4))
    features[3, 2] = np.nan
    with pytest.raises(DataError, match="source animals: responses to predict from must be finite"):
        gram_coordinates("source animals", features, SPLITS, 1)
