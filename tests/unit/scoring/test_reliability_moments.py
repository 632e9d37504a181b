"""Reliabilities condensed over halvings."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring import split_half_reliability
from mvkit.scoring.protocol import halves_of, trial_orders_in_sequence
from mvkit.scoring.reliability import split_half_moments


def members(n_trials: int, n_halves: int, seed: int = 0) -> np.ndarray:
    return halves_of(trial_orders_in_sequence(n_trials, n_halves=n_halves, seed=seed))


@pytest.mark.parametrize("kind", ["counts", "rates", "counts with gaps", "rates with gaps", "gaps of a unit"])
def test_equals_the_reliability_of_every_halving(kind: str) -> None:
    rng = np.random.default_rng(1)
    responses = rng.poisson(rng.gamma(1.0, 2.0, (17, 90)), (11, 17, 90)).astype(np.float32)
    if kind.startswith("rates"):
        responses += rng.random(responses.shape).astype(np.float32)
    if kind.endswith("with gaps"):
        responses[[1, 4, 7], [2, 2, 11]] = np.nan
    if kind == "gaps of a unit":
        responses[rng.random(responses.shape) < 0.1] = np.nan
    found = split_half_moments(responses, members(11, 30))
    each = split_half_reliability(responses, n_halves=30, draws="per_unit_seed0")
    assert np.isfinite(each).mean() > 0.9
    np.testing.assert_allclose(found.mean, np.nanmean(each, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(each, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.n_used, np.isfinite(each).sum(axis=0))


def test_columns_do_not_depend_on_those_beside_them() -> None:
    """More columns than fit into one block, some of them with gaps."""
    rng = np.random.default_rng(2)
    responses = rng.poisson(2.0, (8, 118, 150)).astype(float)
    responses[3, 5, 70:80] = np.nan
    halves = members(8, 100)
    found = split_half_moments(responses, halves)
    for column in (0, 69, 74, 149):
        alone = split_half_moments(responses[:, :, [column]], halves)
        assert found.mean[column] == pytest.approx(alone.mean[0], abs=1e-13)


def test_undefined_halvings_are_left_out_and_told_apart() -> None:
    rng = np.random.default_rng(3)
    responses = rng.poisson(4.0, (6, 40, 5)).astype(float)
    responses[:, :, 0] = 0.0  # silent
    responses[:, :, 1] = 0.1  # constant, and no whole number
    responses[1:, 7, 2] = np.nan  # one valid trial: never one in both halves
    responses[2:, 7, 3] = np.nan  # two valid trials: in both halves if they are parted
    halves = members(6, 40)
    found = split_half_moments(responses, halves)
    parted = int((halves[:, 0, 0] != halves[:, 0, 1]).sum())
    assert 0 < parted < 40
    assert found.n_used.tolist() == [0, 0, 0, parted, 40]
    assert found.n_missing.tolist() == [0, 0, 40, 40 - parted, 0]
    assert np.isnan(found.mean).tolist() == np.isnan(found.std).tolist() == [True, True, True, False, False]
    each = split_half_reliability(responses, n_halves=40, draws="per_unit_seed0")
    assert found.mean[3] == pytest.approx(np.nanmean(each[:, 3]), abs=1e-12)


def test_a_single_spike_is_undefined_because_the_other_half_is_silent() -> None:
    responses = np.zeros((6, 40, 1))
    responses[2, 9] = 1.0
    found = split_half_moments(responses, members(6, 25))
    assert (found.n_used[0], found.n_missing[0]) == (0, 0)
    assert np.isnan(found.mean[0])
