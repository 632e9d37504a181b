"""Halvings condensed to one number per unit, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring.protocol import SplitHalfScores, correct_split_halves
from mvkit.scoring.run import estimate, unit_scores
from mvkit.scoring.settings import ScoreSettings

#: (split, halving): three splits with two halvings each, one unit. One reliability is negative.
R_CROSS = [[0.3, 0.4], [0.2, 0.5], [0.1, 0.6]]
R_MAP = [[0.5, 0.6], [0.4, 0.8], [0.7, 0.9]]
R_TARGET = [[0.6, 0.5], [-0.1, 0.7], [0.5, 0.8]]


def halvings(settings: ScoreSettings) -> SplitHalfScores:
    parts = tuple(np.array(part)[:, :, None] for part in (R_CROSS, R_MAP, R_TARGET))
    return correct_split_halves(parts, np.zeros((3, 2, 1), np.uint8), np.array([-1]), settings)  # type: ignore[arg-type]


def published(cross: float, r_map: float, r_target: float) -> float:
    whole = [2 * r / (1 + r) for r in (r_map, r_target)]
    return float(cross / np.sqrt(whole[0] * whole[1]))


def test_the_mean_of_corrected_values_leaves_out_what_cannot_be_corrected() -> None:
    settings = ScoreSettings()
    kept = [
        published(R_CROSS[s][h], R_MAP[s][h], R_TARGET[s][h])
        for s, h in ((0, 0), (0, 1), (1, 1), (2, 0), (2, 1))
    ]
    found = unit_scores(halvings(settings), "", settings)
    assert found.columns["score"][0] == pytest.approx(np.mean(kept), abs=1e-15)
    assert (found.columns["halves_used"][0], found.columns["halves_dropped"][0]) == (5, 1)
    even, odd = found.by_fold[:, 0]
    assert even == pytest.approx(np.mean([kept[i] for i in (0, 1, 3, 4)]), abs=1e-15)
    assert odd == pytest.approx(kept[2], abs=1e-15)


def test_the_corrected_mean_uses_every_halving_of_its_splits() -> None:
    settings = ScoreSettings(estimator="corrected-mean", correction="attenuation")
    found = unit_scores(halvings(settings), "", settings)

    def by_hand(splits: list[int]) -> float:
        cross, r_map, r_target = (np.mean([part[s] for s in splits]) for part in (R_CROSS, R_MAP, R_TARGET))
        return float(cross / np.sqrt(r_map * r_target))

    assert found.columns["score"][0] == pytest.approx(by_hand([0, 1, 2]), abs=1e-15)
    np.testing.assert_allclose(found.by_fold[:, 0], [by_hand([0, 2]), by_hand([1])], rtol=0, atol=1e-15)


def test_one_split_gives_no_folds() -> None:
    settings = ScoreSettings()
    whole = halvings(settings)
    fields = ("r_cross", "r_map", "r_target", "scores", "drops")
    first = SplitHalfScores(*(getattr(whole, name)[:1] for name in fields), whole.missing_image)
    assert unit_scores(first, "", settings).by_fold.shape == (0, 1)
    assert estimate(first, settings)[0] == pytest.approx(np.mean(whole.scores[0]))


@pytest.mark.parametrize(
    ("r_map", "r_target", "reason"),
    [
        (0.3, -0.1, "mean response reliability not positive"),
        (-0.2, 0.4, "mean map reliability not positive"),
        (-0.2, -0.1, "mean map and response reliability not positive"),
        (np.nan, 0.4, "constant prediction in all halvings"),
    ],
)
def test_a_corrected_mean_says_what_it_lacks(r_map: float, r_target: float, reason: str) -> None:
    settings = ScoreSettings(estimator="corrected-mean")
    parts = tuple(np.full((2, 3, 1), value) for value in (0.1, r_map, r_target))
    whole = correct_split_halves(parts, np.zeros((2, 3, 1), np.uint8), np.array([-1]), settings)  # type: ignore[arg-type]
    found = unit_scores(whole, "", settings)
    assert np.isnan(found.columns["score"][0])  # type: ignore[call-overload]
    assert found.columns["reason"][0] == reason


def test_means_are_over_the_same_halvings() -> None:
    settings = ScoreSettings(estimator="corrected-mean", correction="attenuation")
    cross, r_map, r_target = (np.array(part)[:, :, None] for part in (R_CROSS, R_MAP, R_TARGET))
    cross[0, 1] = r_map[0, 1] = np.nan  # its response reliability is known, but stands for no score
    whole = correct_split_halves(
        (cross, r_map, r_target), np.zeros((3, 2, 1), np.uint8), np.array([-1]), settings
    )
    known = ~np.isnan(cross)
    means = [part[known].mean() for part in (cross, r_map, r_target)]
    expected = means[0] / np.sqrt(means[1] * means[2])
    assert unit_scores(whole, "", settings).columns["score"][0] == pytest.approx(expected, abs=1e-15)
