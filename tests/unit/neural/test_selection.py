"""Selection rules on small cases worked out by hand; parity with the reference is in tests/parity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from mvkit.errors import DataError, UsageError
from mvkit.neural.neural_file import decode
from mvkit.neural.open import average_counts_over_bins, average_over_bins
from mvkit.neural.selection import (
    PRESETS,
    SelectionSettings,
    UnitFacts,
    longest_run,
    required_units,
    resolve_selection,
    select_units,
    selection_with,
    specimen_map,
)


def facts(reliability: list[list[float]], specimens: list[int], **more: object) -> UnitFacts:
    """One area; reliability (bins, units)."""
    array = np.array(reliability, dtype=float)
    return UnitFacts(
        areas=np.array(more.get("areas", ["VISp"] * len(specimens))),
        specimens=np.array(specimens),
        reliability=array,
        run_p=None if "run_p" not in more else np.array(more["run_p"], dtype=float),
        time_s=0.005 + 0.01 * np.arange(len(array)) if array.ndim == 2 else None,
    )


NO_COUNT = {"min_units": None}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([0, 0, 0], ()),
        ([1, 0, 1], (0,)),
        ([0, 1, 1, 0, 1, 1], (1, 2)),
        ([1, 0, 1, 1, 1], (2, 3, 4)),
        ([1, 1, 1], (0, 1, 2)),
        ([], ()),
    ],
)
def test_longest_run(flags: list[int], expected: tuple[int, ...]) -> None:
    assert longest_run(np.array(flags, dtype=bool)) == expected


def test_unit_threshold_is_inclusive_and_nan_is_ignored() -> None:
    reliability = [[0.5, 0.49, np.nan, np.nan], [0.1, 0.49, 0.6, np.nan]]
    settings = selection_with(min_median_reliability=None, **NO_COUNT)
    selection = select_units(facts(reliability, [1, 1, 1, 1]), settings)["VISp"]
    assert selection.selected[0].units.tolist() == [0, 2]
    assert selection.selected[0].time_bins == (0, 1)


def test_running_p_is_strict_and_unknown_passes() -> None:
    run_p = [0.05, 0.050001, np.nan, 0.0]
    settings = selection_with(**NO_COUNT)
    chosen = select_units(facts([[0.9] * 4] * 2, [1] * 4, run_p=run_p), settings)["VISp"]
    assert chosen.selected[0].units.tolist() == [1, 2]
    without = selection_with(run_p=None, **NO_COUNT)
    chosen = select_units(facts([[0.9] * 4] * 2, [1] * 4, run_p=run_p), without)["VISp"]
    assert chosen.selected[0].units.tolist() == [0, 1, 2, 3]


def test_bins_come_from_the_median_of_kept_units_only() -> None:
    # Unit 2 never reaches 0.5: its zeros must not pull the median down.
    reliability = [[0.2, 0.2, 0.0], [0.3, 0.3, 0.0], [0.6, 0.5, 0.0], [np.nan, 0.31, 0.0], [0.1, 0.1, 0.0]]
    chosen = select_units(facts(reliability, [1, 1, 1]), selection_with(**NO_COUNT))["VISp"].selected[0]
    assert chosen.units.tolist() == [0, 1]
    assert chosen.time_bins == (1, 2, 3)


def test_time_window_is_closed_and_does_not_lift_the_median_rule() -> None:
    reliability = [[0.6, 0.5], [0.6, 0.1], [0.6, 0.1], [0.6, 0.1]]
    settings = selection_with(time_window_s=(0.015, 0.025), **NO_COUNT)
    selection = select_units(facts(reliability, [1, 2]), settings)["VISp"]
    assert [choice.time_bins for choice in selection.selected] == [(1, 2), (1, 2)]
    strict = selection_with(time_window_s=(0.015, 0.025), min_median_reliability=0.55, **NO_COUNT)
    selection = select_units(facts(reliability, [1, 2]), strict)["VISp"]
    assert [choice.specimen for choice in selection.selected] == [1]
    assert "below 0.55" in selection.excluded[2]
    with pytest.raises(UsageError, match=r"between 1\.0 and 2\.0 s; bin centres are 0\.005 \.\.\. 0\.035"):
        select_units(facts(reliability, [1, 2]), selection_with(time_window_s=(1, 2)))


def test_animals_need_the_third_quartile_of_unit_counts() -> None:
    # 1, 2, 3, 5 kept units: 75th percentile 3.5, so 4 are needed; the median 2.5 asks for 3.
    specimens = [1] + [2] * 2 + [3] * 3 + [4] * 5
    selection = select_units(facts([[0.9] * 11] * 2, specimens), SelectionSettings())["VISp"]
    assert [choice.specimen for choice in selection.selected] == [4]
    assert selection.excluded == {1: "1 selected units, 4 are needed", 2: "2 selected units, 4 are needed",
                                 3: "3 selected units, 4 are needed"}  # fmt: skip
    assert specimen_map(selection, min_units="median").specimens == (3, 4)
    paired = specimen_map(selection, min_units=2, equalize=True)
    assert paired.pairs == ((2, 3), (2, 4), (3, 4))
    assert paired.num_source_units == 2
    nobody = specimen_map(selection, min_units=6, equalize=True)
    assert (nobody.specimens, nobody.pairs, nobody.num_source_units) == ((), (), math.inf)
    assert specimen_map(selection).num_source_units == -1


def test_without_time_axis_animals_without_kept_units_count_in_the_percentile() -> None:
    # Kept: 0, 1, 4. Percentile 75 of (0, 1, 4) is 2.5; of (1, 4) it would be 3.25.
    reliability = [0.1] * 2 + [0.8] + [0.75] * 4
    found = facts([], [])
    found = UnitFacts(
        areas=np.array(["VISp"] * 7),
        specimens=np.array([1, 1, 2, 3, 3, 3, 3]),
        reliability=np.array(reliability),
        run_p=None,
        time_s=None,
    )
    selection = select_units(found, SelectionSettings())["VISp"]
    assert selection.unit_counts == (0, 1, 4)
    assert required_units(selection.unit_counts, "q3") == 3
    assert [choice.specimen for choice in selection.selected] == [3]
    assert selection.selected[0].time_bins is None
    assert selection.excluded[1] == "no unit passes"


def test_areas_are_selected_separately_and_in_order() -> None:
    found = facts([[0.9, 0.9, 0.2]] * 2, [1, 1, 1], areas=["VISl", "VISp", "VISam"])
    outcome = select_units(found, selection_with(**NO_COUNT))
    assert list(outcome) == ["VISp", "VISl", "VISam"]
    assert [len(selected.selected) for selected in outcome.values()] == [1, 1, 0]


def test_a_threshold_needs_reliabilities() -> None:
    bare = UnitFacts(np.array(["VISp"]), np.array([1]), None, None, np.array([0.005]))
    with pytest.raises(DataError, match="needs split-half reliabilities"):
        select_units(bare, SelectionSettings())
    assert select_units(bare, PRESETS["none"])["VISp"].selected[0].units.tolist() == [0]


def test_average_ignores_missing_bins_and_keeps_missing_trials() -> None:
    responses = np.full((1, 1, 3, 2), np.nan)
    responses[0, 0, :, 0] = [100.0, np.nan, 300.0]
    averaged = average_over_bins(responses)
    assert averaged.dtype == np.float64
    assert averaged[0, 0, 0] == 200.0
    assert np.isnan(averaged[0, 0, 1])


def test_counts_are_averaged_as_their_rates_are() -> None:
    counts = np.random.RandomState(0).randint(0, 255, size=(4, 5, 6, 7)).astype(np.uint8)
    counts[1, 2] = 255
    counts[0, 0, 3] = 255
    averaged = average_counts_over_bins(counts)
    np.testing.assert_allclose(averaged, average_over_bins(decode(counts)), rtol=1e-14)
    assert averaged[3, 4, 5] == counts[3, 4, :, 5].mean(dtype=np.float64) * 100
    assert np.isnan(averaged).sum() == 7


def test_presets() -> None:
    assert resolve_selection("code") == ("code", SelectionSettings())
    assert resolve_selection(SelectionSettings(min_reliability=0.3, min_mean_reliability=0.3))[0] == "paper"
    assert resolve_selection(SelectionSettings(run_p=0.1))[0] == "custom"
    with pytest.raises(UsageError, match="did you mean 'paper'"):
        resolve_selection("papers")


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(UsageError, match="'min_reliabilty'; did you mean 'min_reliability'"):
        selection_with(min_reliabilty=0.4)
    with pytest.raises(UsageError, match="min_units"):
        selection_with(min_units="q4")
    with pytest.raises(UsageError, match="must be 0 or more"):
        selection_with(min_units=-1)
    with pytest.raises(UsageError, match="must not be after"):
        selection_with(time_window_s=(0.1, 0.0))
    with pytest.raises(ValidationError):
        SelectionSettings(run_p=1.5)
