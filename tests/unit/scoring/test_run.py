"""Scoring layers against recordings: values, rows per unit, checks."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring import Scores, ScoreSettings, run, score_features
from mvkit.scoring.correlation import DROPPED_COLUMNS, ExclusionReason
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import (
    SplitHalfScores,
    correct_split_halves,
    halves_of,
    image_splits,
    trial_orders,
)
from mvkit.scoring.run import (
    UnitScores,
    Unshared,
    check_recordings,
    estimate,
    layers_at_a_time,
    prepared_bytes,
    unit_scores,
)

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


def test_rows_hold_means_over_splits_and_split_halves(
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
    by_reason = table[[name for name in table if name.startswith("dropped_")]]
    assert (by_reason.sum(axis=1) == table["halves_dropped"]).all()
    assert (table["halves_dropped"] > 0).any()
    silent = table[(table["area"] == "VISl") & (table["unit_id"] == 11) & (table["layer"] == "good")]
    assert silent["reason"].item() == "constant_response"
    narrow = table[table["layer"] == "narrow"]
    assert set(narrow["reason"]) == {"unmapped"}
    assert set(narrow["detail"]) == {"8 components need at least 8 features, the layer has 5"}
    constant = table[table["layer"] == "constant"]
    assert constant["detail"].str.startswith("constant features").all()
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


def test_responses_are_not_put_into_shared_memory(
    features: dict[str, Any], recordings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """joblib keeps plain arrays above 1 MB there until all jobs are done: all data a second time."""
    sent = []

    def run_here(function: Callable[..., Any], jobs: Any, **_: object) -> Any:
        for index, arguments in enumerate(jobs):
            sent.append(arguments[0])
            yield index, function(*pickle.loads(pickle.dumps(arguments)))

    expected = score_features(features, recordings, SETTINGS)
    monkeypatch.setattr("mvkit.scoring.run.run_jobs", run_here)
    scores = score_features(features, recordings, SETTINGS)
    assert sent and all(type(responses) is Unshared for responses in sent)
    np.testing.assert_array_equal(scores.columns["score"], expected.columns["score"])


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


#: (split, halving): three splits with two split halves each, one unit. One reliability is negative.
R_CROSS = [[0.3, 0.4], [0.2, 0.5], [0.1, 0.6]]
R_MAP = [[0.5, 0.6], [0.4, 0.8], [0.7, 0.9]]
R_TARGET = [[0.6, 0.5], [-0.1, 0.7], [0.5, 0.8]]


def split_halves(settings: ScoreSettings) -> SplitHalfScores:
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
    found = unit_scores(split_halves(settings), "", settings)
    assert found.columns["score"][0] == pytest.approx(np.mean(kept), abs=1e-15)
    assert (found.columns["halves_used"][0], found.columns["halves_dropped"][0]) == (5, 1)
    even, odd = found.by_fold[:, 0]
    assert even == pytest.approx(np.mean([kept[i] for i in (0, 1, 3, 4)]), abs=1e-15)
    assert odd == pytest.approx(kept[2], abs=1e-15)


def test_the_corrected_mean_uses_every_pair_of_halves_of_its_splits() -> None:
    settings = ScoreSettings(estimator="corrected-mean", correction="attenuation")
    found = unit_scores(split_halves(settings), "", settings)

    def by_hand(splits: list[int]) -> float:
        cross, r_map, r_target = (np.mean([part[s] for s in splits]) for part in (R_CROSS, R_MAP, R_TARGET))
        return float(cross / np.sqrt(r_map * r_target))

    assert found.columns["score"][0] == pytest.approx(by_hand([0, 1, 2]), abs=1e-15)
    np.testing.assert_allclose(found.by_fold[:, 0], [by_hand([0, 2]), by_hand([1])], rtol=0, atol=1e-15)


def test_one_split_gives_no_folds() -> None:
    settings = ScoreSettings()
    whole = split_halves(settings)
    fields = ("r_cross", "r_map", "r_target", "scores", "exclusions")
    first = SplitHalfScores(*(getattr(whole, name)[:1] for name in fields), whole.missing_image)
    assert unit_scores(first, "", settings).by_fold.shape == (0, 1)
    assert estimate(first, settings)[0] == pytest.approx(np.mean(whole.scores[0]))


@pytest.mark.parametrize(
    ("r_map", "r_target", "reason"),
    [
        (0.3, -0.1, "mean_response"),
        (-0.2, 0.4, "mean_map"),
        (-0.2, -0.1, "mean_both"),
        (np.nan, 0.4, "constant_prediction"),
    ],
)
def test_a_corrected_mean_says_what_it_lacks(r_map: float, r_target: float, reason: str) -> None:
    settings = ScoreSettings(estimator="corrected-mean")
    parts = tuple(np.full((2, 3, 1), value) for value in (0.1, r_map, r_target))
    whole = correct_split_halves(parts, np.zeros((2, 3, 1), np.uint8), np.array([-1]), settings)  # type: ignore[arg-type]
    found = unit_scores(whole, "", settings)
    assert np.isnan(found.columns["score"][0])  # type: ignore[call-overload]
    assert found.columns["reason"][0] == reason


def dropped(found: UnitScores) -> dict[str, list[int]]:
    """Counts of the reasons that some half was dropped for."""
    return {
        name: found.columns[name].tolist() for name in DROPPED_COLUMNS.values() if found.columns[name].any()
    }


def test_dropped_halves_are_counted_by_reason() -> None:
    drops = np.zeros((2, 5, 3), np.uint8)
    drops[:, :3, 1] = ExclusionReason.NEGATIVE_MAP
    drops[0, 0, 1] = ExclusionReason.NO_TRIAL
    drops[:, :, 2] = ExclusionReason.NEGATIVE_BOTH
    drops[0, :3, 2] = ExclusionReason.NEGATIVE_RESPONSE
    parts = [np.where(drops == ExclusionReason.NONE, 0.5, np.nan)] * 4
    whole = SplitHalfScores(*parts, drops, np.array([-1, 7, -1]))
    found = unit_scores(whole, "", SETTINGS)
    assert found.columns["halves_used"].tolist() == [10, 4, 0]
    assert found.columns["halves_dropped"].tolist() == [0, 6, 10]
    assert dropped(found) == {
        "dropped_no_trial": [0, 1, 0],
        "dropped_negative_map": [0, 5, 0],
        "dropped_negative_both": [0, 0, 7],
        "dropped_negative_response": [0, 0, 3],
    }
    # The reason that most halves of the unit were dropped for; scored units have none.
    assert found.columns["reason"].tolist() == ["", "", "negative_both"]
    assert found.columns["detail"].tolist() == ["", "image 7 has no valid trial in one half", ""]
    unmapped = unit_scores(whole, "the layer does not vary", SETTINGS)
    assert dropped(unmapped) == {"dropped_unmapped": [0, 6, 10]}
    assert unmapped.columns["reason"].tolist() == ["", "", "unmapped"]
    assert set(unmapped.columns["detail"]) == {"the layer does not vary"}


def test_means_are_over_the_same_split_halves() -> None:
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


SETTINGS_CHECKS = ScoreSettings(n_components=3)


def test_the_number_of_images_is_returned(recording: Callable[..., Any]) -> None:
    assert check_recordings([recording(np.zeros((2, 8, 3)))], SETTINGS_CHECKS) == 8


def test_wrong_recordings_are_named(recording: Callable[..., Any]) -> None:
    good = recording(np.zeros((2, 8, 3)))
    with pytest.raises(UsageError, match="no recordings"):
        check_recordings([], SETTINGS_CHECKS)
    with pytest.raises(DataError, match=r"VISl, specimen 4: .*\(2, 9, 3\), expected \(n_trials, 8, 3\)"):
        check_recordings([good, recording(np.zeros((2, 9, 3)), area="VISl", specimen=4)], SETTINGS_CHECKS)
    with pytest.raises(DataError, match="specimen 5: responses hold infinite values"):
        check_recordings([good, recording(np.full((2, 8, 3), np.inf), specimen=5)], SETTINGS_CHECKS)


def test_components_need_training_images(recording: Callable[..., Any]) -> None:
    with pytest.raises(FitError, match="pls: 5 components cannot be fitted on 4 training images"):
        check_recordings([recording(np.zeros((2, 8, 3)))], ScoreSettings(n_components=5))


def same_columns(one: Scores, other: Scores) -> None:
    """Check that scores are equal to the last bit."""
    assert one.by_fold.tobytes() == other.by_fold.tobytes()
    for column, values in one.columns.items():
        np.testing.assert_array_equal(other.columns[column], values)


@pytest.mark.parametrize("mapping", ["pls", "one-to-one", "cka"])
def test_layers_held_one_at_a_time_score_the_same(
    mapping: Any, features: dict[str, Any], recordings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"mapping": mapping})
    expected = score_features(features, recordings, settings)
    held: list[Any] = []
    most = []
    prepare = run.prepare_layers

    def watched(*given: Any, **options: Any) -> Any:
        found = prepare(*given, **options)
        held.extend(weakref.ref(part) for layer in found.values() for part in np.atleast_1d(layer))
        gc.collect()
        most.append(sum(reference() is not None for reference in held))
        return found

    monkeypatch.setattr(run, "prepare_layers", watched)
    monkeypatch.setattr(run, "PREPARED_BYTES", 1)
    same_columns(expected, score_features(features, recordings, settings))
    if mapping == "pls":
        # Never more than the splits of one layer, and each is gone when the next one is there.
        assert most == [settings.n_splits] * len(features)


def test_one_recording_keeps_every_worker_busy(
    features: dict[str, Any], recordings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"n_splits": 5})
    layers = {"good": features["good"]}
    for recording in recordings[::2]:  # one with a silent unit
        expected = score_features(layers, [recording], settings)
        sizes = []
        measure = run._score_splits

        def counted(*given: Any, measure: Any = measure, sizes: list[int] = sizes) -> Any:
            sizes.append(len(given[2]))
            return measure(*given)

        with monkeypatch.context() as patch:
            patch.setattr(run, "_score_splits", counted)
            patch.setattr(run, "worker_count", lambda n_jobs: 3)
            same_columns(expected, score_features(layers, [recording], settings))
        assert sizes == [1, 2, 2]
    same_columns(expected, score_features(layers, [recordings[2]], settings, n_jobs=2))


def test_layers_at_a_time_do_not_exceed_their_memory() -> None:
    assert layers_at_a_time(118, 10) > 400
    assert layers_at_a_time(1000, 10) == 6
    assert layers_at_a_time(5000, 10) == 1
    # Ten splits: 2500 x 2500 for training and testing each.
    assert prepared_bytes(5000, 10) == 10 * 2 * 2500**2 * 8
