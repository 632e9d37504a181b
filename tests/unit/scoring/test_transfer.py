"""Linear readouts, against scikit-learn's own pipeline on the raw features, and against known truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from mvkit.errors import UsageError
from mvkit.scoring.gram import layer_coordinates
from mvkit.scoring.transfer import (
    RIDGE_PENALTIES,
    SVM_COSTS,
    TransferSettings,
    chance_level,
    transfer_scores,
)

RNG = np.random.default_rng(1)
NAMES = np.repeat(["bark", "grass", "water"], 20)
CENTRES = {name: RNG.standard_normal(80) for name in ("bark", "grass", "water")}
FEATURES = np.stack([CENTRES[name] for name in NAMES]) + 4 * RNG.standard_normal((60, 80)) + 7
SIZES = FEATURES[:, :3].sum(axis=1) + RNG.standard_normal(60)
FEW = TransferSettings(n_components=10, n_folds=3, seed=4)


def _scaled() -> np.ndarray:
    centred = FEATURES - FEATURES.mean(axis=0)
    return FEATURES / np.sqrt((centred**2).sum() / 60)


def test_names_are_read_out_as_by_scikit_learn() -> None:
    expected = []
    for train, test in StratifiedKFold(3, shuffle=True, random_state=4).split(FEATURES, NAMES):
        search = GridSearchCV(LinearSVC(random_state=4), {"C": SVM_COSTS}, cv=3)
        model = make_pipeline(PCA(10, svd_solver="full"), search).fit(_scaled()[train], NAMES[train])
        expected.append(np.mean(model.predict(_scaled()[test]) == NAMES[test]))
    found = transfer_scores(FEATURES, NAMES, FEW)
    assert found.tolist() == expected
    assert 1 / 3 < found.mean() < 1
    rotated = layer_coordinates("a", FEATURES).coordinates
    assert transfer_scores(rotated, NAMES, FEW).tolist() == expected


def test_numbers_are_read_out_as_by_scikit_learn() -> None:
    expected = []
    for train, test in KFold(3, shuffle=True, random_state=4).split(FEATURES):
        model = make_pipeline(PCA(10, svd_solver="full"), RidgeCV(RIDGE_PENALTIES))
        predicted = model.fit(_scaled()[train], SIZES[train]).predict(_scaled()[test])
        expected.append(np.corrcoef(predicted, SIZES[test])[0, 1])
    for features in (FEATURES, layer_coordinates("a", FEATURES).coordinates):
        np.testing.assert_allclose(transfer_scores(features, SIZES, FEW), expected, rtol=0, atol=1e-9)


def test_known_truth() -> None:
    exact = np.stack([CENTRES[name] for name in NAMES]) + 0.01 * RNG.standard_normal((60, 80))
    assert transfer_scores(exact, NAMES).tolist() == [1.0] * 5
    unrelated = RNG.standard_normal((60, 80))
    assert transfer_scores(unrelated, NAMES).mean() == pytest.approx(1 / 3, abs=0.15)
    assert transfer_scores(np.ones((60, 80)), SIZES).tolist() == [0.0] * 5
    assert transfer_scores(np.ones((60, 80)), NAMES).tolist() == [1 / 3] * 5
    assert chance_level(np.array(["a", "a", "b"])) == pytest.approx(2 / 3)
    assert chance_level(SIZES) == 0.0


@pytest.mark.parametrize(
    "labels, text",
    [
        (np.array(["a"] * 60), "every image is of 'a': there is nothing to tell apart"),
        (np.array(["a"] * 57 + ["b"] * 3), "'b' has 3 images; at least 5 are needed of every name"),
        (np.ones(60), "every image has the number 1: there is nothing to predict"),
        (np.arange(9.0), "9 images cannot be divided into 5 parts of two"),
    ],
)
def test_labels_that_cannot_be_divided_are_refused(labels: np.ndarray, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        transfer_scores(FEATURES, labels)
