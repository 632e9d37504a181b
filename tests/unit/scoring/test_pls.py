"""PLS maps against scikit-learn and against textbook algebra."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from mvkit.errors import FitError
from mvkit.scoring import ScoreSettings, pls_predict
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.pls import (
    ALIGNMENT,
    FITS_AT_A_TIME,
    LANES,
    add_rows,
    aligned_zeros,
    dot,
    padded_length,
    predict_test_images,
    row_products,
)
from mvkit.scoring.protocol import ImageSplit, image_splits, training_targets

SPLIT = image_splits(118, n_splits=1, train_fraction=0.5)[0]


def sklearn_predict(features: Any, responses: Any, split: ImageSplit, n_components: int) -> Any:
    """What the 2020 code computed."""
    model = PLSRegression(n_components=n_components, scale=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features[split.train].astype(np.float64), responses[split.train])
    return model.predict(features[split.test].astype(np.float64)).reshape(len(split.test), -1)


def svd_predict(features: Any, responses: Any, split: ImageSplit, n_components: int) -> Any:
    """PLS2 with exact singular vectors and explicit deflation."""
    mean = features[split.train].mean(axis=0)
    X, Z = features[split.train] - mean, features[split.test] - mean
    Y = responses[split.train] - responses[split.train].mean(axis=0)
    weights, x_loadings, y_loadings = [], [], []
    for _ in range(n_components):
        w = np.linalg.svd(X.T @ Y, full_matrices=False)[0][:, 0]
        t = X @ w
        p, q = X.T @ t / (t @ t), Y.T @ t / (t @ t)
        X, Y = X - np.outer(t, p), Y - np.outer(t, q)
        weights.append(w)
        x_loadings.append(p)
        y_loadings.append(q)
    W, P, Q = np.array(weights), np.array(x_loadings), np.array(y_loadings)
    return Z @ W.T @ np.linalg.solve(P @ W.T, Q) + responses[split.train].mean(axis=0)


def make_features(kind: str, rng: np.random.Generator) -> Any:
    """Build features that are awkward in one way each."""
    plain = np.maximum(rng.standard_normal((118, 40)) @ rng.standard_normal((40, 400)), 0.0)
    if kind == "offset":
        return plain + 1e6
    if kind == "tiny":
        return plain * 1e-9
    if kind == "huge":
        return plain * 1e9
    if kind == "duplicated columns":
        return np.repeat(plain[:, :60], 5, axis=1)
    if kind == "fewer features than images":
        return plain[:, :30]
    if kind == "nearly collinear":
        return plain[:, :30] @ rng.standard_normal((30, 300)) + 1e-6 * rng.standard_normal((118, 300))
    if kind == "one loud feature":
        plain[:, 7] *= 1e5
        return plain
    if kind == "falling spectrum":
        return (rng.standard_normal((118, 60)) * np.logspace(0, -6, 60)) @ rng.standard_normal((60, 300))
    if kind == "dead features":
        plain[:, 100:] = 0.25
        return plain
    if kind == "float32":
        return plain.astype(np.float32)
    return plain


@pytest.mark.parametrize("n_units", [1, 4, 45, 46, 80])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "offset",
        "tiny",
        "huge",
        "duplicated columns",
        "fewer features than images",
        "nearly collinear",
        "one loud feature",
        "falling spectrum",
        "dead features",
        "float32",
    ],
)
def test_predictions_equal_those_of_sklearn(kind: str, n_units: int) -> None:
    rng = np.random.default_rng(3)
    features = make_features(kind, rng)
    signal = (features - features.mean(axis=0)) @ rng.standard_normal((features.shape[1], n_units))
    responses = 5.0 + signal / signal.std(axis=0) + rng.standard_normal((118, n_units))
    found = pls_predict(features, responses, SPLIT)
    expected = sklearn_predict(features, responses, SPLIT, 25)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_few_features_and_components(n_components: int) -> None:
    rng = np.random.default_rng(4)
    features = rng.standard_normal((118, 10))
    responses = rng.standard_normal((118, 7))
    found = pls_predict(features, responses, SPLIT, ScoreSettings(n_components=n_components))
    expected = sklearn_predict(features, responses, SPLIT, n_components)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_as_many_components_as_features_is_least_squares() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((118, 10)) @ rng.standard_normal((10, 60))
    responses = rng.standard_normal((118, 4))
    found = pls_predict(features, responses, SPLIT)
    design = np.column_stack([np.ones(118), features])
    solution = np.linalg.lstsq(design[SPLIT.train], responses[SPLIT.train], rcond=1e-10)[0]
    np.testing.assert_allclose(found, design[SPLIT.test] @ solution, rtol=0, atol=1e-8)


def test_iteration_limit_and_tolerance_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(6)
    features, responses = rng.standard_normal((118, 200)), rng.standard_normal((118, 20))
    settings = ScoreSettings(n_components=6, pls_max_iterations=9, pls_tolerance=1e-9)
    model = PLSRegression(n_components=6, scale=False, max_iter=9, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features[SPLIT.train], responses[SPLIT.train])
    assert max(model.n_iter_) == 9
    found = pls_predict(features, responses, SPLIT, settings)
    np.testing.assert_allclose(found, model.predict(features[SPLIT.test]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("decades", [0, 2, 6])
@pytest.mark.parametrize("n_units", [1, 12, 50, 90])
def test_converged_weights_are_singular_vectors(n_units: int, decades: int) -> None:
    rng = np.random.default_rng(7)
    features = rng.standard_normal((118, 150)) * np.logspace(0, -decades, 150)
    responses = features[:, :1] + rng.standard_normal((118, n_units))
    settings = ScoreSettings(n_components=15, pls_stopping="converged")
    found = pls_predict(features, responses, SPLIT, settings)
    np.testing.assert_allclose(found, svd_predict(features, responses, SPLIT, 15), rtol=0, atol=1e-8)


def test_silent_first_unit_is_not_where_the_iteration_starts() -> None:
    rng = np.random.default_rng(8)
    features, responses = rng.standard_normal((118, 100)), rng.standard_normal((118, 9))
    responses[:, 0] = 0.0
    found = pls_predict(features, responses, SPLIT)
    np.testing.assert_allclose(found, sklearn_predict(features, responses, SPLIT, 25), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], 0.0)
    np.testing.assert_allclose(
        found[:, 1:], pls_predict(features, responses[:, 1:], SPLIT), rtol=0, atol=1e-9
    )


def test_unit_with_a_missing_mean_is_left_out_of_the_fit() -> None:
    rng = np.random.default_rng(9)
    features, responses = rng.standard_normal((118, 100)), rng.standard_normal((118, 9))
    without = pls_predict(features, np.delete(responses, 4, axis=1), SPLIT)
    responses[SPLIT.train[0], 4] = np.nan
    found = pls_predict(features, responses, SPLIT)
    assert np.isnan(found[:, 4]).all()
    np.testing.assert_allclose(np.delete(found, 4, axis=1), without, rtol=0, atol=1e-9)


def test_training_targets_clear_what_cannot_take_part() -> None:
    rng = np.random.default_rng(10)
    means = rng.standard_normal((2, 20, 4))
    means[0, 3, 1] = np.nan
    means[1, :, 2] = 0.1 + 0.2  # constant, but its mean need not be exactly this
    targets, usable = training_targets(means)
    np.testing.assert_array_equal(usable, [[True, False, True, True], [True, True, False, True]])
    assert not targets[0, :, 1].any() and not targets[1, :, 2].any()
    np.testing.assert_allclose(targets[0, :, 0], means[0, :, 0] - means[0, :, 0].mean(), atol=1e-15)


def test_too_few_features_are_refused_with_the_numbers() -> None:
    with pytest.raises(FitError, match="25 components need at least 25 features, the layer has 20"):
        pls_predict(np.random.default_rng(0).standard_normal((118, 20)), np.zeros((118, 2)), SPLIT)


def test_constant_features_are_refused() -> None:
    features = np.full((118, 40), 3.3)
    with pytest.raises(FitError, match="constant features"):
        pls_predict(features, np.zeros((118, 2)), SPLIT)


@pytest.mark.parametrize("size", [1, LANES - 1, LANES, LANES + 1, 58])
def test_rows_are_padded_and_aligned(size: int) -> None:
    assert size <= padded_length(size) < size + LANES and padded_length(size) % LANES == 0
    zeros = aligned_zeros(3, padded_length(size))
    assert zeros.ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(zeros, np.zeros((3, padded_length(size))))


@pytest.mark.parametrize("width", [LANES, 2 * LANES, 3 * LANES, 4 * LANES, 7 * LANES])
@pytest.mark.parametrize("n_rows", [0, 1, 4, 9])
def test_products_equal_those_of_numpy(n_rows: int, width: int) -> None:
    rng = np.random.default_rng(n_rows)
    matrix = rng.standard_normal((9, width))
    vector, weights = rng.standard_normal(width), rng.standard_normal(9)
    result = np.full(9, -1.0)
    row_products(matrix, vector, n_rows, result)
    np.testing.assert_allclose(result[:n_rows], matrix[:n_rows] @ vector, atol=1e-13)
    np.testing.assert_array_equal(result[n_rows:], -1.0)
    sums = np.ones(width)
    add_rows(matrix, weights, n_rows, -1.0, sums)
    np.testing.assert_allclose(sums, 1.0 - weights[:n_rows] @ matrix[:n_rows], atol=1e-13)
    assert dot(vector, vector) == pytest.approx(float(vector @ vector))


def test_sums_are_rounded_in_one_order_on_every_processor() -> None:
    """Fused multiply-adds down the rows, sums of halves across a block: exact rational numbers, rounded."""
    rng = np.random.default_rng(11)
    matrix, weights = rng.standard_normal((7, LANES)), rng.standard_normal(7)
    sums = np.zeros(LANES)
    add_rows(matrix, weights, 7, 1.0, sums)
    expected = np.zeros(LANES)
    for row in range(7):
        for lane in range(LANES):
            exact = Fraction(weights[row]) * Fraction(matrix[row, lane]) + Fraction(expected[lane])
            expected[lane] = float(exact)
    np.testing.assert_array_equal(sums, expected)
    halves = matrix[0] * matrix[1]
    while halves.size > 1:
        halves = halves[: halves.size // 2] + halves[halves.size // 2 :]
    assert dot(matrix[0], matrix[1]) == halves[0]


@pytest.mark.parametrize("stopping", ["reference", "converged"])
@pytest.mark.parametrize("n_units", [20, 60, 140])
def test_predictions_do_not_depend_on_which_fits_are_made_together(n_units: int, stopping: str) -> None:
    rng = np.random.default_rng(12)
    features = rng.standard_normal((118, 200))
    coordinates = split_coordinates(layer_coordinates("features", features), SPLIT, 25)
    targets, _ = training_targets(rng.standard_normal((FITS_AT_A_TIME + 2, 59, n_units)))
    settings = ScoreSettings(pls_stopping=stopping)
    together = predict_test_images(targets, coordinates, settings)
    alone = [predict_test_images(one[None], coordinates, settings)[0] for one in targets]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("spectrum", ["flat", "close pair", "one", "falling"])
def test_converged_stops_early_and_at_the_eigenvector(spectrum: str) -> None:
    """One component is the leading singular vector, also where the Krylov space has to grow to the end."""
    rng = np.random.default_rng(13)
    values = {
        "flat": np.linspace(1.0, 0.9, 58),
        "close pair": np.concatenate([[1.0, 1.0 - 1e-6], np.linspace(0.9, 0.1, 56)]),
        "one": np.concatenate([[1.0], np.full(57, 1e-3)]),
        "falling": np.logspace(0, -8, 58),
    }[spectrum]
    left, right = (np.linalg.qr(rng.standard_normal((118, 58)))[0] for _ in range(2))
    features = rng.standard_normal((118, 58))
    features -= features[SPLIT.train].mean(axis=0)
    features[SPLIT.train] = np.linalg.qr(features[SPLIT.train])[0]
    responses = np.zeros((118, 58))
    responses[SPLIT.train] = features[SPLIT.train] @ (left[:58] * values) @ right[:58].T
    settings = ScoreSettings(n_components=1, pls_stopping="converged")
    found = pls_predict(features, responses, SPLIT, settings)
    # A direction is as good as its eigenvalue is apart from the next.
    tolerance = 1e-6 if spectrum == "close pair" else 1e-9
    np.testing.assert_allclose(found, svd_predict(features, responses, SPLIT, 1), rtol=0, atol=tolerance)
