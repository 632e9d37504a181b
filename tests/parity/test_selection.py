"""Selection against the reference: exact units, specimens and bins; averages within 1e-12.

Without a time axis the reference also lists specimens, and areas, of which no unit passes, with empty
arrays. Here they are ``without_units`` and never ``passing``; the comparison asks for just that.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from mvkit.neural.open import average_over_bins
from mvkit.neural.selection import (
    AreaSelection,
    SelectionSettings,
    UnitFacts,
    required_units,
    select_units,
    specimen_map,
)

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
    check_selections(inputs[kind], outputs[kind], kind)


def check_selections(arrays: dict[str, np.ndarray], golden: dict[str, np.ndarray], kind: str) -> None:
    facts = facts_of(arrays, kind)
    checked = set()
    for setting in sorted({key.split("|")[0] for key in golden if not key.endswith("|error")}):
        selections = select_units(facts, settings_of(setting, kind))
        for area, selection in selections.items():
            if not selection.passing and f"{setting}|{area}|specimens" not in golden:
                continue
            listed = golden[f"{setting}|{area}|specimens"].tolist()
            empty = empty_specimens(golden, f"{setting}|{area}")
            assert set(empty) <= set(selection.without_units), (setting, area)
            found = {
                **specimens_and_counts(selection),
                **per_specimen(selection, arrays, kind),
            }
            for name, value in found.items():
                key = f"{setting}|{area}|{name}"
                assert key in golden, key
                if name == "specimens":
                    assert value == [specimen for specimen in listed if specimen not in empty], key
                elif name.endswith("resp"):
                    np.testing.assert_allclose(
                        value, golden[key], rtol=TOLERANCE, atol=TOLERANCE, err_msg=key
                    )
                else:
                    np.testing.assert_array_equal(value, golden[key], err_msg=key)
                checked.add(key)
            for key in golden:
                if any(key.startswith(f"{setting}|{area}|{specimen}|") for specimen in empty):
                    assert golden[key].size == 0, key
                    checked.add(key)
    expected = {key for key in golden if "|spec_map|" not in key and not key.endswith("|error")}
    assert checked == expected


def empty_specimens(golden: dict[str, np.ndarray], prefix: str) -> list[int]:
    """Specimens that the reference lists without any unit."""
    no_units = np.empty(0)
    return [
        specimen
        for specimen in golden.get(f"{prefix}|specimens", no_units).tolist()
        if golden.get(f"{prefix}|{specimen}|unit_ids", no_units).size == 0
    ]


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
    keys = check_specimen_maps(inputs[kind], outputs[kind], kind)
    assert keys


def check_specimen_maps(arrays: dict[str, np.ndarray], golden: dict[str, np.ndarray], kind: str) -> list[str]:
    keys = [key for key in golden if "|spec_map|" in key]
    selections = {
        setting: select_units(facts_of(arrays, kind), settings_of(setting, kind))
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
        expected = scorable(golden, key, empty_specimens(golden, f"{setting}|{area}"))
        np.testing.assert_array_equal(value, expected, err_msg=key)
    return keys


def scorable(golden: dict[str, np.ndarray], key: str, empty: list[int]) -> np.ndarray:
    """What the reference recorded of a map, without the specimens that have no unit."""
    recorded = golden[key]
    start, name = key.rsplit("|", 1)
    if name == "specimens":
        return recorded[~np.isin(recorded, empty)]
    if name == "pairs":
        pairs = recorded.reshape(-1, 2)
        return pairs[~np.isin(pairs, empty).any(axis=1)]
    mapped = golden[f"{start}|specimens"].tolist()
    if recorded == -1 or not set(empty) & set(mapped):
        return recorded
    setting, area = key.split("|")[0], key.split("|")[4]
    counts = [len(golden[f"{setting}|{area}|{specimen}|unit_ids"]) for specimen in set(mapped) - set(empty)]
    return np.array(min(counts, default=np.inf), dtype=np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_specimens_are_those_of_the_map_with_the_default_threshold(
    inputs: dict[str, dict[str, np.ndarray]], kind: str
) -> None:
    settings = SelectionSettings()
    for selection in select_units(facts_of(inputs[kind], kind), settings).values():
        kept = tuple(choice.specimen for choice in selection.selected)
        assert kept == specimen_map(selection).specimens
        needed = required_units(selection.unit_counts, "q3")
        assert all(len(choice.units) >= needed for choice in selection.selected)


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
            assert selection.selected == ()
            assert "below 0.3" in selection.excluded[7]
        else:
            assert [choice.time_bins for choice in selection.selected] == [bins]
            assert selection.single_bin == (7,)


def reference_goldens(arrays: dict[str, np.ndarray], setting: str) -> dict[str, np.ndarray]:
    """What the reference records without a time axis, specimens without units included, in plain loops."""
    threshold, run_p = {"default": (0.75, 0.05), "thr05_p02": (0.5, 0.2)}[setting]
    passes = (arrays["reliability_mean"] >= threshold) & ~(arrays["p_run_mod_ns"] <= run_p)
    golden: dict[str, np.ndarray] = {}
    for area in np.unique(arrays["visual_area"]).tolist():
        here = arrays["visual_area"] == area
        own = {
            specimen: np.flatnonzero(passes & here & (arrays["specimen_id"] == specimen))
            for specimen in np.unique(arrays["specimen_id"][here]).tolist()
        }
        counts = [len(units) for units in own.values()]
        prefix = f"{setting}|{area}"
        golden[f"{prefix}|specimens"] = np.array(list(own))
        golden[f"{prefix}|median_units"] = np.array(np.median(counts))
        golden[f"{prefix}|q3_units"] = np.array(np.percentile(counts, 75))
        for specimen, units in own.items():
            golden[f"{prefix}|{specimen}|unit_ids"] = arrays["cell_specimen_id"][units]
            golden[f"{prefix}|{specimen}|resp"] = arrays["responses"][..., units]
        enough = [specimen for specimen in own if len(own[specimen]) >= np.ceil(np.percentile(counts, 75))]
        for equalize in (True, False):
            start = f"{setting}|spec_map|equalize{equalize}|threshNone|{area}"
            golden[f"{start}|specimens"] = np.array(enough)
            golden[f"{start}|pairs"] = np.array(list(itertools.combinations(enough, 2)), dtype=np.int64)
            smallest = min(len(own[specimen]) for specimen in enough)
            golden[f"{start}|num_source_units"] = np.array(float(smallest) if equalize else -1.0)
    return golden


def test_specimens_and_areas_without_units_are_compared_too(
    inputs: dict[str, dict[str, np.ndarray]], outputs: dict[str, dict[str, np.ndarray]]
) -> None:
    """The recorded inputs, with one specimen and one area none of whose units passes."""
    arrays = {name: values.copy() for name, values in inputs["calcium"].items()}
    golden = outputs["calcium"]
    for setting in ("default", "thr05_p02"):
        again = reference_goldens(arrays, setting)
        for key, value in again.items():  # the loops above do what the reference did
            if key in golden and not empty_specimens(again, "|".join(key.split("|")[:2])):
                np.testing.assert_array_equal(value.ravel(), golden[key].ravel(), err_msg=key)
    first, last = sorted(np.unique(arrays["visual_area"]).tolist())[:2]
    specimen = arrays["specimen_id"][arrays["visual_area"] == first][0]
    failing = (arrays["visual_area"] == last) | (arrays["specimen_id"] == specimen)
    arrays["reliability_mean"][failing] = 0.1
    made = {**reference_goldens(arrays, "default"), **reference_goldens(arrays, "thr05_p02")}
    assert empty_specimens(made, f"default|{first}") == [specimen]
    assert len(empty_specimens(made, f"default|{last}")) > 1
    check_selections(arrays, made, "calcium")
    assert check_specimen_maps(arrays, made, "calcium")
    selections = select_units(facts_of(arrays, "calcium"), SelectionSettings())
    assert selections[last].selected == selections[last].passing == ()
    assert specimen in selections[first].without_units
    assert selections[first].excluded[specimen] == "no unit passes"
    assert 0 in selections[first].unit_counts
