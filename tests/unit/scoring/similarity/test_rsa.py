"""Dissimilarity matrices."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.scoring import gram
from mvkit.scoring.protocol import ImageSplit, image_splits
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity import RSA, layer_rdms, population_rdms, rdm_vectors

RNG = np.random.default_rng(0)
ALL = [ImageSplit(np.empty(0, dtype=np.int64), np.arange(20))]


def test_populations_without_the_units_that_are_not_present() -> None:
    patterns = RNG.poisson(4.0, (3, 20, 9)).astype(float)
    present = np.ones((3, 9), dtype=bool)
    present[1, [0, 4]] = False
    patterns[1, :, [0, 4]] = 0.0
    found = population_rdms(patterns, present)
    for item in range(3):
        np.testing.assert_allclose(
            found[item], 1.0 - np.corrcoef(patterns[item][:, present[item]]), rtol=0, atol=1e-14
        )


def test_a_constant_unit_belongs_to_the_patterns() -> None:
    patterns = RNG.standard_normal((1, 20, 6))
    with_constant = np.concatenate([patterns, np.full((1, 20, 1), 5.0)], axis=2)
    found = population_rdms(with_constant, np.ones((1, 7), dtype=bool))[0]
    np.testing.assert_allclose(found, 1.0 - np.corrcoef(with_constant[0]), rtol=0, atol=1e-14)
    without = population_rdms(patterns, np.ones((1, 6), dtype=bool))[0]
    assert np.abs(found - without).max() > 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_an_image_to_which_all_units_respond_alike(value: float) -> None:
    patterns = RNG.standard_normal((1, 20, 7))
    patterns[0, 3] = value
    found = population_rdms(patterns, np.ones((1, 7), dtype=bool))[0]
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()
    assert np.isfinite(np.delete(np.delete(found, 3, 0), 3, 1)).all()


@pytest.mark.parametrize("block", [7, 64, 8192])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_layers_in_blocks(block: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = (1000.0 + 30.0 * RNG.standard_normal((20, 300))).astype(dtype)
    splits = [*ALL, *image_splits(20, n_splits=2, train_fraction=0.5)]
    exact = 1.0 - np.corrcoef(features.astype(np.float64))
    for found, split in zip(layer_rdms("a", features, splits), splits, strict=True):
        np.testing.assert_allclose(found, exact[np.ix_(split.test, split.test)], rtol=0, atol=1e-12)


def test_why_layers_have_no_dissimilarities() -> None:
    features = RNG.standard_normal((20, 30))
    one = layer_rdms("one feature", features[:, :1], ALL)[0]
    assert RSA().why_undefined(one) == "undefined dissimilarities: no image has two different features"
    features[[2, 5]] = 0.3  # whose mean over 30 features is not 0.3 in float64
    two = layer_rdms("silent", features, ALL)[0]
    assert RSA().why_undefined(two) == "undefined dissimilarities: 2 images have no two different features"
    equal = layer_rdms("one-hot", np.eye(20), ALL)[0]
    assert not rdm_vectors(equal[None], ScoreSettings(mapping="rsa")).any()
    assert RSA().why_undefined(equal) == "all dissimilarities are equal"


@pytest.mark.parametrize("features", [np.ones(20), np.full((20, 2), np.nan), np.full((20, 2), "a")])
def test_features_that_are_no_matrix_of_numbers(features: np.ndarray) -> None:
    with pytest.raises(DataError, match="layer 'bad'"):
        layer_rdms("bad", features, ALL)


def test_rounding_errors_do_not_order_equal_dissimilarities() -> None:
    """Two units: every pattern correlates by 1 or -1 with every other one, up to rounding."""
    patterns = RNG.standard_normal((1, 20, 2)) / 3.0
    rising = patterns[0, :, 1] > patterns[0, :, 0]
    rows, columns = np.triu_indices(20, k=1)
    opposed = (rising[rows] != rising[columns]).astype(float)
    matrices = population_rdms(patterns, np.ones((1, 2), dtype=bool))
    vector = rdm_vectors(matrices, ScoreSettings(mapping="rsa", rsa_comparison="spearman"))[0]
    assert np.unique(vector).size == 2
    assert np.corrcoef(vector, opposed)[0, 1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("comparison", ["pearson", "spearman", "cosine"])
def test_nothing_but_rounding_errors_is_nothing(comparison: str) -> None:
    """Two units, the second always the stronger one: all dissimilarities are zero."""
    patterns = np.sort(RNG.standard_normal((1, 20, 2)), axis=2)
    matrices = population_rdms(patterns, np.ones((1, 2), dtype=bool))
    assert not rdm_vectors(matrices, ScoreSettings(mapping="rsa", rsa_comparison=comparison)).any()
