"""Whole scoring runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring import Scores, ScoreSettings, score_features
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import halves_of, image_splits, trial_orders

SETTINGS = ScoreSettings(n_splits=2, n_halves=4, n_components=8)


@pytest.fixture(scope="module")
def recordings(recording: Callable[..., Any], noisy_linear: Callable[..., Any]) -> list[Any]:
    """Two areas, two animals, one of them recorded in both areas; one with fewer trials."""
    _, first = noisy_linear(n_units=5)
    _, second = noisy_linear(n_units=70, n_trials=17)
    _, third = noisy_linear(n_units=3)
    third[:, :, 1] = 0.0
    return [
        recording(first, area="VISp", specimen=1),
        recording(second, area="VISp", specimen=2),
        recording(third.astype(np.float32), area="VISl", specimen=2),
    ]


@pytest.fixture(scope="module")
def features(noisy_linear: Callable[..., Any]) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "good": noisy_linear()[0].astype(np.float32),
        "noise": rng.standard_normal((118, 300)),
        "constant": np.ones((118, 40)),
        "narrow": rng.standard_normal((118, 5)),
    }


@pytest.fixture(scope="module")
def scores(features: dict[str, Any], recordings: list[Any]) -> Scores:
    return score_features(features, recordings, SETTINGS, context={"model": "toy"})


def test_rows_are_layers_by_units(scores: Scores, recordings: list[Any]) -> None:
    table = scores.table()
    n_units = sum(len(recording.unit_ids) for recording in recordings)
    assert list(table["layer"].unique()) == ["good", "noise", "constant", "narrow"]
    assert len(table) == 4 * n_units
    block = table[(table["layer"] == "noise") & (table["specimen"] == 2) & (table["area"] == "VISl")]
    assert block["unit_id"].tolist() == [10, 11, 12]
    assert (table["halves_used"] + table["halves_dropped"] == 8).all()


def test_rows_hold_means_over_splits_and_halvings(
    scores: Scores, features: dict[str, Any], recordings: list[Any]
) -> None:
    splits = image_splits(118, n_splits=2, train_fraction=0.5)
    layer = layer_coordinates("good", features["good"])
    parts = MAPPINGS["pls"].score(
        recordings[1].responses,
        halves_of(trial_orders(17, n_halves=4)),
        splits,
        [[split_coordinates(layer, split, 8) for split in splits]],
        SETTINGS,
    )[0]
    table = scores.table()
    rows = table[(table["layer"] == "good") & (table["area"] == "VISp") & (table["specimen"] == 2)]
    kept = np.isfinite(parts.scores)
    for unit in range(70):
        row = rows.iloc[unit]
        assert row["halves_used"] == kept[:, :, unit].sum()
        if kept[:, :, unit].any():
            assert row["score"] == pytest.approx(np.nanmean(parts.scores[:, :, unit]), abs=1e-14)
        r_map = parts.r_map[:, :, unit]
        assert row["map_reliability"] == pytest.approx((2 * r_map / (1 + r_map)).mean(), abs=1e-12)
        assert row["map_correlation"] == pytest.approx(r_map.mean(), abs=1e-14)
        assert row["raw_correlation"] == pytest.approx(parts.r_cross[:, :, unit].mean(), abs=1e-14)
        assert row["response_correlation"] == pytest.approx(parts.r_target[:, :, unit].mean(), abs=1e-14)


def test_every_missing_score_has_a_reason(scores: Scores) -> None:
    table = scores.table()
    missing = table["score"].isna()
    assert (table.loc[missing, "reason"] != "").all()
    assert (table.loc[~missing, "reason"] == "").all()
    assert (table.loc[table["halves_dropped"] > 0, "dropped_because"] != "").all()
    assert (table.loc[table["halves_dropped"] == 0, "dropped_because"] == "").all()
    silent = table[(table["area"] == "VISl") & (table["unit_id"] == 11) & (table["layer"] == "good")]
    assert silent["reason"].item() == "constant response in all halvings"
    assert set(table.loc[table["layer"] == "narrow", "reason"]) == {
        "8 components need at least 8 features, the layer has 5"
    }
    constant = table[table["layer"] == "constant"]
    assert constant["reason"].str.startswith("constant features").all()
    assert np.isfinite(constant.loc[constant["unit_id"] != 11, "response_reliability"]).all()


def test_worker_count_does_not_change_a_bit(
    scores: Scores, features: dict[str, Any], recordings: list[Any]
) -> None:
    seen: list[tuple[int, int]] = []
    parallel = score_features(
        features, recordings, SETTINGS, n_jobs=2, progress=lambda done, total: seen.append((done, total))
    )
    for name, column in scores.columns.items():
        other = parallel.columns[name]
        if column.dtype == np.float64:
            assert column.tobytes() == other.tobytes(), name
        else:
            np.testing.assert_array_equal(column, other)
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_context_holds_versions(scores: Scores) -> None:
    assert scores.context["model"] == "toy"
    assert {"mvkit", "numpy", "numba"} <= set(scores.context["versions"])  # type: ignore[call-overload]


def test_converged_scores_do_not_depend_on_the_order_of_units(
    features: dict[str, Any], recording: Callable[..., Any], noisy_linear: Callable[..., Any]
) -> None:
    _, responses = noisy_linear(n_units=9)
    layer = {"good": features["good"]}
    found = []
    for stopping in ("converged", "reference"):
        settings = SETTINGS.model_copy(update={"pls_stopping": stopping})
        forward = score_features(layer, [recording(responses)], settings).columns["raw_correlation"]
        backward = score_features(layer, [recording(responses[:, :, ::-1])], settings).columns
        found.append(np.abs(forward - backward["raw_correlation"][::-1]).max())
    assert found[0] < 1e-9 < found[1]


def test_images_must_match(features: dict[str, Any], recordings: list[Any]) -> None:
    with pytest.raises(DataError, match=r"layer 'short': features have shape \(117, 300\).* 118 images"):
        score_features({"short": features["noise"][1:]}, recordings, SETTINGS)


def test_recordings_must_match_each_other(features: dict[str, Any], recording: Callable[..., Any]) -> None:
    responses = np.random.default_rng(0).standard_normal((4, 118, 2))
    with pytest.raises(DataError, match="VISam, specimen 3: responses have shape"):
        score_features(
            features, [recording(responses), recording(responses[:, 1:], area="VISam", specimen=3)], SETTINGS
        )
    responses[0, 0, 0] = np.inf
    with pytest.raises(DataError, match="VISp, specimen 1: responses hold infinite values"):
        score_features(features, [recording(responses)], SETTINGS)


def test_features_must_be_finite(recordings: list[Any]) -> None:
    with pytest.raises(DataError, match="layer 'bad': feature 2 of image 1 is nan"):
        bad = np.zeros((118, 30))
        bad[1, 2] = np.nan
        score_features({"bad": bad}, recordings, SETTINGS)


def test_more_components_than_training_images_are_refused(
    features: dict[str, Any], recordings: list[Any]
) -> None:
    with pytest.raises(FitError, match="60 components cannot be fitted on 59 training images"):
        score_features(features, recordings, SETTINGS.model_copy(update={"n_components": 60}))


def test_nothing_to_score_and_no_workers(features: dict[str, Any], recordings: list[Any]) -> None:
    with pytest.raises(UsageError, match="0 layers, 3 recordings"):
        score_features({}, recordings, SETTINGS)
    with pytest.raises(UsageError, match="4 layers, 0 recordings"):
        score_features(features, [], SETTINGS)
    with pytest.raises(UsageError, match="n_jobs=0"):
        score_features(features, recordings, SETTINGS, n_jobs=0)
