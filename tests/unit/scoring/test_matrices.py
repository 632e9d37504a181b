"""Scores of two matrices, against scikit-learn, NumPy by hand, and the protocol on recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring import cka_score, pls_score, resolve_settings, ridge_score, rsa_score, score_features
from mvkit.scoring.protocol import image_splits

RNG = np.random.default_rng(5)
FEATURES = RNG.standard_normal((50, 20)) + 1
SIGNAL = FEATURES[:, :8] @ RNG.standard_normal((8, 6)) + 4
TRIALS = SIGNAL + RNG.standard_normal((8, 50, 6))


@pytest.mark.parametrize(
    "score, model", [(pls_score, PLSRegression(4, scale=False)), (ridge_score, Ridge(3.0))]
)
def test_without_trials_scores_are_correlations_over_test_images(
    score: Callable[..., Any], model: Any
) -> None:
    options = {"n_components": 4} if score is pls_score else {"alpha": 3.0}
    found = score(FEATURES, SIGNAL, n_splits=2, **options)
    by_split = []
    for split in image_splits(50, n_splits=2, train_fraction=0.5):
        predictions = model.fit(FEATURES[split.train], SIGNAL[split.train]).predict(FEATURES[split.test])
        by_split.append(
            [np.corrcoef(p, t)[0, 1] for p, t in zip(predictions.T, SIGNAL[split.test].T, strict=True)]
        )
    np.testing.assert_allclose(found, np.mean(by_split, axis=0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("score, mapping", [(pls_score, "pls"), (ridge_score, "ridge")])
def test_with_trials_scores_are_those_of_the_protocol(
    score: Callable[..., Any], mapping: str, recording: Callable[..., Any]
) -> None:
    settings = resolve_settings(mapping=mapping, n_splits=2, n_halves=3, n_components=4)
    expected = score_features({"a": FEATURES}, [recording(TRIALS)], settings).columns["score"]
    options = {"n_components": 4} if score is pls_score else {}
    assert score(FEATURES, TRIALS, n_splits=2, n_halves=3, **options).tolist() == expected.tolist()


def _rdm(patterns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (1 - np.corrcoef(patterns))[np.triu_indices(len(patterns), 1)]


def test_rsa_and_cka_without_trials_are_those_by_hand() -> None:
    first, second = _rdm(FEATURES), _rdm(SIGNAL)
    assert rsa_score(FEATURES, SIGNAL) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)
    by_ranks = spearmanr(first.round(12), second.round(12)).statistic
    assert rsa_score(FEATURES, SIGNAL, rsa_comparison="spearman") == pytest.approx(by_ranks, abs=1e-12)
    x, y = FEATURES - FEATURES.mean(axis=0), SIGNAL - SIGNAL.mean(axis=0)
    expected = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert cka_score(FEATURES, SIGNAL) == pytest.approx(expected, abs=1e-12)
    assert cka_score(FEATURES, FEATURES @ np.linalg.qr(RNG.standard_normal((20, 20)))[0]) == pytest.approx(1)


def test_rsa_and_cka_with_trials_are_those_of_the_protocol(recording: Callable[..., Any]) -> None:
    for score, mapping in ((rsa_score, "rsa"), (cka_score, "cka")):
        settings = resolve_settings(mapping=mapping, n_halves=3)
        expected = score_features({"a": FEATURES}, [recording(TRIALS)], settings).columns["score"]
        assert [score(FEATURES, TRIALS, n_halves=3)] == expected.tolist()


def test_wrong_arrays_and_undefined_similarities_are_refused() -> None:
    with pytest.raises(DataError, match=r"responses: float64 of shape \(50,\); give numbers of shape"):
        pls_score(FEATURES, SIGNAL[:, 0])
    for score in (ridge_score, rsa_score):
        with pytest.raises(DataError, match=r"\(49, 20\), but the responses are to 50 images"):
            score(FEATURES[:49], SIGNAL)
    with pytest.raises(UsageError, match="needs two trials or more; without: measure='to-average'"):
        ridge_score(FEATURES, TRIALS[:1])
    with pytest.raises(FitError, match="25 components need at least 25 features, the layer has 20"):
        pls_score(FEATURES, TRIALS, n_splits=1, n_halves=1)
    with pytest.raises(FitError, match="rsa is not defined: undefined dissimilarities: no image has two"):
        rsa_score(np.ones((50, 3)), SIGNAL)
    with pytest.raises(FitError, match="cka is not defined: constant response"):
        cka_score(FEATURES, np.ones((50, 3)))
    with pytest.raises(FitError, match="cka is not defined: constant features"):
        cka_score(np.ones((50, 3)), TRIALS)
