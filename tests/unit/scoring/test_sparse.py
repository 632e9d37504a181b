"""Lasso and elastic net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.scoring import ScoreSettings, score_features, sparse
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import ImageSplit


@pytest.mark.parametrize("mapping", ["lasso", "elasticnet"])
def test_fits_that_do_not_converge_are_left_out_and_say_so(
    mapping: str,
    noisy_linear: Callable[..., Any],
    recording: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, responses = noisy_linear(n_units=3)
    responses[:, :, 0] = 1.0
    monkeypatch.setattr(sparse, "MAX_ROUNDS", 1)
    settings = ScoreSettings(mapping=mapping, penalty=1e-6, n_splits=2, n_halves=3)
    frame = score_features({"a": features}, [recording(responses)], settings).table()
    assert list(frame["reason"]) == ["constant_response", "not_converged", "not_converged"]


def test_units_that_converge_are_kept(
    noisy_linear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty that forbids every coefficient of a weak unit needs few rounds, the strong one more."""
    features, responses = noisy_linear(n_units=2, n_trials=6)
    train = np.arange(60)
    split = ImageSplit(train, np.arange(60, 118))
    targets = responses[0, train] - responses[0, train].mean(axis=0)
    targets[:, 0] *= 1e-6
    settings = ScoreSettings(mapping="lasso", penalty=0.02)
    row = MAPPINGS["lasso"]
    prepared = row.prepare("a", features, [split], settings)[0]
    expected = row.predict(targets[None], prepared, settings)
    assert np.isfinite(expected).all()
    monkeypatch.setattr(sparse, "MAX_ROUNDS", 5)
    found = row.predict(targets[None], prepared, settings)
    np.testing.assert_array_equal(found[0, :, 0], expected[0, :, 0])
    assert np.isnan(found[0, :, 1]).all()
