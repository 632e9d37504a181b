"""Every unit with the reason why the selection excluded it."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.neural.selection import (
    SelectionSettings,
    UnitFacts,
    explain_exclusions,
    select_units,
)

SETTINGS = SelectionSettings(min_units=2)


def facts(n_bins: int | None = 2) -> UnitFacts:
    """Two areas; animal 3 has no responsive bin in VISp, animal 2 one unit left there."""
    areas = ["VISp"] * 9 + ["VISl"] * 2
    specimens = [1, 1, 1, 1, 2, 2, 3, 3, 3, 1, 1]
    best = [0.9, 0.8, 0.2, 0.9, 0.7, np.nan, 0.6, 0.6, 0.6, 0.5, 0.6]
    reliability = np.array(best)
    if n_bins is not None:
        reliability = np.stack([reliability, np.full(len(best), 0.1)])
        # Each unit of animal 3 is reliable in a bin of its own, so that no bin has a reliable median.
        reliability = np.concatenate([reliability, np.zeros((2, len(best)))])
        reliability[:, 6:9] = 0.0
        reliability[[0, 1, 2], [6, 7, 8]] = 0.6
    run_p = np.full(len(best), np.nan)
    run_p[[3, 2]] = 0.01
    return UnitFacts(
        areas=np.array(areas),
        specimens=np.array(specimens),
        reliability=reliability,
        run_p=run_p,
        time_s=None if n_bins is None else np.arange(4) / 10,
    )


def test_each_unit_has_the_first_reason_that_applies() -> None:
    given = facts()
    outcome = explain_exclusions(given, SETTINGS, select_units(given, SETTINGS), np.arange(11))
    assert outcome.reasons.tolist() == [
        *("", "", "reliability", "running"),
        *("few_units", "reliability"),
        *(["no_responsive_bin"] * 3),
        *("", ""),
    ]
    assert outcome.excluded() == {
        "reliability": (2, 2),
        "running": (1, 1),
        "no_responsive_bin": (3, 1),
        "few_units": (1, 1),
    }
    assert (outcome.n_units, outcome.n_kept, outcome.n_animals, outcome.n_animals_kept) == (11, 4, 3, 1)
    assert outcome.words("reliability") == "below reliability 0.5"
    assert outcome.words("running") == "modulated by running (p of at most 0.05)"
    assert outcome.words("no_responsive_bin") == "without a time bin of median reliability 0.3"
    assert outcome.words("few_units") == "with too few units left (VISp needs 2)"
    assert outcome.in_areas(["VISl"]).reasons.tolist() == ["", ""]


def test_recordings_without_a_time_axis_have_their_own_threshold() -> None:
    given = facts(n_bins=None)
    outcome = explain_exclusions(given, SETTINGS, select_units(given, SETTINGS), np.arange(11))
    assert outcome.words("reliability") == "below reliability 0.75"
    assert outcome.reasons.tolist() == ["", "", "reliability", "running", *["reliability"] * 7]


@pytest.mark.parametrize("min_units", ["q3", "median", 1, None])
@pytest.mark.parametrize("seed", range(4))
def test_units_without_a_reason_are_those_selected(seed: int, min_units: str | int | None) -> None:
    rng = np.random.default_rng(seed)
    n_units = 200
    given = UnitFacts(
        areas=rng.choice(["VISp", "VISl", "VISam"], n_units),
        specimens=rng.integers(1, 6, n_units),
        reliability=rng.uniform(-0.2, 0.8, (3, n_units)),
        run_p=rng.uniform(0, 1, n_units),
        time_s=np.arange(3.0),
    )
    settings = SelectionSettings(min_units=min_units)
    selected = select_units(given, settings)
    outcome = explain_exclusions(given, settings, selected, np.arange(n_units))
    expected = sorted(unit for area in selected.values() for choice in area.selected for unit in choice.units)
    assert np.flatnonzero(outcome.reasons == "").tolist() == expected
    assert sum(n_units for n_units, _ in outcome.excluded().values()) == n_units - len(expected)
