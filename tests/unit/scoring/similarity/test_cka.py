"""Gram matrices and kernel alignment."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring import gram
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import ImageSplit, image_splits, splits_of
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity import CKA, gram_vectors, layer_grams, population_grams

RNG = np.random.default_rng(0)
ALL = [ImageSplit(np.empty(0, dtype=np.int64), np.arange(20))]


@pytest.mark.parametrize("block", [7, 8192])
@pytest.mark.parametrize("n_features", [1, 15, 300])
def test_layers_are_centred_over_the_test_images(
    block: int, n_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = (1e4 + RNG.standard_normal((20, n_features))).astype(np.float32)
    splits = [*ALL, *image_splits(20, n_splits=2, train_fraction=0.4)]
    for found, split in zip(layer_grams("a", features, splits), splits, strict=True):
        exact = features[split.test].astype(np.float64)
        exact -= exact.mean(axis=0)
        np.testing.assert_allclose(found, exact @ exact.T, rtol=0, atol=1e-9 * n_features)


def test_absent_and_constant_units_add_nothing() -> None:
    patterns = RNG.standard_normal((1, 20, 6))
    more = np.concatenate([patterns, np.zeros((1, 20, 1)), np.full((1, 20, 1), 1e6 / 3)], axis=2)
    np.testing.assert_allclose(population_grams(more), population_grams(patterns), rtol=0, atol=1e-12)


def test_products_of_u_centred_matrices_are_the_unbiased_estimator() -> None:
    """Song et al. 2012, the estimator as a sum of three terms over zero-diagonal Gram matrices."""
    settings = ScoreSettings(mapping="cka", cka_debiased=True)
    n = 12
    first, second = RNG.standard_normal((n, 5)), RNG.standard_normal((n, 30))
    k, m = first @ first.T, second @ second.T
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(m, 0.0)
    ones = np.ones(n)
    hsic = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    hsic -= 2.0 / (n - 2) * (ones @ k @ m @ ones)
    vectors = [gram_vectors(population_grams(values[None]), settings)[0] for values in (first, second)]
    assert vectors[0] @ vectors[1] == pytest.approx(hsic, rel=1e-12)


def test_unrelated_populations_are_alike_only_with_bias() -> None:
    """30 images, 200 and 300 units: biased CKA of independent noise is near 1, debiased CKA near 0."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        source = rng.standard_normal((1, 2, 30, 200))
        target = rng.standard_normal((1, 2, 30, 300))
        for debiased, values in found.items():
            settings = ScoreSettings(mapping="cka", cka_debiased=debiased)
            parts = MAPPINGS["cka"].between(source, target, splits_of(30, settings), settings)
            values.append(float(parts.r_cross[0, 0, 0]))
    assert np.mean(found[False]) > 0.8
    # The cosine of two independent vectors with n (n - 3) / 2 = 405 degrees of freedom.
    assert abs(np.mean(found[True])) < 4 / np.sqrt(405 * 30)
    assert np.std(found[True]) == pytest.approx(1 / np.sqrt(405), rel=0.5)


def test_why_layers_have_no_gram_matrix() -> None:
    debiased = ScoreSettings(mapping="cka", cka_debiased=True)
    constant = layer_grams("constant", np.full((20, 30), 0.1), ALL)[0]
    assert not constant.any()
    assert CKA().why_undefined(constant) == "constant features: the layer does not vary over the images"
    equal = layer_grams("one-hot", np.eye(20), ALL)[0]
    assert gram_vectors(equal[None], ScoreSettings(mapping="cka")).any()
    assert not gram_vectors(equal[None], debiased).any()
    assert CKA().why_undefined(equal) == "all distances between images are equal"
