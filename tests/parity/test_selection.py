"""Selection against the reference: exact units, specimens and bins; averages within 1e-12."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mvkit.neural.averaging import average_over_bins
from mvkit.neural.selection import (
    AreaSelection,
    UnitFacts,
    required_units,
    select_units,
    specimen_map,
)
from mvkit.neural.selection_settings import SelectionSettings

TOLERANCE = 1e-12
KINDS = ("neuropixels", "calcium")


def settings_of(name: str, kind: str) -> SelectionSettings:
    """Read the settings out of a golden's name, for example ``thr04_min02_p01``."""
    reliability = "min_reliability" if kind == "neuropixels" else "min_mean_reliability"
    fields = {"thr": reliability, "min": "min_median_reliability", "p": "run_p"}
    changes: dict[str, object] = {}
    if name == "default":
        return SelectionSettings()
    if window := re.fullmatch(r"time_range_(\d+)_(\d+)ms", name):
        changes["time_window_s"] = (int(window[1]) / 1000, int(window[2]) / 1000)
        return SelectionSettings.model_validate(changes)
    for part in name.split("_"):
        matched = re.fullmatch(r"(thr|min|p)(\d)(\d*)", part)
        if matched is None:
            pytest.fail(f"golden setting {name!r} is not understood")
        changes[fields[matched[1]]] = float(f"{matched[2]}.{matched[3]}")
    return SelectionSettings.model_validate(changes)


@pytest.fixture(scope="module")
def inputs(goldens: Path) -> dict[str, dict[str, np.ndarray]]:
    return {kind: dict(np.load(goldens / "selection" / f"{kind}_in.npz")) for kind in KINDS}


@pytest.fixture(scope="module")
def outputs(goldens: Path) -> dict[str, dict[str, np.ndarray]]:
    return {kind: dict(np.load(goldens / "selection" / f"{kind}_out.npz")) for kind in KINDS}


def facts_of(arrays: dict[str, np.ndarray], kind: str) -> UnitFacts:
    timed = kind == "neuropixels"
    return UnitFacts(
        areas=arrays["visual_area"],
        specimens=arrays["specimen_id"],
        reliability=arrays["splithalf_r_mean" if timed else "reliability_mean"],
        run_p=arrays["run_pval_ns" if timed else "p_run_mod_ns"],
        time_s=arrays["time"] if timed else None,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_recorded_selection(
    inputs: dict[str, dict[str, np.ndarray]], outputs: dict[str, dict[str, np.ndarray]], kind: str
) -> None:
    arrays, golden = inputs[kind], outputs[kind]
    facts = facts_of(arrays, kind)
    checked = set()
    for setting in sorted({key.split("|")[0] for key in golden if not key.endswith("|error")}):
        selections = select_units(facts, settings_of(setting, kind))
        for area, selection in selections.items():
            if not selection.passing and f"{setting}|{area}|specimens" not in golden:
                continue
            found = {
                **specimens_and_counts(selection),
                **per_specimen(selection, arrays, kind),
            }
            for name, value in found.items():
                key = f"{setting}|{area}|{name}"
                assert key in golden, key
                if name.endswith("resp"):
                    np.testing.assert_allclose(
                        value, golden[key], rtol=TOLERANCE, atol=TOLERANCE, err_msg=key
                    )
                else:
                    np.testing.assert_array_equal(value, golden[key], err_msg=key)
                checked.add(key)
    expected = {key for key in golden if "|spec_map|" not in key and not key.endswith("|error")}
    assert checked == expected


def specimens_and_counts(selection: AreaSelection) -> dict[str, object]:
    counts = selection.unit_counts or [np.nan]
    return {
        "specimens": [choice.specimen for choice in selection.passing],
        "median_units": np.median(counts),
        "q3_units": np.percentile(counts, 75),
    }


def per_specimen(selection: AreaSelection, arrays: dict[str, np.ndarray], kind: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for choice in selection.passing:
        responses = arrays["responses"][..., choice.units]
        ids = arrays["unit_id" if kind == "neuropixels" else "cell_specimen_id"]
        found[f"{choice.specimen}|unit_ids"] = ids[choice.units]
        if choice.time_bins is None:
            found[f"{choice.specimen}|resp"] = responses
        else:
            found[f"{choice.specimen}|time_bins"] = choice.time_bins
            found[f"{choice.specimen}|resp"] = average_over_bins(responses[:, :, list(choice.time_bins)])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_recorded_specimen_map(
    inputs: dict[str, dict[str, np.ndarray]], outputs: dict[str, dict[str, np.ndarray]], kind: str
) -> None:
    golden = outputs[kind]
    keys = [key for key in golden if "|spec_map|" in key]
    assert keys
    selections = {
        setting: select_units(facts_of(inputs[kind], kind), settings_of(setting, kind))
        for setting in {key.split("|")[0] for key in keys}
    }
    for key in keys:
        setting, _, equalize, threshold, area, name = key.split("|")
        wanted = threshold.removeprefix("thresh")
        min_units = {"None": "q3", "median_units": "median"}.get(wanted) or int(wanted)
        found = specimen_map(
            selections[setting][area], min_units=min_units, equalize=equalize == "equalizeTrue"
        )
        value = getattr(found, name)
        if name == "pairs":
            value = np.array(value, dtype=np.int64).reshape(-1, 2)
        np.testing.assert_array_equal(value, golden[key], err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_specimens_are_those_of_the_map_with_the_default_threshold(
    inputs: dict[str, dict[str, np.ndarray]], kind: str
) -> None:
    settings = SelectionSettings()
    for selection in select_units(facts_of(inputs[kind], kind), settings).values():
        kept = tuple(choice.specimen for choice in selection.kept)
        assert kept == specimen_map(selection).specimens
        needed = required_units(selection.unit_counts, "q3")
        assert all(len(choice.units) >= needed for choice in selection.kept)


def test_isolated_or_missing_bins_do_not_stop_the_selection(
    outputs: dict[str, dict[str, np.ndarray]],
) -> None:
    """The reference stops with a TypeError in both cases, as its golden records."""
    errors = {key for key in outputs["neuropixels"] if key.endswith("|error")}
    cases = {"isolated_bin|error": ([0.1, 0.6, 0.1, 0.5], (1,)), "no_bin|error": ([0.1, 0.2, 0.1, 0.2], None)}
    assert errors <= set(cases)
    for profile, bins in cases.values():
        facts = UnitFacts(
            areas=np.array(["VISp"] * 3),
            specimens=np.array([7, 7, 7]),
            reliability=np.repeat(np.array(profile)[:, None], 3, axis=1),
            run_p=None,
            time_s=np.arange(len(profile)) / 100,
        )
        selection = select_units(facts, SelectionSettings(min_reliability=0.2))["VISp"]
        if bins is None:
            assert selection.kept == ()
            assert "below 0.3" in selection.dropped[7]
        else:
            assert [choice.time_bins for choice in selection.kept] == [bins]
            assert selection.single_bin == (7,)
