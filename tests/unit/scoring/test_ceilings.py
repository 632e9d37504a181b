"""Ceilings: pairs of animals, draws, sources, and rows per unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

import mvkit.scoring.protocol
from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring import sparse
from mvkit.scoring.ceilings import (
    AnimalPair,
    PairDraws,
    PairScores,
    PairSize,
    SourceScores,
    aggregate_sources,
    concatenate_split_halves,
    draw_pair,
    measure_ceiling,
    no_scores,
    pairs_of,
    predicting_units,
    score_pair,
)
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.protocol import (
    SplitHalfScores,
    correct_split_halves,
    draw_split_half,
    half_means,
    halves_of,
    pool_responses,
    split_half_weights,
    splits_of,
    trial_orders,
)
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import ScoreSettings

SMALL: dict[str, Any] = {"n_components": 3, "n_splits": 2, "n_halves": 3}


@pytest.fixture
def recordings(animals: Callable[..., list[Any]], recording: Callable[..., Any]) -> list[Any]:
    """Three animals in VISp, not in ascending order, two in VISl, one in VISam."""
    where = [("VISp", 30), ("VISp", 10), ("VISl", 10), ("VISp", 20), ("VISl", 30), ("VISam", 20)]
    responses = animals((5, 7, 4, 6, 8, 5), n_trials=(10, 9, 10, 8, 10, 10))
    return [
        recording(values, area=area, specimen=specimen)
        for values, (area, specimen) in zip(responses, where, strict=True)
    ]


def of_specimen(ceiling: Scores, area: str, specimen: int, column: str) -> Any:
    chosen = (ceiling.columns["area"] == area) & (ceiling.columns["specimen"] == specimen)
    return ceiling.columns[column][chosen]


def expected_halves(target: Any, sources: list[Any], settings: ScoreSettings, n_predictors: int = 0) -> Any:
    """Score a target from the sources pooled, with ``n_predictors`` units of theirs (0: all)."""
    source = pool_responses([source.responses for source in sources])
    n_trials, n_images, _ = target.responses.shape
    size = PairSize(n_trials, len(source), n_images, source.shape[2], n_predictors or source.shape[2])
    splits = splits_of(n_images, settings)
    return score_pair(target.responses, source, draw_pair(size, settings), splits, settings).halves


def test_who_is_predicted_from_whom(recordings: list[Any]) -> None:
    holdout = pairs_of(recordings, ScoreSettings(ceiling="holdout"))
    assert holdout == [
        AnimalPair(0, (1, 3), 13),
        AnimalPair(1, (3, 0), 11),
        AnimalPair(2, (4,), 8),
        AnimalPair(3, (1, 0), 12),
        AnimalPair(4, (2,), 4),
    ]
    pairwise = pairs_of(recordings, ScoreSettings(ceiling="pairwise"))
    assert [(pair.target, pair.sources) for pair in pairwise] == [
        (0, (1,)),
        (0, (3,)),
        (1, (3,)),
        (1, (0,)),
        (2, (4,)),
        (3, (1,)),
        (3, (0,)),
        (4, (2,)),
    ]
    assert [pair.n_predictors for pair in pairwise] == [7, 6, 6, 5, 8, 7, 5, 4]


def test_equal_numbers_are_those_of_the_smallest_source_of_the_area(recordings: list[Any]) -> None:
    holdout = pairs_of(recordings, ScoreSettings(ceiling="holdout", source_units="equal"))
    assert [pair.n_predictors for pair in holdout] == [11, 11, 4, 11, 4]
    pairwise = pairs_of(recordings, ScoreSettings(ceiling="pairwise", source_units="equal"))
    assert [pair.n_predictors for pair in pairwise] == [5, 5, 5, 5, 4, 5, 5, 4]


def test_held_out_animals_are_predicted_from_all_others(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="holdout", **SMALL)
    ceiling = measure_ceiling(recordings, settings, context={"dataset": "simulated"})
    assert ceiling.layers == ("holdout",)
    assert ceiling.areas == ("VISp", "VISl", "VISam")
    assert ceiling.context["dataset"] == "simulated"
    np.testing.assert_array_equal(
        ceiling.columns["unit_id"], np.concatenate([recording.unit_ids for recording in recordings])
    )
    expected = expected_halves(recordings[1], [recordings[3], recordings[0]], settings)
    for column, part in (("raw_correlation", expected.r_cross), ("score", expected.scores)):
        np.testing.assert_allclose(
            of_specimen(ceiling, "VISp", 10, column), np.nanmean(part, axis=(0, 1)), rtol=0, atol=1e-12
        )
    assert set(of_specimen(ceiling, "VISp", 10, "n_sources")) == {2}
    assert set(of_specimen(ceiling, "VISp", 10, "n_source_units")) == {11}
    used = of_specimen(ceiling, "VISp", 10, "halves_used")
    np.testing.assert_array_equal(used, np.isfinite(expected.scores).sum(axis=(0, 1)))
    chosen = (ceiling.columns["area"] == "VISp") & (ceiling.columns["specimen"] == 10)
    folds = [np.nanmean(expected.scores[first::2], axis=(0, 1)) for first in (0, 1)]
    np.testing.assert_allclose(ceiling.by_fold[:, chosen], folds, rtol=0, atol=1e-12)


def test_pairwise_averages_over_sources_splits_and_split_halves_at_once(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="pairwise", source_units="equal", n_subsamples=2, **SMALL)
    ceiling = measure_ceiling(recordings, settings)
    from_one = expected_halves(recordings[1], [recordings[3]], settings, n_predictors=5).scores
    from_other = expected_halves(recordings[1], [recordings[0]], settings, n_predictors=5).scores
    assert (from_one.shape[1], from_other.shape[1]) == (6, 3)  # only the first has more than 5 units
    expected = np.nanmean(np.concatenate([from_one, from_other], axis=1), axis=(0, 1))
    np.testing.assert_allclose(of_specimen(ceiling, "VISp", 10, "score"), expected, rtol=0, atol=1e-12)
    assert set(of_specimen(ceiling, "VISp", 10, "n_sources")) == {2}
    assert set(of_specimen(ceiling, "VISp", 10, "n_source_units")) == {10}


def test_an_animal_alone_in_its_area_has_no_ceiling(recordings: list[Any]) -> None:
    ceiling = measure_ceiling(recordings, ScoreSettings(ceiling="pairwise", **SMALL))
    assert np.isnan(of_specimen(ceiling, "VISam", 20, "score")).all()
    assert set(of_specimen(ceiling, "VISam", 20, "detail")) == {"no other animal in this area"}
    for column in ("n_sources", "n_source_units", "halves_used", "halves_dropped"):
        assert set(of_specimen(ceiling, "VISam", 20, column)) == {0}
    assert np.isnan(ceiling.by_fold[:, ceiling.columns["area"] == "VISam"]).all()
    assert not np.isnan(of_specimen(ceiling, "VISp", 20, "score")).all()


def test_sources_with_too_few_units_are_left_out_by_name(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="pairwise", **{**SMALL, "n_components": 6})
    ceiling = measure_ceiling(recordings, settings)
    # Animal 30 has 5 units: the others' scores are those from one another.
    expected = expected_halves(recordings[1], [recordings[3]], settings).scores
    np.testing.assert_allclose(
        of_specimen(ceiling, "VISp", 10, "score"), np.nanmean(expected, axis=(0, 1)), rtol=0, atol=1e-12
    )
    assert set(of_specimen(ceiling, "VISp", 10, "n_sources")) == {1}
    without = "source 30: 6 components need at least 6 source units, there are 5"
    assert all(text.endswith(without) for text in of_specimen(ceiling, "VISp", 10, "detail"))
    # Animal 30 of VISl has but one source, with 4 units.
    assert set(of_specimen(ceiling, "VISl", 30, "reason")) == {"unmapped"}
    assert set(of_specimen(ceiling, "VISl", 30, "detail")) == {
        "source 10: 6 components need at least 6 source units, there are 4"
    }
    assert np.isnan(of_specimen(ceiling, "VISl", 30, "score")).all()


def test_populations_have_one_row_per_animal(recordings: list[Any]) -> None:
    settings = ScoreSettings(mapping="rsa", ceiling="holdout", n_halves=3)
    ceiling = measure_ceiling(recordings, settings)
    assert list(ceiling.columns["unit_id"]) == [-1] * 6
    assert list(ceiling.columns["specimen"]) == [30, 10, 10, 20, 30, 20]
    expected = expected_halves(recordings[1], [recordings[3], recordings[0]], settings).scores
    np.testing.assert_allclose(of_specimen(ceiling, "VISp", 10, "score"), np.nanmean(expected), atol=1e-12)
    assert list(of_specimen(ceiling, "VISam", 20, "detail")) == ["no other animal in this area"]


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_workers_change_no_bit(recordings: list[Any], mapping: str) -> None:
    settings = ScoreSettings.model_validate({**SMALL, "mapping": mapping, "ceiling": "holdout"})
    calls: list[tuple[int, int]] = []
    alone = measure_ceiling(recordings, settings, progress=lambda *done: calls.append(done))
    together = measure_ceiling(recordings, settings, n_jobs=2)
    assert calls == [(done, 5) for done in range(1, 6)]
    for column, values in alone.columns.items():
        np.testing.assert_array_equal(together.columns[column], values)
    np.testing.assert_array_equal(together.by_fold, alone.by_fold)


def test_the_ceiling_is_one_without_noise_and_near_the_raw_limit_with_it(
    animals: Callable[..., list[Any]], recording: Callable[..., Any]
) -> None:
    def median(noise: float, n_trials: int = 10) -> float:
        simulated = animals((30, 30, 30), noise=noise, n_trials=n_trials)
        recordings = [recording(values, specimen=number) for number, values in enumerate(simulated)]
        settings = ScoreSettings(ceiling="holdout", **{**SMALL, "n_halves": 10})
        return float(np.nanmedian(measure_ceiling(recordings, settings).columns["score"]))

    assert median(0.0) == pytest.approx(1.0, abs=1e-9)
    # With noise a factor of about sqrt((1 + r_map) / 2 * (1 + r_target) / 2) is left, see score_features.
    assert 0.75 < median(1.0) < median(1.0, n_trials=80) < 1.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "ceiling 'none' measures nothing"),
        (
            {"ceiling": "holdout", "mapping": "rsa", "population": "pooled"},
            UsageError,
            "population 'pooled' leaves no animals",
        ),
        ({"ceiling": "holdout", "n_components": 21}, FitError, "21 components cannot be fitted on 20"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    recordings: list[Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure_ceiling(recordings, ScoreSettings(**{"n_halves": 2, **options}))


def test_recordings_that_do_not_go_together_are_refused(
    recordings: list[Any], recording: Callable[..., Any]
) -> None:
    other = recording(np.zeros((10, 39, 2)), specimen=40)
    with pytest.raises(DataError, match=r"VISp, specimen 40: .*expected \(n_trials, 40, 2\)"):
        measure_ceiling([*recordings, other], ScoreSettings(ceiling="holdout", **SMALL))
    with pytest.raises(UsageError, match="no recordings"):
        measure_ceiling([], ScoreSettings(ceiling="holdout", **SMALL))


SETTINGS = ScoreSettings(ceiling="pairwise", correction="none")


def split_halves(r_cross: list[list[float]]) -> SplitHalfScores:
    """One split; rows are split halves, columns units; not corrected, so that scores are r_cross."""
    values = np.array([r_cross])
    gaps = np.zeros(values.shape, dtype=np.uint8)
    missing = np.full(values.shape[2], -1)
    return correct_split_halves((values, np.ones_like(values), np.ones_like(values)), gaps, missing, SETTINGS)


@pytest.fixture
def target(recording: Callable[..., Any]) -> Any:
    return recording(np.zeros((2, 8, 2)), area="VISl", specimen=7)


def test_every_pair_of_halves_of_every_source_counts_equally(target: Any) -> None:
    first = SourceScores((1,), PairScores(split_halves([[0.1, 0.2], [0.3, np.nan], [0.5, 0.4]]), 5, ""))
    second = SourceScores((2, 3), PairScores(split_halves([[0.9, 0.8]]), 6, ""))
    columns = aggregate_sources(target, [first, second], 1, SETTINGS).columns
    np.testing.assert_allclose(
        columns["score"].astype(float), [(0.1 + 0.3 + 0.5 + 0.9) / 4, (0.2 + 0.4 + 0.8) / 3]
    )
    assert list(columns["halves_used"]) == [4, 3]
    assert list(columns["halves_dropped"]) == [0, 1]
    assert list(columns["n_sources"]) == [3, 3]
    assert list(columns["n_source_units"]) == [11, 11]
    assert (list(columns["layer"]), list(columns["area"])) == (["pairwise"] * 2, ["VISl"] * 2)
    assert list(columns["specimen"]) == [7, 7]


def test_sources_without_a_map_take_no_part(target: Any) -> None:
    good = SourceScores((1,), PairScores(split_halves([[0.1, 0.2]]), 5, ""))
    bad = SourceScores((2, 3), PairScores(no_scores((1, 1, 2), SETTINGS), 4, "too few"))
    columns = aggregate_sources(target, [bad, good], 1, SETTINGS).columns
    np.testing.assert_allclose(columns["score"].astype(float), [0.1, 0.2])
    assert list(columns["n_sources"]) == [1, 1]
    assert list(columns["n_source_units"]) == [5, 5]
    assert list(columns["halves_dropped"]) == [0, 0]
    assert list(columns["detail"]) == ["source 2, 3: too few"] * 2
    assert list(columns["reason"]) == ["", ""]


@pytest.mark.parametrize(
    ("others", "detail"), [(True, "source 2: too few"), (False, "no other animal in this area")]
)
def test_without_any_source_the_reason_is_given(target: Any, others: bool, detail: str) -> None:
    bad = SourceScores((2,), PairScores(no_scores((3, 1, 2), SETTINGS), 4, "too few"))
    found = aggregate_sources(target, [bad] if others else [], 3, SETTINGS)
    assert list(found.columns["reason"]) == ["unmapped"] * 2
    assert list(found.columns["detail"]) == [detail] * 2
    assert np.isnan(found.columns["score"].astype(float)).all()
    assert found.by_fold.shape == (2, 2) and np.isnan(found.by_fold).all()
    for column in ("n_sources", "n_source_units", "halves_used", "halves_dropped"):
        assert list(found.columns[column]) == [0, 0]


Simulate = Callable[..., list[Any]]


def drawn(target: Any, source: Any, settings: ScoreSettings, n_predictors: int | None = None) -> PairDraws:
    n_units = source.shape[2]
    return draw_pair(
        PairSize(len(target), len(source), target.shape[1], n_units, n_predictors or n_units), settings
    )


def scored(target: Any, source: Any, settings: ScoreSettings) -> Any:
    draws = drawn(target, source, settings)
    return score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)


def weighted_mean(responses: Any, weights: Any) -> Any:
    """Mean over the trials that have a weight, by numpy's own ignoring of NaN."""
    return np.nanmean(np.repeat(responses, weights, axis=0), axis=0)


@pytest.mark.parametrize("mapping", ["pls", "ridge"])
@pytest.mark.parametrize("halving", ["split-half", "bootstrap"])
@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_equals_scikit_learn_pair_by_pair(
    animals: Simulate, mapping: str, halving: str, correlation: str
) -> None:
    target, source = animals((4, 9), n_trials=(11, 8))
    target[2, 5, :] = np.nan
    source[0, :, 3] = np.nan
    settings = ScoreSettings.model_validate(
        {
            "mapping": mapping,
            "halving": halving,
            "correlation": correlation,
            "n_components": 3,
            "n_splits": 2,
            "n_halves": 3,
        }
    )
    draws = drawn(target, source, settings)
    found = score_pair(target, source, draws, splits_of(40, settings), settings).halves
    correlate = pearsonr if correlation == "pearson" else spearmanr
    for number, split in enumerate(splits_of(40, settings)):
        for halving_number in range(3):
            sets = [
                (
                    weighted_mean(source, draws.source[halving_number, half]),
                    weighted_mean(target, draws.target[halving_number, half]),
                )
                for half in (0, 1)
            ]
            model = PLSRegression(3, scale=False) if mapping == "pls" else Ridge(1.0)
            predictions = [
                model.fit(x[split.train], y[split.train]).predict(x[split.test]).copy() for x, y in sets
            ]
            for unit in range(4):
                second = sets[1][1][split.test, unit]
                expected = {
                    "r_cross": correlate(predictions[0][:, unit], second)[0],
                    "r_map": correlate(predictions[0][:, unit], predictions[1][:, unit])[0],
                    "r_target": correlate(sets[0][1][split.test, unit], second)[0],
                }
                for part, value in expected.items():
                    ours = getattr(found, part)[number, halving_number, unit]
                    assert ours == pytest.approx(value, abs=1e-9), part


def test_one_to_one_takes_the_best_correlated_source_unit(animals: Simulate) -> None:
    target, source = animals((3, 6))
    settings = ScoreSettings(mapping="one-to-one", n_splits=1, n_halves=2)
    draws = drawn(target, source, settings)
    (split,) = splits_of(40, settings)
    found = score_pair(target, source, draws, [split], settings).halves
    for halving in range(2):
        x = weighted_mean(source, draws.source[halving, 0])
        y = weighted_mean(target, draws.target[halving, 0])
        second = weighted_mean(target, draws.target[halving, 1])
        for unit in range(3):
            by_source = [pearsonr(x[split.train, other], y[split.train, unit])[0] for other in range(6)]
            best = x[split.test, int(np.argmax(by_source))]
            expected = pearsonr(best, second[split.test, unit])[0]
            assert found.r_cross[0, halving, unit] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mapping", ["pls", "ridge", "rsa", "cka"])
def test_one_without_noise_and_zero_of_nothing_but_noise(animals: Simulate, mapping: str) -> None:
    settings = ScoreSettings.model_validate(
        {
            "mapping": mapping,
            "n_components": 3,
            "ridge_alpha": 1e-9,
            "cka_debiased": True,
            "n_splits": 3,
            "n_halves": 20,
        }
    )
    target, source = animals((60, 60), noise=0.0)
    clear = scored(target, source, settings).halves.scores
    exact = 1e-6 if mapping in ("pls", "ridge") else 0.15  # two finite populations are not equally similar
    assert np.abs(clear - 1.0).max() < exact
    rng = np.random.default_rng(3)
    target, source = (rng.standard_normal((10, 40, 60)) for _ in range(2))
    r_cross = scored(target, source, settings).halves.r_cross
    # 60 units, whose correlations over 20 test images have a standard deviation of about .23 each, and whose
    # maps share their source; one number over 780 pairs of images for a population.
    assert abs(r_cross.mean()) < 0.12


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_source_units_that_lack_an_image_in_a_half_change_nothing(animals: Simulate, mapping: str) -> None:
    target, source = animals((4, 9))
    settings = ScoreSettings.model_validate(
        {"mapping": mapping, "n_components": 3, "n_splits": 2, "n_halves": 3}
    )
    gaps = source.copy()
    gaps[1:, 7, 2] = np.nan
    gaps[:, 9, 5] = np.nan
    found = scored(target, gaps, settings)
    expected = scored(target, np.delete(source, [2, 5], axis=2), settings)
    assert found.n_source_units == 7
    np.testing.assert_array_equal(found.halves.scores, expected.halves.scores)


def test_sub_samples_are_taken_from_units_that_have_a_say(animals: Simulate) -> None:
    target, source = animals((4, 9))
    source[:, 9, [2, 5]] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=1, n_halves=2, n_subsamples=2)
    draws = drawn(target, source, settings, n_predictors=4)
    splits = splits_of(40, settings)
    found = score_pair(target, source, draws, splits, settings)
    assert found.n_source_units == 4
    assert draws.units is not None
    for row, order in enumerate(draws.units):
        kept = [unit for unit in order if unit not in (2, 5)][:4]
        alone = PairDraws(draws.target[row : row + 1], draws.source[row : row + 1], None, 4)
        expected = score_pair(target, source[:, :, kept], alone, splits, settings).halves
        np.testing.assert_allclose(
            found.halves.scores[:, row], expected.scores[:, 0], rtol=0, atol=1e-9, equal_nan=True
        )


def test_target_units_that_lack_an_image_are_scored_where_they_can_be(animals: Simulate) -> None:
    target, source = animals((4, 9))
    target[2:, 7, 1] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=2, n_halves=8)
    draws = drawn(target, source, settings)
    found = scored(target, source, settings).halves
    lost = ~(draws.target[:, :, :2] > 0).any(axis=2).all(axis=1)
    assert lost.any() and not lost.all()
    np.testing.assert_array_equal(
        found.exclusions[:, :, 1] == ExclusionReason.NO_TRIAL, np.tile(lost, (2, 1))
    )
    assert not np.isnan(found.r_cross[:, :, [0, 2, 3]]).any()
    assert list(found.missing_image) == [-1, 7, -1, -1]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda source: source[:, :, :2], "3 components need at least 3 source units, there are 2"),
        (lambda source: np.ones_like(source), "the source units do not vary over the training images"),
        (lambda source: source * np.nan, "no source unit is known for every image"),
    ],
)
def test_a_source_that_cannot_be_mapped_says_why(animals: Simulate, spoil: Any, reason: str) -> None:
    target, source = animals((4, 9))
    found = scored(target, spoil(source), ScoreSettings(n_components=3, n_splits=2, n_halves=2))
    assert found.reason == reason
    assert found.halves.scores.shape == (2, 2, 4)
    assert np.isnan(found.halves.scores).all()


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "rsa"])
def test_results_do_not_depend_on_the_grouping_of_split_halves(
    animals: Simulate, mapping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = animals((4, 9))
    settings = ScoreSettings.model_validate(
        {"mapping": mapping, "n_components": 3, "n_splits": 2, "n_halves": 5}
    )
    at_once = scored(target, source, settings).halves
    monkeypatch.setattr(mvkit.scoring.protocol, "GROUP_BYTES", 1)
    one_by_one = scored(target, source, settings).halves
    for part in ("r_cross", "r_map", "r_target", "scores", "exclusions"):
        np.testing.assert_array_equal(getattr(at_once, part), getattr(one_by_one, part))


def test_joining_keeps_split_halves_and_the_first_missing_image(animals: Simulate) -> None:
    target, *sources = animals((4, 9, 7))
    target[1:, 6, 2] = np.nan
    settings = ScoreSettings(n_components=3, n_splits=2, n_halves=3)
    first, second = (scored(target, source, settings).halves for source in sources)
    both = concatenate_split_halves([first, second])
    np.testing.assert_array_equal(both.scores[:, :3], first.scores)
    np.testing.assert_array_equal(both.scores[:, 3:], second.scores)
    np.testing.assert_array_equal(both.exclusions[:, 3:], second.exclusions)
    assert list(both.missing_image) == [-1, -1, 6, -1]


def test_a_map_that_does_not_converge_is_named(animals: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = animals((3, 9))
    target[:, :, 0] = 1.0
    monkeypatch.setattr(sparse, "MAX_ROUNDS", 1)
    settings = ScoreSettings(mapping="lasso", penalty=1e-6, n_splits=2, n_halves=3)
    drops = scored(target, source, settings).halves.exclusions
    assert (drops[:, :, 0] == ExclusionReason.CONSTANT_RESPONSE).all()
    assert (drops[:, :, 1:] == ExclusionReason.NOT_CONVERGED).all()


def test_animals_side_by_side_with_gaps_where_trials_are_fewer() -> None:
    first = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2)
    second = 100 + np.arange(4 * 3 * 1, dtype=np.float32).reshape(4, 3, 1)
    pooled = pool_responses([first, second])
    assert pooled.shape == (4, 3, 3)
    np.testing.assert_array_equal(pooled[:2, :, :2], first)
    assert np.isnan(pooled[2:, :, :2]).all()
    np.testing.assert_array_equal(pooled[:, :, 2:], second)


def test_one_animal_is_left_as_it_is() -> None:
    only = np.ones((2, 3, 4), dtype=np.float32)
    assert pool_responses([only]) is only


def test_units_without_a_trial_in_some_half_have_no_say() -> None:
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((6, 8, 7))
    responses[1:, 4, 2] = np.nan  # one trial left: never in both halves
    responses[:, 5, 3] = np.nan
    responses[0, :, 4] = np.nan  # a trial lost: the others are in both halves
    responses[2:, 0, 6] = np.nan  # two trials left: in both halves of some split halves only
    weights = halves_of(trial_orders(6, n_halves=5))
    known = ~np.isnan(half_means(responses, weights)).any(axis=(0, 1, 2))
    assert list(np.flatnonzero(~known)) == [2, 3, 6]
    np.testing.assert_array_equal(predicting_units(responses, weights), np.flatnonzero(known))


HALVINGS = ["split-half", "bootstrap", "bootstrap-full-mean", "subsample-half", "subsample-half-replacement"]


@pytest.mark.parametrize("halving", HALVINGS)
@pytest.mark.parametrize("synchronous", [True, False])
def test_the_target_is_halved_as_for_a_model(halving: str, synchronous: bool) -> None:
    settings = ScoreSettings.model_validate(
        {"halving": halving, "synchronous": synchronous, "n_halves": 4, "halves_seed": 3}
    )
    draws = draw_pair(PairSize(9, 7, 5, 6, 6), settings)
    np.testing.assert_array_equal(draws.target, split_half_weights(9, 5, settings))
    generator = np.random.RandomState(3 + 2)
    n_images = None if synchronous else 5
    draw_split_half(generator, 9, settings.halving, n_images=n_images)
    np.testing.assert_array_equal(
        draws.source[2], draw_split_half(generator, 7, settings.halving, n_images=n_images)
    )


def test_source_units_are_drawn_only_where_a_source_has_more() -> None:
    settings = ScoreSettings(n_halves=3, n_subsamples=2)
    all_of_them = draw_pair(PairSize(9, 7, 5, 6, 6), settings)
    assert all_of_them.units is None
    assert len(all_of_them.target) == 3
    some = draw_pair(PairSize(9, 7, 5, 6, 4), settings)
    assert some.units is not None
    assert some.units.shape == (6, 6)
    assert some.n_predictors == 4
    np.testing.assert_array_equal(np.sort(some.units, axis=1), np.tile(np.arange(6), (6, 1)))


def test_one_generator_per_pair_of_halves_makes_all_its_sub_samples() -> None:
    draws = draw_pair(PairSize(9, 7, 5, 6, 4), ScoreSettings(n_halves=2, n_subsamples=2, halves_seed=5))
    assert draws.units is not None
    generator = np.random.RandomState(5 + 1)
    for row in (2, 3):
        units = list(range(6))
        generator.shuffle(units)
        np.testing.assert_array_equal(draws.units[row], units)
        for weights, n_trials in ((draws.target, 9), (draws.source, 7)):
            trials = list(range(n_trials))
            generator.shuffle(trials)
            np.testing.assert_array_equal(np.flatnonzero(weights[row, 0]), sorted(trials[: n_trials // 2]))


def test_one_generator_per_sub_sample_where_these_outnumber_split_halves() -> None:
    draws = draw_pair(PairSize(9, 7, 5, 6, 4), ScoreSettings(n_halves=2, n_subsamples=3, halves_seed=5))
    assert draws.units is not None
    assert len(draws.units) == 6
    for subsample in range(3):
        units = list(range(6))
        np.random.RandomState(5 + subsample).shuffle(units)
        np.testing.assert_array_equal(draws.units[2 * subsample], units)
        np.testing.assert_array_equal(draws.units[2 * subsample + 1], units)
        assert (draws.target[2 * subsample] != draws.target[2 * subsample + 1]).any()
