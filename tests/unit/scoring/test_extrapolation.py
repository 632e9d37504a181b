"""Ceilings by number of source units and images: known truth, curves, sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import curve_fit

from mvkit.errors import FitError, UsageError
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.extrapolation import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    extrapolate_ceiling,
    fit_area,
    fit_log_linear,
    fit_saturating,
    image_fault,
    image_sizes,
    linear_unit_sizes,
    log_spaced,
    unit_sizes,
)
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


SIZES = np.array([4, 8, 16, 32, 64, 128])


def saturating(size, asymptote, half, exponent):
    return asymptote * (size / (size + half)) ** exponent


@pytest.mark.parametrize(
    ("asymptote", "half", "exponent"), [(0.7, 30.0, 0.5), (0.5, 6.0, 1.0), (1.0, 80.0, 0.3), (0.4, 3.0, 3.0)]
)
def test_parameters_of_exact_curves_come_back(asymptote, half, exponent):
    values = saturating(SIZES, asymptote, half, exponent)[None]
    found = fit_saturating(SIZES, values)
    assert [found.asymptote[0], found.half[0], found.exponent[0]] == pytest.approx(
        [asymptote, half, exponent], rel=1e-4
    )
    assert found.at(1000.0)[0] == pytest.approx(saturating(1000.0, asymptote, half, exponent), rel=1e-5)
    assert not found.still_rising[0]


def test_noisy_curves_have_the_least_squares_that_scipy_finds():
    rng = np.random.default_rng(0)
    values = saturating(SIZES, 0.7, 30.0, 0.5) + 0.01 * rng.standard_normal((40, SIZES.size))
    found = fit_saturating(SIZES, values)
    bounds = (
        [0.0, found.half_bounds[0], LOWEST_EXPONENT],
        [np.inf, found.half_bounds[1], HIGHEST_EXPONENT],
    )
    for index, row in enumerate(values):
        expected, _ = curve_fit(
            saturating, SIZES, row, p0=[0.7, 30.0, 0.5], bounds=bounds, x_scale=[0.1, 10.0, 0.1]
        )
        ours = saturating(SIZES, found.asymptote[index], found.half[index], found.exponent[index])
        theirs = saturating(SIZES, *expected)
        assert np.square(ours - row).sum() <= np.square(theirs - row).sum() * (1 + 1e-6)
        assert found.asymptote[index] == pytest.approx(expected[0], abs=2e-3)


def test_a_set_is_fitted_as_if_it_were_alone():
    rng = np.random.default_rng(1)
    values = saturating(SIZES, 0.6, 20.0, 0.6) + 0.02 * rng.standard_normal((30, SIZES.size))
    together = fit_saturating(SIZES, values)
    alone = np.array([fit_saturating(SIZES, row[None]).asymptote[0] for row in values])
    # Each to the precision of its own search.
    np.testing.assert_allclose(together.asymptote, alone, rtol=1e-6)


def test_values_that_do_not_rise_have_their_mean_as_asymptote():
    flat, falling = np.full(SIZES.size, 0.5), np.linspace(0.6, 0.4, SIZES.size)
    found = fit_saturating(SIZES, np.stack([flat, falling]))
    assert found.asymptote == pytest.approx([0.5, 0.5], abs=2e-3)


def test_a_power_law_shows_no_asymptote():
    found = fit_saturating(SIZES, (0.01 * SIZES**0.8)[None])
    assert found.still_rising[0]


def test_sets_with_nan_stay_nan_and_leave_the_others_alone():
    values = np.stack([np.full(SIZES.size, np.nan), saturating(SIZES, 0.7, 30.0, 0.5)])
    values[0, 1:] = 0.4
    found = fit_saturating(SIZES, values)
    assert np.isnan(found.asymptote[0]) and np.isnan(found.exponent[0])
    assert found.asymptote[1] == pytest.approx(0.7, rel=1e-4)


def test_zero_everywhere_has_asymptote_zero():
    found = fit_saturating(SIZES, np.zeros((1, SIZES.size)))
    assert found.asymptote[0] == 0.0
    assert found.at(1e6)[0] == 0.0


def test_log_linear_fit_is_numpys_polynomial_in_the_logarithm():
    rng = np.random.default_rng(2)
    values = 0.2 + 0.05 * np.log(SIZES) + 0.02 * rng.standard_normal((3, SIZES.size))
    found = fit_log_linear(SIZES, values)
    for index, row in enumerate(values):
        slope, intercept = np.polyfit(np.log(SIZES), row, 1)
        assert found.slope[index] == pytest.approx(slope, rel=1e-10)
        assert found.value[index] == pytest.approx(intercept + slope * np.log(128), rel=1e-10)
        assert found.at(500.0)[index] == pytest.approx(intercept + slope * np.log(500), rel=1e-10)


@pytest.mark.parametrize("sizes", [[4, 8, 16], [4, 8, 8, 16], [0, 4, 8, 16]])
def test_too_few_equal_or_zero_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match="at least 4 different positive sizes"):
        fit_saturating(np.array(sizes), np.ones((1, len(sizes))))


RIDGE = ScoreSettings(mapping="ridge")


def test_sizes_grow_by_equal_factors():
    assert log_spaced(4, 128, 6).tolist() == [4, 8, 16, 32, 64, 128]
    assert log_spaced(3, 5, 10).tolist() == [3, 4, 5]


def test_areas_share_sizes_up_to_the_poorest_and_go_on_to_all_of_their_own():
    sizes = unit_sizes({"VISp": 512, "VISl": 128}, RIDGE, 6)
    assert sizes["VISl"].tolist() == [4, 8, 16, 32, 64, 128]
    assert sizes["VISp"][:6].tolist() == sizes["VISl"].tolist()
    assert sizes["VISp"].tolist()[6:] == [256, 512]


def test_pls_needs_as_many_source_units_as_components():
    settings = ScoreSettings(n_components=25)
    sizes = unit_sizes({"VISp": 200, "VISl": 24}, settings, 5)
    assert sizes["VISl"].size == 0
    assert sizes["VISp"][0] == 25 and sizes["VISp"][-1] == 200
    # An area that cannot take part does not hold back the others.
    assert unit_sizes({"VISp": 200}, settings, 5)["VISp"].tolist() == sizes["VISp"].tolist()


def test_no_area_with_enough_units_has_no_sizes():
    assert all(not part.size for part in unit_sizes({"VISp": 2}, RIDGE, 6).values())


def test_linear_grids_are_those_of_the_2020_code(area):
    assert linear_unit_sizes({"VISp": 512, "VISl": 9})["VISp"].tolist() == [102, 205, 307, 410, 512]
    recordings = area("VISp", share=0.5, n_animals=2, n_units=12, n_images=50)
    few = SETTINGS.model_copy(update={"n_splits": 1, "n_halves": 3})
    for over, sizes in (("stimuli", [20, 40, 50]), ("units", [2, 5, 7, 10, 12])):
        found = extrapolate_ceiling(recordings, few, over, grid="linear").table()
        assert found.equals(extrapolate_ceiling(recordings, few, over, sizes=sizes).table())
        assert found["size"].unique().tolist() == sizes
    with pytest.raises(UsageError, match="unknown grid 'lin'"):
        extrapolate_ceiling(recordings, few, "units", grid="lin")


def test_images_begin_where_the_map_can_be_fitted():
    settings = ScoreSettings(n_components=25, train_fraction=0.5)
    sizes = image_sizes(118, settings, 6)
    assert np.ceil(0.5 * sizes[0]) == 25
    assert sizes[-1] == 118 and sizes.size == 6
    assert image_fault(int(sizes[0]), settings) == ""


@pytest.mark.parametrize(
    ("n_images", "settings", "expected"),
    [
        (48, ScoreSettings(n_components=25), "24 training images of 48; pls needs 25"),
        (49, ScoreSettings(n_components=25), ""),
        (3, RIDGE, "1 test images of 3; at least two are needed"),
        (2, RIDGE, "1 training images of 2; ridge needs 2"),
        (2, ScoreSettings(mapping="rsa"), "2 images have no dissimilarities to compare"),
        (3, ScoreSettings(mapping="rsa"), ""),
    ],
)
def test_too_few_images_are_told_why(n_images, settings, expected):
    assert image_fault(n_images, settings) == expected
