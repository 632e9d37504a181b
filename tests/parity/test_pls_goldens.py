"""PLS scores against the numbers of the 2020 implementation (goldens section 4).

What is compared is whatever keys the folder holds; counts, seeds and shapes are taken from its files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.pls_choice import pls_predict
from mvkit.scoring.protocol import ImageSplit, SplitHalfScores, halves_of, image_splits, trial_orders
from mvkit.scoring.settings import ScoreSettings

PLS_TOLERANCE = 1e-6
RELIABILITY_TOLERANCE = 1e-9


class Neural:
    """The folder ``neural/`` of the goldens."""

    def __init__(self, folder: Path) -> None:
        self.responses = dict(np.load(folder / "responses.npz"))
        self.features = dict(np.load(folder / "features.npz"))
        self.splits = dict(np.load(folder / "splits.npz"))
        self.expected = dict(np.load(folder / "model_to_brain.npz"))
        self.specimens = list(self.responses)

    def split(self, number: int, fraction: str = "") -> ImageSplit:
        return ImageSplit(
            self.splits[f"train_idx{fraction}"][number], self.splits[f"test_idx{fraction}"][number]
        )


@pytest.fixture(scope="module")
def neural(goldens: Path) -> Neural:
    return Neural(goldens / "neural")


@pytest.fixture(scope="module")
def score() -> Callable[..., SplitHalfScores]:
    """Score responses against features on one split, with the old arithmetic."""

    def run(features: Any, responses: Any, split: ImageSplit, orders: Any) -> SplitHalfScores:
        settings = ScoreSettings(parity=True)
        coordinates = split_coordinates(layer_coordinates("golden", features), split, settings.n_components)
        return MAPPINGS["pls"].score(responses, halves_of(orders), [split], [[coordinates]], settings)[0]

    return run


def assert_equal(found: Any, expected: Any, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, what
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=what)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


def test_splits_and_halves_are_the_stored_ones(neural: Neural) -> None:
    n_images = next(iter(neural.responses.values())).shape[1]
    for fraction, suffix in ((0.5, ""), (0.3, "_frac03")):
        stored = neural.splits[f"train_idx{suffix}"]
        drawn = image_splits(n_images, n_splits=len(stored), train_fraction=fraction)
        for number, split in enumerate(drawn):
            np.testing.assert_array_equal(split.train, stored[number])
            np.testing.assert_array_equal(split.test, neural.splits[f"test_idx{suffix}"][number])
    stored = neural.splits["trial_perm"]
    np.testing.assert_array_equal(trial_orders(stored.shape[1], n_halves=len(stored)), stored)


def test_scores_and_their_parts(neural: Neural, score: Callable[..., SplitHalfScores]) -> None:
    compared = 0
    for key, expected in neural.expected.items():
        match = re.fullmatch(r"f(\d+)\|(\w+)\|pls\|split(\d+)", key)
        if match is None:
            continue
        width, specimen, number = match[1], match[2], int(match[3])
        orders = neural.splits["trial_perm"][: len(expected)]
        found = score(
            neural.features[f"features_{width}"], neural.responses[specimen], neural.split(number), orders
        )
        assert_equal(found.scores[0], expected, PLS_TOLERANCE, key)
        for part in ("r_cross", "r_map", "r_target"):
            tolerance = RELIABILITY_TOLERANCE if part == "r_target" else PLS_TOLERANCE
            assert_equal(
                getattr(found, part)[0], neural.expected[f"{key}|{part}"], tolerance, f"{key}|{part}"
            )
        compared += 1
    assert compared > 0


def test_predictions_of_the_first_pair_of_halves(neural: Neural) -> None:
    compared = 0
    for key, expected in neural.expected.items():
        match = re.fullmatch(r"f(\d+)\|(\w+)\|pls\|split(\d+)\|pred_half([12])_boot0", key)
        if match is None:
            continue
        members = halves_of(neural.splits["trial_perm"][:1])[0, int(match[4]) - 1]
        mean = np.nanmean(neural.responses[match[2]][members].astype(np.float64), axis=0)
        found = pls_predict(neural.features[f"features_{match[1]}"], mean, neural.split(int(match[3])))
        assert_equal(found, expected, PLS_TOLERANCE * np.abs(expected).max(), key)
        compared += 1
    assert compared > 0


def test_smaller_training_fraction(neural: Neural, score: Callable[..., SplitHalfScores]) -> None:
    expected = neural.expected["frac03_split4|pls"]
    orders = neural.splits["trial_perm"][: len(expected)]
    found = score(
        neural.features["features_400"],
        neural.responses[neural.specimens[0]],
        neural.split(4, "_frac03"),
        orders,
    )
    assert_equal(found.scores[0], expected, PLS_TOLERANCE, "frac03_split4|pls")


def test_single_unit(neural: Neural, score: Callable[..., SplitHalfScores]) -> None:
    expected = neural.expected["single_unit|pls"]
    orders = neural.splits["trial_perm"][: len(expected)]
    responses = neural.responses[neural.specimens[0]][:, :, :1]
    found = score(neural.features["features_400"], responses, neural.split(0), orders)
    assert_equal(found.scores[0], expected, PLS_TOLERANCE, "single_unit|pls")


def test_sub_sampled_sources(neural: Neural, score: Callable[..., SplitHalfScores]) -> None:
    expected = neural.expected["subsampled_source100_nss3_niter4|pls"]
    draws = [
        neural.expected[f"subsampled_source100_nss3_niter4|draw{index}"] for index in range(2 * len(expected))
    ]
    for row, (sources, trials) in enumerate(zip(draws[0::2], draws[1::2], strict=True)):
        found = score(
            neural.features["features_400"][:, sources[:100]],
            neural.responses[neural.specimens[0]],
            neural.split(0),
            trials[None].astype(np.int64),
        )
        assert_equal(found.scores[0, 0], expected[row], PLS_TOLERANCE, f"row {row}")


@pytest.mark.parametrize("case", ["silent_unit5", "nan_unit3_frame7"])
@pytest.mark.parametrize("side", ["train", "test"])
def test_degenerate_units(
    neural: Neural, score: Callable[..., SplitHalfScores], case: str, side: str
) -> None:
    """Where the original stopped with an exception, only the unit without valid trials is lost."""
    responses = neural.responses[neural.specimens[0]].copy()
    if case == "silent_unit5":
        responses[:, :, 5] = 0.0
    else:
        responses[2:, 7, 3] = np.nan
    split = neural.split(int(neural.expected[f"degenerate|split_with_frame7_in_{side}"]))
    assert 7 in getattr(split, side)
    key = f"degenerate|{case}|pls|frame7_in_{side}"
    if key in neural.expected:
        expected = neural.expected[key]
        orders = neural.splits["trial_perm"][: len(expected)]
        found = score(neural.features["features_400"], responses, split, orders)
        assert_equal(found.scores[0], expected, PLS_TOLERANCE, key)
        return
    assert f"{key}|error" in neural.expected
    orders = neural.splits["trial_perm"][:8]
    found = score(neural.features["features_400"], responses, split, orders)
    known = ~np.isnan(responses[:, 7, 3])
    members = halves_of(orders)
    lost = ~(members & known).any(axis=2).all(axis=1)
    assert lost.any()
    np.testing.assert_array_equal(found.exclusions[0, :, 3] == ExclusionReason.NO_TRIAL, lost)
    assert np.isnan(found.scores[0, lost, 3]).all()
    assert found.missing_image[3] == 7
    # The others are scored as ever. Their maps shift a little: unit 3 is in the fits of halves that know it.
    others = score(neural.features["features_400"], np.delete(responses, 3, axis=2), split, orders)
    rest = np.delete(found.r_cross[0], 3, axis=1)
    np.testing.assert_array_equal(np.isnan(rest), np.isnan(others.r_cross[0]))
    np.testing.assert_allclose(rest, others.r_cross[0], rtol=0, atol=0.2)
    np.testing.assert_allclose(
        np.delete(found.r_target[0], 3, axis=1), others.r_target[0], rtol=0, atol=RELIABILITY_TOLERANCE
    )
