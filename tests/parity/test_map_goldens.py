"""Ridge, one-to-one and remaining PLS scores against the 2020 implementation (goldens section 4).

What is compared is whatever keys the folder holds; counts, seeds and shapes are taken from its files. The
last test asks of every key of ``model_to_brain.npz`` which test compares it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.pls_choice import pls_predict
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    halves_of,
    splits_of,
    training_targets,
    trial_orders_in_sequence,
)
from mvkit.scoring.settings import ScoreSettings

#: Names of the goldens' maps, here and there.
NAMES = {"pls": "pls", "corr": "one-to-one", "ridge": "ridge"}
#: Ridge and one-to-one, as the goldens' README suggests; PLS where its stopping rule matters.
TOLERANCE = {"corr": 1e-9, "ridge": 1e-9, "pls": 1e-6}
RELIABILITY_TOLERANCE = 1e-9

SCORES = r"f(?P<width>\d+)\|(?P<specimen>\w+)\|(?P<map>corr|ridge)\|split(?P<split>\d+)"
PARTS = SCORES + r"\|(?P<part>r_target|r_cross|r_map)"
PREDICTIONS = SCORES + r"\|pred_half(?P<half>[12])_boot0"
DEGENERATE = (
    r"degenerate\|(?P<case>\w+)\|(?P<map>corr|ridge)\|frame7_in_(?P<side>train|test)(?P<error>\|error)?"
)
REPORT_TRAIN = r"report_train\|pls\|(?P<side>test|train)"
PER_UNIT_DRAWS = r"per_unit_parallel\|corr"
RATIO = r"mode_split_half_with_source\|pls"
FEW_SOURCES = r"pls25_with_20_source_columns\|error"
UNIT_BY_UNIT = r"pls_fit_per_target_unit\|error"

HERE = (
    SCORES,
    PARTS,
    PREDICTIONS,
    DEGENERATE,
    REPORT_TRAIN,
    PER_UNIT_DRAWS,
    RATIO,
    FEW_SOURCES,
    UNIT_BY_UNIT,
)
IN_TEST_PLS_GOLDENS = (
    r"f\d+\|\w+\|pls\|split\d+(\|(r_target|r_cross|r_map|pred_half[12]_boot0))?",
    r"frac03_split4\|pls",
    r"single_unit\|pls",
    r"subsampled_source100_nss3_niter4\|(pls|draw\d+|draw_lengths)",
    r"degenerate\|\w+\|pls\|frame7_in_(train|test)(\|error)?",
    r"degenerate\|split_with_frame7_in_(train|test)",
)
IN_TEST_RSA_GOLDENS = (r"f\d+\|\w+\|identity_rsa\|(traintest\d+|all)(\|(r_target|r_cross|r_map))?",)


class Neural:
    """The folder ``neural/`` of the goldens."""

    def __init__(self, folder: Path) -> None:
        self.responses = dict(np.load(folder / "responses.npz"))
        self.features = dict(np.load(folder / "features.npz"))
        self.splits = dict(np.load(folder / "splits.npz"))
        self.expected = dict(np.load(folder / "model_to_brain.npz"))
        self.first = self.responses[next(iter(self.responses))]

    def split(self, number: int) -> ImageSplit:
        return ImageSplit(self.splits["train_idx"][number], self.splits["test_idx"][number])

    def orders(self, n_halves: int) -> Any:
        return self.splits["trial_perm"][:n_halves]

    def matching(self, pattern: str) -> Iterator[tuple[re.Match[str], Any]]:
        """Keys that match, at least one, and what they hold."""
        found = [(re.fullmatch(pattern, key), value) for key, value in self.expected.items()]
        kept = [(match, value) for match, value in found if match is not None]
        assert kept, f"no key matches {pattern}"
        yield from kept


@pytest.fixture(scope="module")
def neural(goldens: Path) -> Neural:
    return Neural(goldens / "neural")


def score(
    name: str, features: Any, responses: Any, split: ImageSplit, orders: Any, **options: Any
) -> SplitHalfScores:
    """Score with a map of the goldens on one split, with the old arithmetic."""
    settings = ScoreSettings(mapping=NAMES[name], parity=True, **options)
    row = MAPPINGS[NAMES[name]]
    prepared = row.prepare("golden", features, [split], settings)
    assert row.reason(prepared) == ""
    return row.score(responses, halves_of(orders), [split], [prepared], settings)[0]


def assert_equal(found: Any, expected: Any, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, what
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=what)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


def test_scores_and_their_parts(neural: Neural) -> None:
    for match, expected in neural.matching(SCORES):
        name, key = match["map"], match.group()
        found = score(
            name,
            neural.features[f"features_{match['width']}"],
            neural.responses[match["specimen"]],
            neural.split(int(match["split"])),
            neural.orders(len(expected)),
        )
        # Where reliabilities are near zero a score is large; its own size is the measure.
        scale = max(1.0, float(np.nanmax(np.abs(expected))))
        assert_equal(found.scores[0], expected, TOLERANCE[name] * scale, key)
        for part in ("r_cross", "r_map", "r_target"):
            assert_equal(getattr(found, part)[0], neural.expected[f"{key}|{part}"], TOLERANCE[name], part)
    parts = sum(1 for _ in neural.matching(PARTS))
    assert parts == 3 * sum(1 for _ in neural.matching(SCORES))


def test_predictions_of_the_first_pair_of_halves(neural: Neural) -> None:
    for match, expected in neural.matching(PREDICTIONS):
        name = match["map"]
        members = halves_of(neural.orders(1))[0, int(match["half"]) - 1]
        mean = np.nanmean(neural.responses[match["specimen"]][members].astype(np.float64), axis=0)
        split = neural.split(int(match["split"]))
        settings = ScoreSettings(mapping=NAMES[name])
        row = MAPPINGS[NAMES[name]]
        features = neural.features[f"features_{match['width']}"]
        prepared = row.prepare("golden", features, [split], settings)[0]
        targets, usable = training_targets(mean[None, split.train])
        assert usable.all()
        found = row.predict(targets, prepared, settings)[0]
        # A map predicts up to a constant: ridge leaves out the unit's mean, one-to-one gives features.
        constant = mean[split.train].mean(axis=0) if name == "ridge" else (expected - found).mean(axis=0)
        size = np.abs(expected).max()
        assert_equal(found + constant, expected, TOLERANCE[name] * size, match.group())


def test_draws_in_sequence(neural: Neural) -> None:
    """All units share the successive shuffles of one generator."""
    for match, expected in neural.matching(PER_UNIT_DRAWS):
        orders = trial_orders_in_sequence(len(neural.first), n_halves=len(expected), seed=0)
        found = score("corr", neural.features["features_400"], neural.first, neural.split(0), orders)
        assert_equal(found.scores[0], expected, TOLERANCE["corr"], match.group())


def test_degenerate_units(neural: Neural) -> None:
    """Where the original stopped with an exception, only the unit without valid trials is lost."""
    for match, expected in neural.matching(DEGENERATE):
        name = match["map"]
        responses = neural.first.copy()
        if match["case"] == "silent_unit5":
            responses[:, :, 5] = 0.0
        else:
            assert match["case"] == "nan_unit3_frame7"
            responses[2:, 7, 3] = np.nan
        number = int(neural.expected[f"degenerate|split_with_frame7_in_{match['side']}"])
        split = neural.split(number)
        assert 7 in getattr(split, match["side"])
        features = neural.features["features_400"]
        if match["error"]:
            orders = neural.orders(8)
            found = score(name, features, responses, split, orders)
            _assert_only_unit_3_is_lost(found, responses, orders)
            others = score(name, features, np.delete(responses, 3, axis=2), split, orders)
            for part in ("r_cross", "r_map", "r_target", "scores"):
                rest = np.delete(getattr(found, part)[0], 3, axis=1)
                assert_equal(rest, getattr(others, part)[0], TOLERANCE[name], match.group())
        else:
            found = score(name, features, responses, split, neural.orders(len(expected)))
            assert_equal(found.scores[0], expected, TOLERANCE[name], match.group())


def _assert_only_unit_3_is_lost(found: SplitHalfScores, responses: Any, orders: Any) -> None:
    known = ~np.isnan(responses[:, 7, 3])
    lost = ~(halves_of(orders) & known).any(axis=2).all(axis=1)
    assert lost.any()
    np.testing.assert_array_equal(found.exclusions[0, :, 3] == ExclusionReason.NO_TRIAL, lost)
    assert np.isnan(found.scores[0, lost, 3]).all()
    assert found.missing_image[3] == 7
    assert not (np.delete(found.exclusions[0], 3, axis=1) == ExclusionReason.NO_TRIAL).any()


def test_scores_on_training_images(neural: Neural) -> None:
    for match, expected in neural.matching(REPORT_TRAIN):
        split = neural.split(0)
        (reported,) = splits_of(118, ScoreSettings(n_splits=1, scored_images=match["side"]))
        assert reported.train.tolist() == split.train.tolist()
        orders = neural.orders(len(expected))
        found = score("pls", neural.features["features_400"], neural.first, reported, orders)
        assert_equal(found.scores[0], expected, TOLERANCE["pls"], match.group())


def test_correction_of_the_ratio(neural: Neural) -> None:
    for match, expected in neural.matching(RATIO):
        orders = neural.orders(len(expected))
        options = {"correction": "spearman-brown-ratio"}
        found = score(
            "pls", neural.features["features_400"], neural.first, neural.split(0), orders, **options
        )
        assert_equal(found.scores[0], expected, TOLERANCE["pls"], match.group())


def test_fewer_features_than_components_is_said_not_raised(neural: Neural) -> None:
    for _, error in neural.matching(FEW_SOURCES):
        assert str(error)
        settings = ScoreSettings()
        row = MAPPINGS["pls"]
        prepared = row.prepare("few", neural.features["features_400"][:, :20], [neural.split(0)], settings)
        assert row.reason(prepared) == "25 components need at least 25 features, the layer has 20"


def test_each_unit_can_be_fitted_by_itself(neural: Neural) -> None:
    """The original could not fit PLS per unit; ours can, and gives what scikit-learn's PLS1 gives."""
    for _, error in neural.matching(UNIT_BY_UNIT):
        assert str(error)
        features = neural.features["features_400"].astype(np.float64)
        mean = np.nanmean(neural.first.astype(np.float64), axis=0)
        split = neural.split(0)
        for unit in range(mean.shape[1]):
            model = PLSRegression(n_components=25, scale=False).fit(
                features[split.train], mean[split.train, unit]
            )
            expected = model.predict(features[split.test]).reshape(-1, 1)
            found = pls_predict(features, mean[:, unit : unit + 1], split)
            assert_equal(found, expected, 1e-8 * np.abs(expected).max(), f"unit {unit}")


def test_every_key_is_compared_by_some_test(neural: Neural) -> None:
    patterns = (*HERE, *IN_TEST_PLS_GOLDENS, *IN_TEST_RSA_GOLDENS)
    matches = {key: [p for p in patterns if re.fullmatch(p, key)] for key in neural.expected}
    assert [key for key, found in matches.items() if len(found) != 1] == []
    assert [p for p in patterns if not any(p in found for found in matches.values())] == []
