"""PLS fits by torch, on the CPU, against the compiled kernel and against textbook algebra."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mvkit.errors import FitError, UsageError
from mvkit.scoring import ScoreSettings, pls_torch, score_features
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import DevicePLS
from mvkit.scoring.pls import predict_test_images
from mvkit.scoring.pls_torch import leading_eigenvectors, predict_splits
from mvkit.scoring.protocol import ImageSplit, image_splits, training_targets

CONVERGED = ScoreSettings(pls_stopping="converged", n_splits=3, n_halves=4)
SPLITS = image_splits(118, n_splits=3, train_fraction=0.5)


def prepared(features: Any, responses: Any) -> tuple[list[Any], list[Any]]:
    """Targets and coordinates of every split; responses are (n_fits, n_images, n_units)."""
    layer = layer_coordinates("layer", features)
    coordinates = [split_coordinates(layer, split, 25) for split in SPLITS]
    return [training_targets(responses[:, split.train])[0] for split in SPLITS], coordinates


def assert_equals_kernel(features: Any, responses: Any, atol: float) -> None:
    targets, coordinates = prepared(features, responses)
    found = predict_splits(targets, coordinates, CONVERGED, "cpu")
    for of_split, *data in zip(found, targets, coordinates, strict=True):
        np.testing.assert_allclose(of_split, predict_test_images(*data, CONVERGED), rtol=0, atol=atol)


def textbook_predict(features: Any, responses: Any, split: ImageSplit) -> Any:
    """PLS2 with LAPACK's singular vectors and explicit deflation; deviations from the training mean."""
    mean = features[split.train].mean(axis=0)
    X, Z = features[split.train] - mean, features[split.test] - mean
    Y = responses[split.train] - responses[split.train].mean(axis=0)
    weights, x_loadings, y_loadings = [], [], []
    for _ in range(25):
        weights.append(np.linalg.svd(X.T @ Y, full_matrices=False)[0][:, 0])
        t = X @ weights[-1]
        x_loadings.append(X.T @ t / (t @ t))
        y_loadings.append(Y.T @ t / (t @ t))
        X, Y = X - np.outer(t, x_loadings[-1]), Y - np.outer(t, y_loadings[-1])
    W, P, Q = np.array(weights), np.array(x_loadings), np.array(y_loadings)
    return Z @ W.T @ np.linalg.solve(P @ W.T, Q)


@pytest.mark.parametrize("n_units", [1, 3, 5, pytest.param(60, marks=pytest.mark.slow)])
def test_predictions_are_those_of_the_textbook(n_units: int) -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((118, 5))
    features = latents @ rng.standard_normal((5, 60)) + 0.05 * rng.standard_normal((118, 60))
    responses = latents @ rng.standard_normal((5, n_units)) + rng.standard_normal((2, 118, n_units))
    for split, found in zip(
        SPLITS, predict_splits(*prepared(features, responses), CONVERGED, "cpu"), strict=True
    ):
        for fit, of_fit in zip(responses, found, strict=True):
            np.testing.assert_allclose(of_fit, textbook_predict(features, fit, split), rtol=0, atol=1e-11)


@pytest.mark.parametrize("decades", [0, 2, 6])
@pytest.mark.parametrize(
    "n_units", [1, 12, pytest.param(58, marks=pytest.mark.slow), pytest.param(90, marks=pytest.mark.slow)]
)
def test_predictions_equal_those_of_the_kernel(n_units: int, decades: int) -> None:
    rng = np.random.default_rng(7)
    features = rng.standard_normal((118, 150)) * np.logspace(0, -decades, 150)
    assert_equals_kernel(features, features[:, :1] + rng.standard_normal((6, 118, n_units)), atol=5e-10)


def test_units_that_take_no_part_and_fits_that_end_early() -> None:
    rng = np.random.default_rng(8)
    features = rng.standard_normal((118, 40))
    responses = rng.standard_normal((4, 118, 9))
    responses[0] = 0.0  # nothing to fit
    responses[1, :, 3] = 2.0  # constant
    responses[2, 5, 4] = np.nan  # missing
    responses[3] = features[:, :9]  # explained by fewer components than there are
    assert_equals_kernel(features, responses, atol=1e-10)


def test_equal_units_are_predicted_alike() -> None:
    rng = np.random.default_rng(8)
    features = rng.standard_normal((118, 150))
    responses = np.repeat(features @ rng.standard_normal((150, 1)), 9, axis=1)
    targets, coordinates = prepared(features, responses[None])
    for split, found in zip(SPLITS, predict_splits(targets, coordinates, CONVERGED, "cpu"), strict=True):
        expected = textbook_predict(features, responses[:, :1], split)
        np.testing.assert_allclose(found[0], np.repeat(expected, 9, axis=1), rtol=0, atol=1e-10)


def test_as_many_components_as_features_is_least_squares() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((118, 10)) @ rng.standard_normal((10, 60))
    responses = rng.standard_normal((2, 118, 4))
    for split, found in zip(
        SPLITS, predict_splits(*prepared(features, responses), CONVERGED, "cpu"), strict=True
    ):
        design = np.column_stack([np.ones(118), features])
        for fit, of_fit in zip(responses, found, strict=True):
            solution = np.linalg.lstsq(design[split.train], fit[split.train], rcond=1e-10)[0]
            expected = design[split.test] @ solution - fit[split.train].mean(axis=0)
            np.testing.assert_allclose(of_fit, expected, rtol=0, atol=1e-8)


def test_splits_of_other_ranks_are_one_batch() -> None:
    rng = np.random.default_rng(9)
    features = np.zeros((118, 40))
    features[:, :20] = rng.standard_normal((118, 20))
    features[SPLITS[0].train[:30], 20:] = rng.standard_normal((30, 20))  # do not vary in all splits alike
    features[SPLITS[1].train, 30:] = 0.0
    targets, coordinates = prepared(features, rng.standard_normal((4, 118, 30)))
    assert len({part.scale.size for part in coordinates}) > 1
    found = predict_splits(targets, coordinates, CONVERGED, "cpu")
    for of_split, *data in zip(found, targets, coordinates, strict=True):
        np.testing.assert_allclose(of_split, predict_test_images(*data, CONVERGED), rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n_units", [3, 60])
def test_a_gpu_predicts_the_same(n_units: int) -> None:
    rng = np.random.default_rng(2)
    features = rng.standard_normal((118, 150))
    data = prepared(features, features[:, :1] + rng.standard_normal((50, 118, n_units)))
    found = predict_splits(*data, CONVERGED, "cuda")
    np.testing.assert_allclose(found, predict_splits(*data, CONVERGED, "cpu"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("gap", [0.5, 1e-3, 1e-6])
def test_leading_eigenvectors_are_those_of_lapack(gap: float) -> None:
    rng = np.random.default_rng(3)
    rotations = np.linalg.qr(rng.standard_normal((8, 30, 30)))[0]
    values = np.r_[3.0, 3.0 * (1.0 - gap), np.linspace(2.0, 0.0, 28) * (1.0 - gap)]
    matrices = rotations * values @ rotations.transpose(0, 2, 1)
    found = leading_eigenvectors(torch.from_numpy(matrices), torch.ones(8, dtype=torch.bool)).numpy()
    cosines = np.abs((found * rotations[:, :, 0]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        np.abs(found), np.abs(np.linalg.eigh(matrices)[1][:, :, -1]), rtol=0, atol=1e-14 / gap
    )


@pytest.mark.slow
def test_what_does_not_fit_in_memory_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    targets, coordinates = prepared(rng.standard_normal((118, 60)), rng.standard_normal((7, 118, 5)))
    expected = predict_splits(targets, coordinates, CONVERGED, "cpu")
    predict = pls_torch._predict_batch
    limit, sizes = 7, []

    def limited(targets: Any, *others: Any) -> Any:
        if len(targets) * len(targets[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append((len(targets), len(targets[0])))
        return predict(targets, *others)

    monkeypatch.setattr(pls_torch, "_predict_batch", limited)
    np.testing.assert_allclose(predict_splits(targets, coordinates, CONVERGED, "cpu"), expected, atol=1e-12)
    limit = 1
    np.testing.assert_allclose(predict_splits(targets, coordinates, CONVERGED, "cpu"), expected, atol=1e-12)
    # Of each split fewer fits at first, then fewer splits.
    assert sizes[:4] == [(3, 1), (3, 2), (3, 2), (3, 2)]
    assert sizes[4:] == [(1, 1)] * 21
    limit = 0
    with pytest.raises(
        FitError, match="cpu: its memory is too small for one PLS fit of 5 units to 59 images"
    ):
        predict_splits(targets, coordinates, CONVERGED, "cpu")


@pytest.fixture
def simulated(noisy_linear: Callable[..., tuple[Any, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Three layers, one of them without variance, and two recordings, one of them with missing trials."""
    features, responses = noisy_linear(n_units=8)
    responses[0, 4, 2] = np.nan
    responses[:, :, 5] = 1.0
    layers = {"a": features, "flat": np.ones((118, 40)), "b": features[:, :30] ** 2}
    recordings = [
        SimpleNamespace(area="VISp", specimen=1, unit_ids=np.arange(8), responses=responses),
        SimpleNamespace(
            area="VISl", specimen=2, unit_ids=np.arange(8), responses=responses[:, :, ::-1] + 1.0
        ),
    ]
    return layers, recordings


def test_scores_equal_those_of_the_kernel(
    simulated: tuple[dict[str, Any], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score_features(*simulated, CONVERGED)
    scores = [score_features(*simulated, CONVERGED, fit_device="cpu")]
    # Batches of two splits and one pair of halves give the same.
    monkeypatch.setattr(DevicePLS, "splits_at_once", 2)
    monkeypatch.setattr(DevicePLS, "group_bytes", 1)
    scores.append(score_features(*simulated, CONVERGED, fit_device="cpu"))
    for found in scores:
        for name, values in expected.columns.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found.columns[name], values, rtol=0, atol=1e-10, err_msg=name)
            else:
                np.testing.assert_array_equal(found.columns[name], values, err_msg=name)
        np.testing.assert_allclose(found.by_fold, expected.by_fold, rtol=0, atol=1e-10)
        assert found.context["fit_device"] == "cpu"
    assert "fit_device" not in expected.context
    assert np.isfinite(expected.columns["score"]).sum() > 10


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ("cpu", {}, "fit_device cpu: of maps only pls is fitted on a device"),
        ("cpu", {"mapping": "ridge"}, "of maps only pls is fitted on a device, joint, of a fixed number"),
        ("gpu", {"pls_stopping": "converged"}, "device gpu: give auto, cpu, cuda"),
        ("cuda:77", {"pls_stopping": "converged"}, "device cuda:77: "),
        ("mps", {"pls_stopping": "converged"}, "device mps: "),
    ],
)
def test_other_fits_and_devices_are_refused(
    simulated: tuple[dict[str, Any], list[Any]], device: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        score_features(*simulated, ScoreSettings(**options), fit_device=device)
