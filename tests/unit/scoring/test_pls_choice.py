"""Numbers of PLS components by cross-validation, and maps of single units, against scikit-learn's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import GridSearchCV, KFold

from mvkit.errors import FitError, UsageError
from mvkit.scoring import pls_predict, pls_score, resolve_settings, score_features
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.pls_choice import choose_components, predict_pls
from mvkit.scoring.protocol import ImageSplit, image_splits, training_targets

RNG = np.random.default_rng(11)
N_IMAGES, N_FEATURES, N_UNITS = 60, 50, 6
FEATURES = RNG.standard_normal((N_IMAGES, N_FEATURES)) * np.linspace(3, 0.3, N_FEATURES)
SIGNAL = FEATURES[:, 5:20] @ RNG.standard_normal((15, N_UNITS))
GRID = (1, 2, 4, 8, 12)


def _responses(noise: float) -> NDArray[np.float64]:
    return SIGNAL + noise * RNG.standard_normal(SIGNAL.shape) + 3


def _searched(features: Any, responses: Any, split: ImageSplit) -> GridSearchCV:
    search = GridSearchCV(PLSRegression(scale=False), {"n_components": GRID}, cv=KFold(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search.fit(features[split.train], responses[split.train])


@pytest.mark.parametrize("noise", [0.5, 5.0, 30.0])
def test_the_number_chosen_is_that_of_a_grid_search(noise: float) -> None:
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.6)
    settings = resolve_settings(n_components="cv", component_grid=GRID)
    coordinates = split_coordinates(layer_coordinates("a", FEATURES), split, 1)
    both = [_responses(noise), _responses(noise)]
    targets, _ = training_targets(np.stack([values[split.train] for values in both]))
    chosen = choose_components(targets, coordinates, settings)
    predictions = predict_pls(targets, coordinates, settings)
    for fit, responses in enumerate(both):
        search = _searched(FEATURES, responses, split)
        assert chosen[fit] == search.best_params_["n_components"]
        expected = search.predict(FEATURES[split.test]) - responses[split.train].mean(axis=0)
        np.testing.assert_allclose(predictions[fit], expected, rtol=0, atol=1e-9)
        alone = pls_predict(FEATURES, responses, split, settings)
        np.testing.assert_allclose(alone, search.predict(FEATURES[split.test]), rtol=0, atol=1e-9)


def test_more_noise_means_fewer_components() -> None:
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.6)
    settings = resolve_settings(n_components="cv", component_grid=GRID)
    coordinates = split_coordinates(layer_coordinates("a", FEATURES), split, 1)
    targets, _ = training_targets(np.stack([_responses(noise)[split.train] for noise in (0.1, 30.0)]))
    exact, noisy = choose_components(targets, coordinates, settings)
    assert exact == 12 and noisy <= 2


def test_a_unit_without_responses_has_no_part_in_the_choice() -> None:
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.6)
    settings = resolve_settings(n_components="cv", component_grid=GRID)
    coordinates = split_coordinates(layer_coordinates("a", FEATURES), split, 1)
    responses = _responses(5.0)
    without, _ = training_targets(responses[split.train][None])
    silent = np.concatenate([responses, np.full((N_IMAGES, 1), np.nan)], axis=1)
    with_silent, _ = training_targets(silent[split.train][None])
    found = choose_components(with_silent, coordinates, settings)
    assert found.tolist() == choose_components(without, coordinates, settings).tolist()
    predictions = predict_pls(with_silent, coordinates, settings)
    np.testing.assert_allclose(
        predictions[:, :, :N_UNITS], predict_pls(without, coordinates, settings), rtol=0, atol=1e-9
    )


def test_one_map_for_each_unit_is_scikit_learns_of_one_target(recording: Callable[..., Any]) -> None:
    responses = np.stack([_responses(5.0) for _ in range(4)])
    settings = resolve_settings(n_components=3, pls_targets="unit", n_splits=2, measure="to-average")
    found = score_features({"a": FEATURES}, [recording(responses)], settings).columns["score"]
    means = responses.mean(axis=0)
    expected = []
    for split in image_splits(N_IMAGES, n_splits=2, train_fraction=0.5):
        for unit in range(N_UNITS):
            model = PLSRegression(3, scale=False).fit(FEATURES[split.train], means[split.train, unit])
            predicted = model.predict(FEATURES[split.test]).ravel()
            expected.append(np.corrcoef(predicted, means[split.test, unit])[0, 1])
    np.testing.assert_allclose(found, np.reshape(expected, (2, N_UNITS)).mean(axis=0), rtol=0, atol=1e-9)
    joint = pls_score(FEATURES, means, n_components=3, n_splits=2)
    assert np.abs(joint - found).max() > 0.01


def test_each_unit_has_its_own_number_with_single_maps() -> None:
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.6)
    settings = resolve_settings(n_components="cv", component_grid=GRID, pls_targets="unit")
    coordinates = split_coordinates(layer_coordinates("a", FEATURES), split, 1)
    responses = _responses(1.0)
    targets, _ = training_targets(responses[split.train][None])
    predictions = predict_pls(targets, coordinates, settings)[0]
    for unit in range(N_UNITS):
        search = _searched(FEATURES, responses[:, unit], split)
        expected = search.predict(FEATURES[split.test]).ravel() - responses[split.train, unit].mean()
        np.testing.assert_allclose(predictions[:, unit], expected, rtol=0, atol=1e-9)


def test_numbers_that_the_images_do_not_allow_are_passed_over(recording: Callable[..., Any]) -> None:
    settings = resolve_settings(n_components="cv", n_splits=1, n_halves=1)
    responses = np.stack([_responses(5.0) for _ in range(4)])
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)  # 24 images train a part
    coordinates = split_coordinates(layer_coordinates("a", FEATURES), split, 1)
    targets, _ = training_targets(responses[:, split.train])
    assert set(choose_components(targets, coordinates, settings)) <= {10, 20}
    with pytest.raises(FitError, match="pls: 14 components cannot be fitted on 8 training images"):
        score_features({"a": FEATURES[:16]}, [recording(responses[:, :16])], settings)
    with pytest.raises(UsageError, match="n_components"):
        resolve_settings(n_components="all")
