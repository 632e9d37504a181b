"""One-to-one maps: the best feature, coarse correlations, and features themselves."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr

from mvkit.errors import DataError, FitError
from mvkit.features.buffer import StoredLayer
from mvkit.scoring import ScoreSettings, sparse
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.gram import BLOCK_FEATURES
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.one_to_one import (
    CONSTANT,
    Sources,
    best_sources,
    distinct_sources,
    layer_sources,
    near_zero,
    prepare_sources,
    screening_error,
    unit_rows,
)
from mvkit.scoring.protocol import (
    ImageSplit,
    half_means,
    image_splits,
    split_half_weights,
    splits_of,
    training_targets,
)


def test_features_that_differ_less_than_float32_can_tell_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((1, 59))
    base = target + rng.standard_normal((1, 59))
    # Ever closer to the target, by steps of a correlation of about 1e-9.
    features = base + 1e-9 * np.arange(200)[:, None] * target
    order = rng.permutation(200)
    images = np.arange(59)
    sources = Sources(features[order].T)
    chosen = best_sources(unit_rows(target), sources, ImageSplit(images, images))
    assert order[chosen[0]] == 199


def test_unit_rows_multiply_to_correlations() -> None:
    rng = np.random.default_rng(1)
    plain = rng.standard_normal((4, 30))
    found = unit_rows(plain * [[1.0], [1e-200], [1e200], [-3.0]])
    expected = np.corrcoef(plain * [[1.0], [1.0], [1.0], [-1.0]])
    np.testing.assert_allclose(found @ found.T, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(unit_rows(np.full((2, 5), 0.1)), 0.0)


def test_moving_rows_near_zero_keeps_their_differences() -> None:
    rng = np.random.default_rng(2)
    rows = np.round(rng.standard_normal((3, 50)), 2)
    rows[0] += 1e12
    rows[2] = 0.1
    found = near_zero(rows)
    np.testing.assert_array_equal(np.diff(found[0]), np.diff(rows[0]))
    np.testing.assert_array_equal(found[1], rows[1])
    np.testing.assert_array_equal(found[2], 0.0)


@pytest.mark.parametrize("parity", [False, True])
def test_unit_without_training_response(parity: bool, noisy_linear: Callable[..., Any]) -> None:
    """The 2020 code took the last feature where no correlation was defined; mvkit excludes the pair."""
    features, responses = noisy_linear(n_units=3, n_trials=8)
    settings = ScoreSettings(mapping="one-to-one", n_splits=1, n_halves=5, parity=parity)
    weights, splits = split_half_weights(8, 118, settings), splits_of(118, settings)
    image = splits[0].train[0]
    responses[1:, image, 1] = np.nan
    row = MAPPINGS["one-to-one"]
    prepared = row.prepare("a", features, splits, settings)
    found = row.score(responses, weights, splits, [prepared], settings)[0]
    first_knows = weights[:, 0, 0].astype(bool)
    assert 0 < first_knows.sum() < 5
    if not parity:
        assert np.isnan(found.r_map[0, :, 1]).all()
        np.testing.assert_array_equal(np.isnan(found.r_cross[0, :, 1]), ~first_knows)
        assert (found.exclusions[0, :, 1] == ExclusionReason.NO_TRIAL).all()
        assert found.missing_image[1] == image
        return
    test = splits[0].test
    for halving in np.flatnonzero(~first_knows):
        second = responses[weights[halving, 1].astype(bool)][:, test, 1].mean(axis=0)
        expected = pearsonr(features[test, -1], second)[0]
        assert found.r_cross[0, halving, 1] == pytest.approx(expected, abs=1e-12)


SPLIT = image_splits(40, n_splits=1, train_fraction=0.5)[0]


@pytest.mark.parametrize("n_images", [2, 10, 59, 1000])
def test_products_in_float32_stay_within_the_bound(n_images: int) -> None:
    """Also for vectors without changes of sign, whose rounding errors add up."""
    rng = np.random.default_rng(n_images)
    for rows in (rng.standard_normal((300, n_images)), rng.uniform(0.5, 1.0, (300, n_images))):
        vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        coarse = vectors.astype(np.float32)
        error = np.abs((coarse @ coarse.T).astype(np.float64) - vectors @ vectors.T).max()
        assert 0.0 < error < screening_error(n_images)


@pytest.mark.parametrize("halving", ["split-half", "bootstrap", "bootstrap-full-mean"])
@pytest.mark.parametrize("n_trials", [2, 8, 9])
def test_fits_in_pairs_choose_what_single_fits_choose(halving: str, n_trials: int) -> None:
    rng = np.random.default_rng(n_trials)
    responses = rng.poisson(2.0, (n_trials, 40, 6)).astype(np.float32)
    responses[0, SPLIT.train[0], 1] = np.nan
    responses[:, SPLIT.train[0], 2] = np.nan
    settings = ScoreSettings(mapping="one-to-one", halving=halving, n_halves=20)
    means = half_means(responses, split_half_weights(n_trials, 40, settings))
    targets = training_targets(means[:, :, SPLIT.train].reshape(40, 20, 6))[0]
    row = MAPPINGS["one-to-one"]
    features = np.round(rng.standard_normal((40, 700)), 1)
    prepared = row.prepare("a", features, [SPLIT], settings)[0]
    together = row.predict(targets, prepared, settings)
    for fit in range(40):
        np.testing.assert_array_equal(
            row.predict(targets[fit : fit + 1], prepared, settings)[0], together[fit]
        )


WIDTH = 2 * BLOCK_FEATURES + 10
SPLIT_SOURCES = ImageSplit(np.arange(6), np.arange(6, 9))
DTYPES = ("float16", "float32", "float64", "int64", "bool")


def wide(dtype: str) -> NDArray[Any]:
    """Features most of which recur in other blocks."""
    few = np.random.default_rng(0).integers(-30, 30, (9, 400)).astype(dtype)
    features: NDArray[Any] = few[:, np.random.default_rng(1).integers(0, 400, WIDTH)]
    features[:, 5] = features[:, 4]
    return features


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_equal_features_is_kept_across_blocks(dtype: str) -> None:
    features = wide(dtype)
    seen: dict[bytes, int] = {}
    for position, column in enumerate(features.T):
        seen.setdefault(column.tobytes(), position)
    kept = distinct_sources("a", features).candidates
    np.testing.assert_array_equal(kept, sorted(seen.values()))


def test_nothing_is_copied_and_little_is_sent_to_workers(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((9, WIDTH)).astype(np.float32)
    for sources in (
        layer_sources("a", features),
        distinct_sources("a", features),
    ):
        assert sources.features is features and sources.candidates is None
    path = tmp_path / "a.f4"
    features.tofile(path)
    stored = distinct_sources("a", StoredLayer(path, features.shape))
    assert len(pickle.dumps(stored)) < 1000


@pytest.mark.parametrize("stored", [False, True])
def test_blocks_and_single_features_hold_the_values_of_the_layer(stored: bool, tmp_path: Path) -> None:
    features = wide("float32")
    path = tmp_path / "a.f4"
    features.tofile(path)
    layer: Any = StoredLayer(path, features.shape) if stored else features
    for kept in (None, np.array([0, 3, BLOCK_FEATURES - 1, BLOCK_FEATURES, WIDTH - 1])):
        sources = Sources(layer, kept)
        blocks = list(sources.blocks(SPLIT_SOURCES.train, 500))
        expected = np.arange(WIDTH) if kept is None else kept
        np.testing.assert_array_equal(np.concatenate([positions for positions, _ in blocks]), expected)
        values = np.concatenate([values for _, values in blocks])
        np.testing.assert_array_equal(values, features[SPLIT_SOURCES.train][:, expected].T)
        assert values.dtype == np.float64 and max(len(positions) for positions, _ in blocks) <= 500
    positions = np.array([WIDTH - 1, 0, BLOCK_FEATURES, 7, 0])
    np.testing.assert_array_equal(
        sources.at(positions, SPLIT_SOURCES.test), features[SPLIT_SOURCES.test][:, positions].T
    )


def test_a_layer_that_varies_only_at_its_end_varies() -> None:
    features = np.full((9, WIDTH), 0.1)
    assert prepare_sources(Sources(features), SPLIT_SOURCES).reason == CONSTANT
    features[7, 3] = 1.0  # over test images only
    assert prepare_sources(Sources(features), SPLIT_SOURCES).reason == CONSTANT
    features[2, -1] = 1.0
    assert prepare_sources(Sources(features), SPLIT_SOURCES).reason == ""


@pytest.mark.parametrize("mapping", ["one-to-one", "lasso", "elasticnet"])
def test_features_that_are_not_finite_are_refused_by_place(mapping: Any) -> None:
    features = wide("float32")
    features[2, BLOCK_FEATURES + 1] = np.nan
    with pytest.raises(DataError, match=f"layer 'a': feature {BLOCK_FEATURES + 1} of image 2 is nan"):
        MAPPINGS[mapping].prepare("a", features, [SPLIT_SOURCES], ScoreSettings(mapping=mapping))


@pytest.mark.parametrize("mapping", ["lasso", "elasticnet"])
def test_what_does_not_fit_in_memory_is_refused_with_numbers(
    mapping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * 9 * WIDTH * 8
    settings = ScoreSettings(mapping=mapping)
    features = wide("float32")
    for available in (None, needed):
        monkeypatch.setattr(sparse, "available_memory", lambda available=available: available)
        assert len(MAPPINGS[mapping].prepare("a", features, [SPLIT_SOURCES], settings)) == 1
    monkeypatch.setattr(sparse, "available_memory", lambda: needed - 1)
    layer = StoredLayer(Path("not read"), (118, 3211264))
    told = (
        rf"'conv1': {mapping} needs 6\.1 GB .* 3211264 features of 118 images, and 0\.0 GB .*mapping=.ridge"
    )
    with pytest.raises(FitError, match=told):
        MAPPINGS[mapping].prepare("conv1", layer, [SPLIT_SOURCES], settings)
