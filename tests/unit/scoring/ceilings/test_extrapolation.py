"""Ceilings by number of source units and images, against known truth and the ceiling itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mvkit.errors import FitError, UsageError
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.extrapolation import extrapolate_ceiling, fit_area
from mvkit.scoring.settings import ScoreSettings

#: Corrected to all trials by nothing, so that the truth is what source units without noise would reach.
SETTINGS = ScoreSettings(
    n_components=3, n_splits=2, n_halves=6, correction="attenuation", n_resamples=400, n_subsamples=3
)


@pytest.fixture(scope="module")
def area(recording):
    """Recordings of one area: each unit has a share of its variance from latents that all animals share."""

    def build(name, *, share=1.0, n_animals=3, n_units=25, n_images=100, noise=0.3, rank=3, seed=0):
        rng = np.random.default_rng(seed)
        latents = np.linalg.qr(rng.standard_normal((n_images, rank)))[0] * np.sqrt(n_images)
        recordings = []
        for specimen in range(n_animals):
            weights = rng.standard_normal((rank, n_units))
            weights /= np.linalg.norm(weights, axis=0)
            own = rng.standard_normal((n_images, n_units))
            signal = np.sqrt(share) * latents @ weights + np.sqrt(1.0 - share) * own
            trials = signal + noise * rng.standard_normal((6, n_images, n_units))
            recordings.append(recording(trials.astype(np.float32), area=name, specimen=specimen))
        return recordings

    return build


@pytest.fixture(scope="module")
def two_areas(area):
    """Two areas that saturate at sqrt(0.5) and sqrt(0.25), and one with a single animal."""
    return [
        *area("VISp", share=0.5, n_animals=4, n_units=40, n_images=150, seed=1),
        *area("VISl", share=0.25, n_animals=4, n_units=30, n_images=150, seed=2),
        *area("VISal", n_animals=1, n_images=150, seed=3),
    ]


@pytest.fixture(scope="module")
def by_units(two_areas):
    return extrapolate_ceiling(two_areas, SETTINGS, "units")


def test_asymptotes_are_where_the_shared_share_of_the_signal_puts_them(by_units):
    fits = by_units.fits().set_index(["area", "curve"])
    for name, truth in (("VISp", np.sqrt(0.5)), ("VISl", np.sqrt(0.25))):
        found = fits.loc[(name, "saturating")]
        assert found["asymptote_low"] <= truth <= found["asymptote_high"]
        assert found["asymptote"] == pytest.approx(truth, abs=0.05)
        assert found["determined"] and found["reason"] == ""
        # The ceiling of the units there are lies below it, and that of twice as many between.
        assert found["at_largest"] < found["doubled"] < found["asymptote"]
        assert found["doubled_low"] <= found["doubled"] <= found["doubled_high"]


def test_medians_rise_with_units_towards_the_ceiling_itself(by_units, two_areas):
    table = by_units.table()
    ceiling = measure_ceiling(two_areas, SETTINGS.model_copy(update={"ceiling": "holdout"})).summary()
    for name, n_units in (("VISp", 160), ("VISl", 120)):
        rows = table[table["area"] == name]
        assert rows["median"].is_monotonic_increasing
        expected = ceiling[ceiling["area"] == name].iloc[0]
        # Animals of equally many units: the largest size is all of them, hence the very same numbers.
        assert (
            rows.iloc[-1][["median", "low", "high"]].tolist() == expected[["median", "low", "high"]].tolist()
        )
        assert set(rows["n_units"]) == {n_units} and set(rows["n_animals"]) == {4}
    assert rows["size"].iloc[-1] == 90


def test_all_areas_are_pooled_at_the_sizes_they_share(by_units):
    visp, visl, _, pooled = by_units.areas
    assert pooled.area == "all"
    assert pooled.sizes.tolist() == visl.sizes.tolist() == np.intersect1d(visp.sizes, visl.sizes).tolist()
    for place, size in enumerate(pooled.sizes):
        both = [*visp.scores[visp.sizes == size][0], *visl.scores[place]]
        assert pooled.scores[place].tolist() == both
    table = by_units.table()
    row = table[(table["area"] == "all") & (table["size"] == pooled.sizes[0])].iloc[0]
    assert row["median"] == np.median(pooled.scores[0])


def test_an_area_with_one_animal_is_skipped_with_its_reason(by_units):
    assert by_units.skipped == {"VISal": "no other animal in this area"}
    assert "VISal" not in set(by_units.table()["area"])


def test_log_linear_rows_say_that_they_have_no_asymptote(by_units):
    rows = by_units.fits()
    rows = rows[rows["curve"] == "log-linear"]
    assert rows["asymptote"].isna().all() and not rows["determined"].any()
    assert rows["reason"].str.contains("no asymptote").all()
    table = by_units.table()
    for _, row in rows.iterrows():
        points = table[table["area"] == row["area"]]
        slope = np.polyfit(np.log(points["size"]), points["median"], 1)[0]
        assert row["slope"] == pytest.approx(slope, rel=1e-9)
        assert row["doubled"] - row["at_largest"] == pytest.approx(slope * np.log(2.0), rel=1e-9)


def test_json_is_strict_and_holds_the_table(by_units):
    document = json.loads(json.dumps(by_units.to_json(), allow_nan=False))
    assert document["over"] == "units" and document["ceiling"] == "holdout"
    assert [row["median"] for row in document["sizes"]] == by_units.table()["median"].tolist()
    assert document["skipped"] == by_units.skipped


def test_without_noise_a_linear_mapping_goes_to_one(area):
    recordings = area("VISp", share=1.0, noise=0.0)
    once = SETTINGS.model_copy(update={"n_halves": 1, "n_resamples": 100})
    for over in ("units", "stimuli"):
        found = extrapolate_ceiling(recordings, once, over)
        fit = found.fits().iloc[0]
        assert fit["asymptote"] == pytest.approx(1.0, abs=5e-3)
        assert found.table()["median"].iloc[-1] == pytest.approx(1.0, abs=1e-9)


def test_images_are_subsets_up_to_all(area):
    recordings = area("VISp", share=0.5)
    found = extrapolate_ceiling(recordings, SETTINGS, "stimuli")
    rows = found.table()
    ceiling = measure_ceiling(recordings, SETTINGS.model_copy(update={"ceiling": "holdout"}))
    assert rows["size"].iloc[-1] == 100
    assert rows["median"].iloc[-1] == np.median(ceiling.columns["score"].astype(np.float64))
    assert rows["median"].iloc[0] < rows["median"].iloc[-1]
    assert found.areas[0].scores[-1].tolist() == ceiling.columns["score"].tolist()


def test_results_depend_neither_on_workers_nor_on_the_other_sizes(area):
    recordings = area("VISp", share=0.5, n_animals=2, n_units=12, n_images=40)
    few = SETTINGS.model_copy(update={"n_splits": 1, "n_halves": 3})
    for over, sizes in (("units", [4, 8]), ("stimuli", [20, 30])):
        here = extrapolate_ceiling(recordings, few, over, sizes=sizes).areas[0].scores
        alone = extrapolate_ceiling(recordings, few, over, sizes=sizes[1:]).areas[0].scores
        assert alone[0].tolist() == here[1].tolist()
        reseeded = few.model_copy(update={"halves_seed": 7, "split_seed": 7})
        assert not np.any(
            extrapolate_ceiling(recordings, reseeded, over, sizes=sizes).areas[0].scores == here
        )
    workers = extrapolate_ceiling(recordings, few, "stimuli", sizes=[20, 30], n_jobs=2).areas[0].scores
    assert workers.tobytes() == here.tobytes()


def test_sizes_that_cannot_be_measured_are_left_out_with_a_reason(area):
    recordings = area("VISp", share=0.5, n_units=12, n_images=60)
    rows = extrapolate_ceiling(recordings, SETTINGS, "units", sizes=[2, 8, 999]).table().set_index("size")
    of_area = rows[rows["area"] == "VISp"]
    assert of_area["reason"].to_dict() == {
        2: "2 source units; pls needs 3",
        8: "",
        999: "only 24 source units for some animal",
    }
    assert np.isnan(of_area.loc[2, "median"]) and not np.isnan(of_area.loc[8, "median"])
    rows = extrapolate_ceiling(recordings, SETTINGS, "stimuli", sizes=[4, 30, 61]).table().set_index("size")
    assert rows[rows["area"] == "VISp"]["reason"].to_dict() == {
        4: "2 training images of 4; pls needs 3",
        30: "",
        61: "only 60 images",
    }


def test_few_sizes_and_few_animals_leave_the_asymptote_open(area):
    recordings = area("VISp", share=0.5, n_units=12, n_images=60)
    fit = extrapolate_ceiling(recordings, SETTINGS, "units", sizes=[4, 8, 16]).fits().iloc[0]
    assert np.isnan(fit["asymptote"]) and not fit["determined"]
    assert fit["reason"] == "3 sizes with a score; a saturating curve needs 4"


def test_a_curve_that_misses_the_medians_determines_no_asymptote():
    sizes = np.array([4, 8, 16, 32, 64])
    rng = np.random.default_rng(0)
    scores = 0.9 * (sizes / (sizes + 3.0))[:, None] + 0.01 * rng.standard_normal(40)
    animals = np.repeat(np.arange(4), 10)
    assert fit_area(sizes, scores, animals, SETTINGS).open_end == ""
    # Such a dip is real: ridge with a small penalty at as many sources as training images.
    scores[3] -= 0.1
    dipped = fit_area(sizes, scores, animals, SETTINGS)
    assert 32 in dipped.missed
    assert "the curve misses the intervals of the medians at size" in dipped.open_end


def test_an_area_with_too_few_source_units_says_so_and_the_others_go_on(area):
    recordings = [*area("VISp", n_units=12, n_images=60), *area("VISl", n_units=1, n_images=60)]
    found = extrapolate_ceiling(recordings, SETTINGS, "units")
    assert found.skipped == {"VISl": "2 source units for some animal; pls needs 3"}
    assert found.areas[-1].scores.tolist() == found.areas[0].scores.tolist()


def test_pairwise_sources_are_single_animals(area):
    recordings = area("VISp", share=0.5, n_units=12, n_images=60)
    settings = SETTINGS.model_copy(update={"ceiling": "pairwise"})
    found = extrapolate_ceiling(recordings, settings, "units")
    ceiling = measure_ceiling(recordings, settings)
    assert found.areas[0].sizes[-1] == 12
    np.testing.assert_allclose(
        found.areas[0].scores[-1], ceiling.columns["score"].astype(np.float64), rtol=1e-12
    )


def test_populations_are_extrapolated_too(area):
    recordings = area("VISp", share=0.5, n_units=12, n_images=60)
    settings = SETTINGS.model_copy(update={"mapping": "rsa", "ceiling": "holdout"})
    found = extrapolate_ceiling(recordings, settings, "units")
    assert found.areas[0].scores.shape == (found.areas[0].sizes.size, 3)
    assert found.areas[0].unit_ids.tolist() == [-1, -1, -1]
    assert (
        found.areas[0].scores[-1].tolist() == measure_ceiling(recordings, settings).columns["score"].tolist()
    )


def test_medians_at_all_sizes_are_of_the_same_units(area):
    recordings = area("VISp", share=0.5, n_units=12, n_images=60)
    part = extrapolate_ceiling(recordings, SETTINGS, "units", sizes=[4, 24]).areas[0]
    part.scores[0, :5] = np.nan
    assert np.isnan(part.compared[:, :5]).all()
    assert part.compared[:, 5:].tolist() == part.scores[:, 5:].tolist()


def test_what_makes_no_sense_is_refused(area):
    recordings = area("VISp", n_units=5, n_images=30)
    with pytest.raises(UsageError, match="did you mean 'units'"):
        extrapolate_ceiling(recordings, SETTINGS, "unit")
    with pytest.raises(UsageError, match="n_points=3: a curve needs at least 4"):
        extrapolate_ceiling(recordings, SETTINGS, "units", n_points=3)
    with pytest.raises(UsageError, match="all positive"):
        extrapolate_ceiling(recordings, SETTINGS, "units", sizes=[0, 4])
    with pytest.raises(FitError, match="15 training images"):
        extrapolate_ceiling(recordings, SETTINGS.model_copy(update={"n_components": 16}), "units")
