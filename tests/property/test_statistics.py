"""What must hold for intervals and comparisons of any scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvkit.scoring import ScoreSettings
from mvkit.scoring.comparison import RATIO, holm
from mvkit.scoring.intervals import median_interval, p_value, statistic_interval

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=20, deadline=None)
PROTOCOL = ScoreSettings(n_resamples=100)


def draw(seed: int, n_animals: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Scores of a few animals with 1 to 40 units each, some of them ties."""
    rng = np.random.default_rng(seed)
    animals = np.repeat(rng.permutation(100)[:n_animals], rng.integers(1, 40, n_animals))
    values = rng.normal(0.4, 0.2, len(animals)) + 0.1 * rng.normal(size=100)[animals]
    return rng, np.where(rng.random(len(values)) < 0.3, np.round(values, 1), values), animals


@FEW
@given(seed=SEEDS, n_animals=st.integers(3, 12))
def test_the_order_of_units_and_the_names_of_gaps_do_not_matter(seed: int, n_animals: int) -> None:
    rng, values, animals = draw(seed, n_animals)
    areas = animals % 3
    order = rng.permutation(len(values))
    before = median_interval(values, animals, PROTOCOL, areas=areas)
    after = median_interval(
        np.append(values[order], math.nan),
        np.append(animals[order], 999),
        PROTOCOL,
        areas=np.append(areas[order], 7),
    )
    assert after == before


@FEW
@given(seed=SEEDS, n_animals=st.integers(3, 12), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_intervals_move_and_stretch_with_the_scores(
    seed: int, n_animals: int, scale: float, shift: float
) -> None:
    _, values, animals = draw(seed, n_animals)
    before = median_interval(values, animals, PROTOCOL)
    after = median_interval(scale * values + shift, animals, PROTOCOL)
    tolerance = 1e-9 * (scale + abs(shift))
    assert after.low == pytest.approx(scale * before.low + shift, rel=0, abs=tolerance)
    assert after.high == pytest.approx(scale * before.high + shift, rel=0, abs=tolerance)
    assert before.low <= np.median(values) <= before.high


@FEW
@given(seed=SEEDS, n_animals=st.integers(3, 12), scale=st.floats(1e-3, 1e3))
def test_a_fraction_does_not_depend_on_the_unit_of_measure(seed: int, n_animals: int, scale: float) -> None:
    rng, values, animals = draw(seed, n_animals)
    both = np.stack([values, 1.0 + rng.random(len(values))])
    before = statistic_interval(both, animals, RATIO, PROTOCOL)
    after = statistic_interval(scale * both, animals, RATIO, PROTOCOL)
    assert (after.low, after.high) == pytest.approx((before.low, before.high), rel=1e-9, abs=1e-12)


@FEW
@given(seed=SEEDS, n_animals=st.integers(3, 12))
def test_more_confidence_is_wider_and_p_agrees_with_every_interval(seed: int, n_animals: int) -> None:
    _, values, animals = draw(seed, n_animals)
    values = values - 0.35
    centre = float(np.median(values))
    widths = []
    for confidence in (0.6, 0.8, 0.95, 0.99):
        protocol = ScoreSettings(n_resamples=100, confidence=confidence)
        found = median_interval(values, animals, protocol)
        widths.append(found.high - found.low)
        p = p_value(centre, found, protocol)
        assert 0.0 <= p <= 1.0
        # On the very bound rounding decides.
        if min(abs(found.low), abs(found.high)) > 1e-12:
            assert (p < 1.0 - confidence) == (found.low > 0.0 or found.high < 0.0)
    assert widths == sorted(widths)


@FEW
@given(p_values=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_is_between_the_raw_and_bonferronis(p_values: list[float]) -> None:
    raw = np.array(p_values)
    adjusted = holm(raw)
    assert (adjusted >= raw).all() and (adjusted <= np.minimum(len(raw) * raw, 1.0) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    assert adjusted[raw.argmin()] == pytest.approx(min(1.0, len(raw) * raw.min()))
