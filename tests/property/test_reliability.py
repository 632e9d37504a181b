"""What holds for reliabilities however trials are drawn."""

from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mvkit.scoring import ScoreSettings, response_reliability
from mvkit.scoring.protocol import split_half_weights
from mvkit.scoring.reliability import correlate_sets
from mvkit.scoring.settings import Halving

FEW = settings(max_examples=20, deadline=None)


@st.composite
def protocols(draw: st.DrawFn) -> ScoreSettings:
    return ScoreSettings(
        halving=draw(st.sampled_from(get_args(Halving))),
        synchronous=draw(st.booleans()),
        correlation=draw(st.sampled_from(["pearson", "spearman"])),
        n_halves=draw(st.integers(1, 4)),
        halves_seed=draw(st.integers(0, 1000)),
    )


@st.composite
def recordings(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(2, 9), st.integers(3, 12), st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal(shape)
    values[rng.random(shape) < draw(st.sampled_from([0.0, 0.1]))] = np.nan
    return values


@FEW
@given(recordings(), protocols(), st.floats(0.01, 100), st.floats(-100, 100))
def test_scale_and_offset_of_responses_do_not_matter(
    values: np.ndarray, protocol: ScoreSettings, scale: float, offset: float
) -> None:
    found = response_reliability(scale * values + offset, protocol)
    weights = split_half_weights(*values.shape[:2], protocol)
    plain = correlate_sets(values, weights, correlation=protocol.correlation)
    moved = correlate_sets(scale * values + offset, weights, correlation=protocol.correlation)
    np.testing.assert_allclose(moved, plain, rtol=0, atol=1e-8)
    with np.errstate(divide="ignore"):
        corrected = plain if protocol.halving.startswith("bootstrap") else 2 * plain / (1 + plain)
    close = ~(plain < -0.9)  # Spearman and Brown's formula has a pole at -1
    np.testing.assert_allclose(found[close], corrected[close], rtol=0, atol=1e-6)


@FEW
@given(recordings(), protocols())
def test_units_do_not_depend_on_one_another(values: np.ndarray, protocol: ScoreSettings) -> None:
    weights = split_half_weights(*values.shape[:2], protocol)
    together = correlate_sets(values, weights, correlation=protocol.correlation)
    for unit in range(values.shape[2]):
        alone = correlate_sets(values[:, :, [unit]], weights, correlation=protocol.correlation)[:, 0]
        np.testing.assert_allclose(alone, together[:, unit], rtol=0, atol=1e-12)


@FEW
@given(recordings(), protocols())
def test_missing_presentations_count_as_if_not_drawn(values: np.ndarray, protocol: ScoreSettings) -> None:
    weights = split_half_weights(*values.shape[:2], protocol).astype(float)
    gaps = values.copy()
    gaps[0] = np.nan
    without = weights.copy()
    without[:, :, 0] = 0.0
    found, expected = (
        correlate_sets(array, drawn, correlation=protocol.correlation)
        for array, drawn in ((gaps, weights), (values, without))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
