"""Scores, ceilings and intervals where the truth is known.

Seeds are fixed or hypothesis is derandomised, so that no test fails by chance. Tolerances come from the
spread over repeated data sets. docs/science/simulation.md tells how large the biases are that remain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from mvkit.neural.simulated import SimulatedPopulation, noise_deviation, simulate_population
from mvkit.scoring import ScoreSettings, score_features
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.intervals import median_interval
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import splits_of, training_targets

HONEST = {"estimator": "corrected-mean", "correction": "attenuation"}
PUBLISHED = {"estimator": "mean-of-corrected", "correction": "spearman-brown-denominator"}
#: Data sets (the same units recorded again), scored as so many animals at once.
N_DATASETS = 6
#: What remains of bias at reliabilities of 0.7 and more, with a margin (docs/science/simulation.md).
BIAS = 0.02
NULL_UNITS, N_IMAGES = 8, 80


class Array:
    """A recording."""

    area = "VISp"

    def __init__(self, responses: Any, specimen: int) -> None:
        self.responses = responses
        self.specimen = specimen
        self.unit_ids = np.arange(responses.shape[2])


def truth_of_ridge(population: SimulatedPopulation, options: ScoreSettings) -> Any:
    """Correlation of scikit-learn's noise-free ridge prediction with the response, mean over splits."""
    signal, found = population.signals[0], []
    for split in splits_of(len(signal), options):
        model = Ridge(alpha=1.0).fit(population.features[split.train], signal[split.train])
        found.append(columnwise(model.predict(population.features[split.test]), signal[split.test]))
    return np.mean(found, axis=0)


def truth_of_pls(population: SimulatedPopulation, options: ScoreSettings, reliability: float) -> Any:
    """Correlation of the mean prediction of 150 maps, each fitted on new noise, with the response."""
    signal, found = population.signals[0], []
    splits = splits_of(len(signal), options)
    prepared = MAPPINGS["pls"].prepare("features", population.features, splits, options)
    rng = np.random.default_rng(99)
    for split, part in zip(splits, prepared, strict=True):
        noise = rng.standard_normal((150, len(split.train), signal.shape[1]))
        deviation = float(noise_deviation(np.array(reliability), 2))  # of the mean of half of the trials
        targets, _ = training_targets(signal[split.train] + deviation * noise)
        found.append(
            columnwise(MAPPINGS["pls"].predict(targets, part, options).mean(axis=0), signal[split.test])
        )
    return np.mean(found, axis=0)


def columnwise(first: Any, second: Any) -> Any:
    """Pearson correlation of matching columns."""
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(first.T, second.T, strict=True)])


def repeated(population: SimulatedPopulation, reliability: float, n_trials: int) -> list[Array]:
    """Record the same units again and again, each time as another animal."""
    return [
        Array(population.recordings(reliability=reliability, n_trials=n_trials, seed=seed)[0].responses, seed)
        for seed in range(N_DATASETS)
    ]


def errors_of(population: SimulatedPopulation, data: list[Array], options: ScoreSettings, truth: Any) -> Any:
    """Score minus truth, (N_DATASETS, n_units)."""
    scores = score_features({"features": population.features}, data, options).columns["score"]
    return scores.astype(np.float64).reshape(N_DATASETS, -1) - truth


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    mapping=st.sampled_from(["pls", "ridge"]),
    reliability=st.sampled_from([0.7, 0.85, 0.95]),
    n_trials=st.sampled_from([10, 20, 50]),
    n_units=st.sampled_from([8, 24]),
    seed=st.integers(0, 2**16),
)
def test_true_predictivity_is_recovered(
    mapping: str, reliability: float, n_trials: int, n_units: int, seed: int
) -> None:
    population = simulate_population(np.linspace(0.0, 1.0, n_units)[None], n_images=N_IMAGES, seed=seed)
    options = ScoreSettings(mapping=mapping, n_splits=2, n_halves=20, **HONEST)
    truth = (
        truth_of_ridge(population, options)
        if mapping == "ridge"
        else truth_of_pls(population, options, reliability)
    )
    data = repeated(population, reliability, n_trials)
    errors = errors_of(population, data, options, truth)
    # A unit that no feature tells anything of can have no positive map reliability, and then has no score.
    scored = ~np.isnan(errors).any(axis=0)
    assert scored.mean() >= 0.75
    errors = errors[:, scored]
    standard_error = errors.std(axis=0, ddof=1) / np.sqrt(N_DATASETS)
    # All units together: the mean error, whose standard error is that of independent units.
    assert abs(errors.mean()) < BIAS + 4.0 * np.sqrt(np.square(standard_error).sum()) / scored.sum()
    # Every unit by itself; t with 5 degrees of freedom is beyond 10 once in 6,000 units.
    assert np.all(np.abs(errors.mean(axis=0)) < BIAS + 10.0 * standard_error)


@pytest.mark.parametrize("reliability", [0.7, 0.85])
def test_published_score_of_the_true_model_falls_short_by_the_factor_that_theory_gives(
    reliability: float,
) -> None:
    population = simulate_population(np.ones((1, 24)), seed=4)
    options = ScoreSettings(mapping="ridge", n_splits=2, n_halves=20, **PUBLISHED)
    data = repeated(population, reliability, 20)
    columns = score_features({"features": population.features}, data, options).columns
    r_map, r_target = (
        columns[name].astype(np.float64).mean() for name in ("map_correlation", "response_correlation")
    )
    factor = np.sqrt((1.0 + r_map) * (1.0 + r_target)) / 2.0
    truth = truth_of_ridge(population, options).mean()
    scores = columns["score"].astype(np.float64)
    standard_error = scores.std() / np.sqrt(scores.size)
    assert scores.mean() == pytest.approx(factor * truth, abs=BIAS + 4.0 * standard_error)
    assert scores.mean() < truth - 0.04
    honest = errors_of(population, data, options.model_copy(update=HONEST), truth)
    assert abs(honest.mean()) < BIAS + 4.0 * honest.std() / np.sqrt(honest.size)


def unrelated(mapping: str, *, signal: float, seed: int) -> tuple[Any, list[Array]]:
    """Features, and animals whose responses have nothing to do with them.

    More of them for similarities, which give one number per animal.
    """
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((N_IMAGES, 40))
    data = []
    for animal in range(10 if MAPPINGS[mapping].per_unit else 200):
        own = signal * rng.standard_normal((N_IMAGES, NULL_UNITS))
        data.append(Array(own + rng.standard_normal((8, N_IMAGES, NULL_UNITS)), animal))
    return features, data


def null_settings(mapping: str, **options: Any) -> ScoreSettings:
    """A split and a few split halves, fewer where every unit is fitted by itself; 99 % intervals."""
    n_halves = 2 if mapping in ("lasso", "elasticnet") else 6
    return ScoreSettings(
        mapping=mapping,
        n_splits=1,
        n_halves=n_halves,
        penalty=0.1,
        cka_debiased=True,
        confidence=0.99,
        **options,
    )


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_responses_unrelated_to_the_features_score_zero(mapping: str) -> None:
    """Reliable responses. For RSA 0 means uncorrelated RDMs; for CKA the unbiased HSIC is 0."""
    features, data = unrelated(mapping, signal=2.0, seed=21)
    options = null_settings(mapping, **HONEST)
    columns = score_features({"features": features}, data, options).columns
    interval = median_interval(columns["score"].astype(np.float64), columns["specimen"], options)
    assert interval.low <= 0.0 <= interval.high
    assert interval.high - interval.low < 0.25


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_pure_noise_scores_zero(mapping: str) -> None:
    """No signal at all. Corrected scores then divide by nothing, so the uncorrected one is told, too."""
    features, data = unrelated(mapping, signal=0.0, seed=22)
    raw = null_settings(mapping, correction="none")
    columns = score_features({"features": features}, data, raw).columns
    interval = median_interval(columns["score"].astype(np.float64), columns["specimen"], raw)
    assert interval.low <= 0.0 <= interval.high
    assert interval.high - interval.low < 0.25
    honest = null_settings(mapping, **HONEST)
    columns = score_features({"features": features}, data, honest).columns
    interval = median_interval(columns["score"].astype(np.float64), columns["specimen"], honest)
    assert interval.low <= 0.0 <= interval.high


def test_biased_cka_of_unrelated_responses_is_above_zero() -> None:
    features, data = unrelated("cka", signal=2.0, seed=21)
    options = null_settings("cka", **HONEST).model_copy(update={"cka_debiased": False})
    columns = score_features({"features": features}, data, options).columns
    assert median_interval(columns["score"].astype(np.float64), columns["specimen"], options).low > 0.1


@pytest.mark.parametrize("protocol", [HONEST, PUBLISHED], ids=["honest", "published"])
@pytest.mark.parametrize("ceiling", ["holdout", "pairwise"])
@pytest.mark.parametrize(
    ("mapping", "options"), [("pls", {}), ("pls", {"n_components": 8}), ("ridge", {"ridge_alpha": 1e-8})]
)
def test_ceiling_of_animals_that_are_linear_functions_of_one_another_is_one_without_noise(
    protocol: dict[str, Any], ceiling: str, mapping: str, options: dict[str, Any]
) -> None:
    # All units read the same 8 latents: 30 of them span these in every animal.
    population = simulate_population(np.ones((3, 30)), n_images=N_IMAGES, seed=6)
    recordings = population.recordings(reliability=1.0, n_trials=4, seed=0)
    chosen = ScoreSettings(mapping=mapping, n_splits=2, n_halves=3, ceiling=ceiling, **options, **protocol)
    scores = measure_ceiling(recordings, chosen).columns["score"].astype(np.float64)
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)


@pytest.mark.parametrize("ceiling", ["holdout", "pairwise"])
@pytest.mark.parametrize("mapping", ["one-to-one", "rsa", "cka"])
def test_ceiling_of_animals_with_the_same_units_is_one_without_noise(mapping: str, ceiling: str) -> None:
    population = simulate_population(np.full((1, 12), 0.5), n_images=N_IMAGES, seed=6)
    responses = population.recordings(reliability=1.0, n_trials=4, seed=0)[0].responses
    rng = np.random.default_rng(1)
    animals = [Array(responses[..., rng.permutation(12)], specimen) for specimen in range(3)]
    chosen = ScoreSettings(mapping=mapping, n_splits=2, n_halves=3, ceiling=ceiling, **HONEST)
    scores = measure_ceiling(animals, chosen).columns["score"].astype(np.float64)
    np.testing.assert_allclose(scores, 1.0, atol=1e-9)


@pytest.mark.parametrize("reliability", [0.7, 0.9])
def test_honest_ceiling_bears_noise_and_the_published_one_does_not(reliability: float) -> None:
    population = simulate_population(np.ones((4, 30)), n_images=N_IMAGES, seed=7)
    recordings = population.recordings(reliability=reliability, n_trials=10, seed=3)
    medians = {}
    for name, protocol in {"honest": HONEST, "published": PUBLISHED}.items():
        chosen = ScoreSettings(n_splits=2, n_halves=10, ceiling="holdout", **protocol)
        scores = measure_ceiling(recordings, chosen).columns["score"].astype(np.float64)
        medians[name] = np.median(scores)
        spread = 1.2533 * scores.std() / np.sqrt(scores.size)  # standard error of a median of normal values
        if name == "honest":
            assert abs(medians[name] - 1.0) < BIAS + 4.0 * spread
    assert medians["published"] < 1.0 - 0.25 * (1.0 - reliability)
