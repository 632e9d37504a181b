"""Split-half reliabilities against the 2020 implementation (goldens section 4, ``reliability.npz``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring import split_half_reliability
from mvkit.scoring.protocol import trial_orders, trial_orders_in_sequence

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def responses(goldens: Path) -> dict[str, Any]:
    return dict(np.load(goldens / "neural" / "responses.npz"))


@pytest.fixture(scope="module")
def expected(goldens: Path) -> dict[str, Any]:
    return dict(np.load(goldens / "neural" / "reliability.npz"))


@pytest.mark.parametrize("draws", ["per_trial_seed", "per_unit_seed0"])
def test_both_ways_of_drawing(responses: dict[str, Any], expected: dict[str, Any], draws: str) -> None:
    keys = [key for key in expected if key.endswith(f"|pearsonr|{draws}")]
    assert keys
    for key in keys:
        values = responses[key.split("|")[0]]
        found = split_half_reliability(values, n_halves=len(expected[key]), draws=draws)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected[key]))
        np.testing.assert_allclose(found, expected[key], rtol=0, atol=TOLERANCE, err_msg=key)
        if f"{key}|mean" in expected:
            np.testing.assert_allclose(np.nanmean(found, axis=0), expected[f"{key}|mean"], atol=TOLERANCE)
            np.testing.assert_allclose(np.nanstd(found, axis=0), expected[f"{key}|std"], atol=TOLERANCE)


def test_odd_number_of_trials(responses: dict[str, Any], expected: dict[str, Any]) -> None:
    orders = expected["odd49|trial_perm"]
    n_halves, n_trials = orders.shape
    assert n_trials % 2 == 1
    np.testing.assert_array_equal(trial_orders(n_trials, n_halves=n_halves), orders)
    values = next(iter(responses.values()))[:n_trials]
    found = split_half_reliability(values, n_halves=n_halves)
    np.testing.assert_allclose(found, expected["odd49|pearsonr"], rtol=0, atol=TOLERANCE)


def test_other_first_seed(responses: dict[str, Any], expected: dict[str, Any]) -> None:
    orders = expected["start_seed7|trial_perm"]
    n_halves, n_trials = orders.shape
    np.testing.assert_array_equal(trial_orders(n_trials, n_halves=n_halves, seed=7), orders)
    found = split_half_reliability(next(iter(responses.values())), n_halves=n_halves, seed=7)
    np.testing.assert_allclose(found, expected["start_seed7|pearsonr"], rtol=0, atol=TOLERANCE)


def test_sequence_of_shuffles(expected: dict[str, Any]) -> None:
    orders = expected["per_unit_seed0_trial_perm"]
    np.testing.assert_array_equal(trial_orders_in_sequence(orders.shape[1], n_halves=len(orders)), orders)
