"""Measures of maps fitted to all trials, against loops over single responses, and against known truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, measure_ceiling, resolve_settings, score_features
from mvkit.scoring.measures import feve, single_trial_correlation, trial_variance
from mvkit.scoring.protocol import image_splits

#: Builds a recording from responses.
Recorder = Callable[..., Any]
Array = NDArray[np.float64]
RNG = np.random.default_rng(7)
N_TRIALS, N_IMAGES, N_UNITS = 6, 40, 5


def _responses(*, missing: float = 0.1) -> Array:
    signal = RNG.standard_normal((N_IMAGES, N_UNITS)) * 2 + 10
    values = signal + RNG.standard_normal((N_TRIALS, N_IMAGES, N_UNITS))
    values[RNG.random(values.shape) < missing] = np.nan
    values[0][np.isnan(values).all(axis=0)] = 10.0
    return values


def _by_image(responses: Array, unit: int) -> list[Array]:
    """Return the valid responses of a unit to every image."""
    return [image[~np.isnan(image)] for image in responses[:, :, unit].T]


def _feve_by_loop(predictions: Array, trials: list[Array]) -> float:
    noise = np.mean([image.var(ddof=1) for image in trials if image.size > 1])
    total = np.concatenate(trials).var(ddof=1)
    squares = [(r - p) ** 2 for p, image in zip(predictions, trials, strict=True) for r in image]
    return float(1 - (np.mean(squares) - noise) / (total - noise))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_measures_are_those_of_a_loop_over_single_responses(missing: float) -> None:
    responses = _responses(missing=missing)
    predictions = RNG.standard_normal((N_IMAGES, N_UNITS)) + 10
    found = feve(predictions, responses)
    correlated = single_trial_correlation(predictions, responses)
    variance = trial_variance(responses)
    for unit in range(N_UNITS):
        trials = _by_image(responses, unit)
        flat = np.concatenate(trials)
        repeated = np.repeat(predictions[:, unit], [image.size for image in trials])
        noise = np.mean([image.var(ddof=1) for image in trials if image.size > 1])
        assert found[unit] == pytest.approx(_feve_by_loop(predictions[:, unit], trials), rel=1e-12)
        assert correlated[unit] == pytest.approx(np.corrcoef(repeated, flat)[0, 1], rel=1e-12)
        assert variance.explainable()[unit] == pytest.approx(1 - noise / flat.var(ddof=1), rel=1e-12)


def test_known_truth() -> None:
    """Of signal variance 4 and noise variance 1, images explain .8; the true signal explains all of it."""
    rng = np.random.default_rng(0)
    signal = 2 * rng.standard_normal((400, 40)) + 3
    responses = signal + rng.standard_normal((50, 400, 40))
    assert trial_variance(responses).explainable().mean() == pytest.approx(0.8, abs=0.01)
    assert feve(signal, responses).mean() == pytest.approx(1.0, abs=0.01)
    assert feve(np.full_like(signal, 3), responses).mean() == pytest.approx(0.0, abs=0.02)
    assert single_trial_correlation(signal, responses).mean() == pytest.approx(np.sqrt(0.8), abs=0.01)
    half = signal / 2 + 1.5  # half the amplitude leaves a quarter of the signal's variance
    assert feve(half, responses).mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("measure", ["feve", "single-trial", "to-average"])
@pytest.mark.parametrize("mapping", ["pls", "ridge"])
def test_scores_are_those_of_a_scikit_learn_loop(recording: Recorder, measure: str, mapping: str) -> None:
    features = RNG.standard_normal((N_IMAGES, 12))
    responses = np.float32(_responses(missing=0.0) + features[:, :5])
    settings = resolve_settings(mapping=mapping, measure=measure, n_components=3, n_splits=3)
    found = score_features({"a": features}, [recording(responses)], settings)
    expected = []
    for split in image_splits(N_IMAGES, n_splits=3, train_fraction=0.5):
        model = PLSRegression(3, scale=False) if mapping == "pls" else Ridge(1.0)
        model.fit(features[split.train], responses.mean(axis=0, dtype=np.float64)[split.train])
        predictions, test = model.predict(features[split.test]), responses[:, split.test].astype(float)
        for unit in range(N_UNITS):
            p, t = predictions[:, unit], test[:, :, unit]
            value = {
                "feve": _feve_by_loop(p, list(t.T)),
                "single-trial": np.corrcoef(np.tile(p, N_TRIALS), t.ravel())[0, 1],
                "to-average": np.corrcoef(p, t.mean(axis=0))[0, 1],
            }[measure]
            expected.append(value)
    np.testing.assert_allclose(
        found.columns["score"], np.reshape(expected, (3, N_UNITS)).mean(axis=0), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        found.columns["explainable_variance"], trial_variance(responses).explainable(), rtol=1e-12
    )
    assert set(found.columns["halves_used"]) == {3}
    assert np.isnan(found.columns["map_reliability"].astype(float)).all()


def test_correlation_to_average_can_be_spearmans(recording: Recorder) -> None:
    features, responses = RNG.standard_normal((N_IMAGES, 4)), _responses(missing=0.0)
    settings = resolve_settings(mapping="ridge", measure="to-average", correlation="spearman", n_splits=1)
    found = score_features({"a": features}, [recording(responses)], settings).columns["score"]
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    means = responses.mean(axis=0)
    predictions = Ridge(1.0).fit(features[split.train], means[split.train]).predict(features[split.test])
    expected = [spearmanr(predictions[:, u], means[split.test, u]).statistic for u in range(N_UNITS)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_units_without_a_score_say_why(recording: Recorder) -> None:
    responses = _responses(missing=0.0)
    responses[:, 3, 0] = np.nan  # an image without a trial
    responses[:, :, 1] = 5.0  # constant
    responses[:, :, 2] = RNG.permuted(np.tile(np.arange(N_TRIALS), (N_IMAGES, 1)), axis=1).T
    responses[1:, :, 3] = np.nan  # one trial
    settings = resolve_settings(mapping="ridge", measure="feve", n_splits=1)
    found = score_features({"a": RNG.standard_normal((N_IMAGES, 4))}, [recording(responses)], settings)
    assert found.columns["reason"].tolist() == [
        "no_trial",
        "constant_response",
        "constant_response",
        "no_repeats",
        "",
    ]
    assert found.columns["detail"][0] == "image 3 has no valid trial in one half"
    flat = score_features({"a": np.ones((N_IMAGES, 4))}, [recording(responses)], settings)
    assert set(flat.columns["reason"]) == {"unmapped"}


def test_trials_that_explain_everything_leave_no_explainable_variance(recording: Recorder) -> None:
    rng = np.random.default_rng(3)
    responses = rng.standard_normal((2, N_IMAGES, 30))  # noise alone: about half of the units
    settings = resolve_settings(mapping="ridge", measure="feve", n_splits=1)
    found = score_features({"a": rng.standard_normal((N_IMAGES, 4))}, [recording(responses)], settings)
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    variance = trial_variance(responses[:, split.test])
    none = variance.noise >= variance.total
    assert 5 < none.sum() < 25
    assert (found.columns["reason"] == "no_explainable_variance").tolist() == none.tolist()
    assert np.isnan(found.columns["score"].astype(float)).tolist() == none.tolist()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"mapping": "rsa", "measure": "feve"}, "'rsa' predicts nothing"),
        ({"mapping": "one-to-one", "measure": "feve"}, "'one-to-one' has none"),
        ({"measure": "single-trial", "correlation": "spearman"}, "'to-average' can be Spearman's"),
    ],
)
def test_measures_that_mean_nothing_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        resolve_settings(**options)


def test_a_ceiling_is_of_the_corrected_measure(recording: Recorder) -> None:
    settings = ScoreSettings(measure="feve", ceiling="holdout")
    with pytest.raises(UsageError, match="'feve' has no ceiling between animals"):
        measure_ceiling([recording(_responses())], settings)
