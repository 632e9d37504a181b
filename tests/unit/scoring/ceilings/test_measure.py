"""Ceilings of areas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.ceilings import (
    Pair,
    PairSize,
    draw_pair,
    measure_ceiling,
    pairs_of,
    pool_responses,
    score_pair,
)
from mvkit.scoring.protocol import splits_of
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


def expected_halvings(target: Any, sources: list[Any], settings: ScoreSettings, n_kept: int = 0) -> Any:
    """Score a target from the sources pooled, with ``n_kept`` units of theirs (0: all)."""
    source = pool_responses([source.responses for source in sources])
    n_trials, n_images, _ = target.responses.shape
    size = PairSize(n_trials, len(source), n_images, source.shape[2], n_kept or source.shape[2])
    splits = splits_of(n_images, settings)
    return score_pair(target.responses, source, draw_pair(size, settings), splits, settings).halvings


def test_who_is_predicted_from_whom(recordings: list[Any]) -> None:
    holdout = pairs_of(recordings, ScoreSettings(ceiling="holdout"))
    assert holdout == [
        Pair(0, (1, 3), 13),
        Pair(1, (3, 0), 11),
        Pair(2, (4,), 8),
        Pair(3, (1, 0), 12),
        Pair(4, (2,), 4),
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
    assert [pair.n_kept for pair in pairwise] == [7, 6, 6, 5, 8, 7, 5, 4]


def test_equal_numbers_are_those_of_the_smallest_source_of_the_area(recordings: list[Any]) -> None:
    holdout = pairs_of(recordings, ScoreSettings(ceiling="holdout", source_units="equal"))
    assert [pair.n_kept for pair in holdout] == [11, 11, 4, 11, 4]
    pairwise = pairs_of(recordings, ScoreSettings(ceiling="pairwise", source_units="equal"))
    assert [pair.n_kept for pair in pairwise] == [5, 5, 5, 5, 4, 5, 5, 4]


def test_held_out_animals_are_predicted_from_all_others(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="holdout", **SMALL)
    ceiling = measure_ceiling(recordings, settings, context={"dataset": "simulated"})
    assert ceiling.layers == ("holdout",)
    assert ceiling.areas == ("VISp", "VISl", "VISam")
    assert ceiling.context["dataset"] == "simulated"
    np.testing.assert_array_equal(
        ceiling.columns["unit_id"], np.concatenate([recording.unit_ids for recording in recordings])
    )
    expected = expected_halvings(recordings[1], [recordings[3], recordings[0]], settings)
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


def test_pairwise_averages_over_sources_splits_and_halvings_at_once(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="pairwise", source_units="equal", n_subsamples=2, **SMALL)
    ceiling = measure_ceiling(recordings, settings)
    from_one = expected_halvings(recordings[1], [recordings[3]], settings, n_kept=5).scores
    from_other = expected_halvings(recordings[1], [recordings[0]], settings, n_kept=5).scores
    assert (from_one.shape[1], from_other.shape[1]) == (6, 3)  # only the first has more than 5 units
    expected = np.nanmean(np.concatenate([from_one, from_other], axis=1), axis=(0, 1))
    np.testing.assert_allclose(of_specimen(ceiling, "VISp", 10, "score"), expected, rtol=0, atol=1e-12)
    assert set(of_specimen(ceiling, "VISp", 10, "n_sources")) == {2}
    assert set(of_specimen(ceiling, "VISp", 10, "n_source_units")) == {10}


def test_an_animal_alone_in_its_area_has_no_ceiling(recordings: list[Any]) -> None:
    ceiling = measure_ceiling(recordings, ScoreSettings(ceiling="pairwise", **SMALL))
    assert np.isnan(of_specimen(ceiling, "VISam", 20, "score")).all()
    assert set(of_specimen(ceiling, "VISam", 20, "reason")) == {"no other animal in this area"}
    for column in ("n_sources", "n_source_units", "halves_used", "halves_dropped"):
        assert set(of_specimen(ceiling, "VISam", 20, column)) == {0}
    assert np.isnan(ceiling.by_fold[:, ceiling.columns["area"] == "VISam"]).all()
    assert not np.isnan(of_specimen(ceiling, "VISp", 20, "score")).all()


def test_sources_with_too_few_units_are_left_out_by_name(recordings: list[Any]) -> None:
    settings = ScoreSettings(ceiling="pairwise", **{**SMALL, "n_components": 6})
    ceiling = measure_ceiling(recordings, settings)
    # Animal 30 has 5 units: the others' scores are those from one another.
    expected = expected_halvings(recordings[1], [recordings[3]], settings).scores
    np.testing.assert_allclose(
        of_specimen(ceiling, "VISp", 10, "score"), np.nanmean(expected, axis=(0, 1)), rtol=0, atol=1e-12
    )
    assert set(of_specimen(ceiling, "VISp", 10, "n_sources")) == {1}
    without = "source 30: 6 components need at least 6 source units, there are 5"
    assert all(text.endswith(without) for text in of_specimen(ceiling, "VISp", 10, "dropped_because"))
    # Animal 30 of VISl has but one source, with 4 units.
    assert set(of_specimen(ceiling, "VISl", 30, "reason")) == {
        "source 10: 6 components need at least 6 source units, there are 4"
    }
    assert np.isnan(of_specimen(ceiling, "VISl", 30, "score")).all()


def test_populations_have_one_row_per_animal(recordings: list[Any]) -> None:
    settings = ScoreSettings(mapping="rsa", ceiling="holdout", n_halves=3)
    ceiling = measure_ceiling(recordings, settings)
    assert list(ceiling.columns["unit_id"]) == [-1] * 6
    assert list(ceiling.columns["specimen"]) == [30, 10, 10, 20, 30, 20]
    expected = expected_halvings(recordings[1], [recordings[3], recordings[0]], settings).scores
    np.testing.assert_allclose(of_specimen(ceiling, "VISp", 10, "score"), np.nanmean(expected), atol=1e-12)
    assert list(of_specimen(ceiling, "VISam", 20, "reason")) == ["no other animal in this area"]


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
