"""RSA and CKA of any populations: against other implementations, and what may not change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm, compare

from mvkit.scoring import ScoreSettings, score_features
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.protocol import SplitHalfScores, half_means, halves_of, splits_of, trial_orders
from mvkit.scoring.similarity import SIMILARITIES

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=20, deadline=None)
WIDTHS = st.sampled_from([2, 3, 17, 60, 300])
DTYPES = st.sampled_from([np.float32, np.float64])

#: rsatoolbox's names of the comparisons.
NAMES = {"pearson": "corr", "spearman": "spearman", "cosine": "cosine"}
KINDS = [
    *(ScoreSettings(mapping="rsa", rsa_comparison=name) for name in ("pearson", "spearman", "cosine")),
    *(ScoreSettings(mapping="cka", cka_debiased=debiased) for debiased in (False, True)),
]
KIND = st.sampled_from(KINDS)


def toolbox(first: Any, second: Any, options: ScoreSettings) -> float:
    """RSA by rsatoolbox."""
    rdms = [calc_rdm(Dataset(np.asarray(values, float)), method="correlation") for values in (first, second)]
    for rdm in rdms:
        # It ranks rounding errors where dissimilarities are equal (two units have none but 0 and 2).
        rdm.dissimilarities = np.round(rdm.dissimilarities, 12)
    return float(compare(*rdms, method=NAMES[options.rsa_comparison])[0, 0])


def hsic(first: Any, second: Any) -> float:
    """Biased HSIC by the definition: trace of K H L H with the centring matrix H."""
    n = len(first)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(first @ first.T @ centring @ (second @ second.T) @ centring))


def unbiased_hsic(first: Any, second: Any) -> float:
    """Song et al. 2012: sums over pairs, triples and quadruples of different images."""
    n = len(first)
    k, m = first @ first.T, second @ second.T
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(m, 0.0)
    pairs = (k * m).sum()
    triples = (k.sum(axis=0) * m.sum(axis=0)).sum()
    return float(pairs + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2.0 * triples / (n - 2))


def plain_cka(first: Any, second: Any, options: ScoreSettings) -> float:
    # The offset is taken off because the unbiased sums are exact but not robust to it.
    x, y = (values - values.mean(axis=0) for values in (np.asarray(first, float), np.asarray(second, float)))
    measure = unbiased_hsic if options.cka_debiased else hsic
    return float(measure(x, y) / np.sqrt(measure(x, x) * measure(y, y)))


def oracle(first: Any, second: Any, options: ScoreSettings) -> float:
    return (toolbox if options.mapping == "rsa" else plain_cka)(first, second, options)


def similarity(source: Any, target: Any, options: ScoreSettings) -> SplitHalfScores:
    """Compare populations that are both recorded: (n_halves, 2, n_images, n_units)."""
    splits = splits_of(source.shape[2], options)
    return SIMILARITIES[options.mapping].between(source, target, splits, options)


def of_layer(features: Any, responses: Any, options: ScoreSettings, n_halves: int = 3) -> SplitHalfScores:
    row = SIMILARITIES[options.mapping]
    splits = splits_of(len(features), options)
    members = halves_of(trial_orders(responses.shape[0], n_halves=n_halves))
    layer = row.prepare("a", features, splits, options)
    assert layer.reason == ""
    return row.score(responses, members, splits, [layer], options)[0]


@FEW
@given(kind=KIND, seed=SEEDS, n_features=WIDTHS, n_units=WIDTHS, n_images=st.integers(5, 40), dtype=DTYPES)
def test_a_layer_against_other_implementations(
    kind: ScoreSettings, seed: int, n_features: int, n_units: int, n_images: int, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_images, n_features)).astype(dtype) + dtype(3.0)
    responses = (5.0 + rng.standard_normal((4, n_images, n_units))).astype(dtype)
    responses[:, :, -1] = 2.0 if n_units > 3 else responses[:, :, -1]
    if n_units == 2 and kind.mapping == "rsa":
        # At least one pair on either side, else all dissimilarities are equal.
        responses[:, 0], responses[:, 1] = [1.0, 2.0], [2.0, 1.0]
    if n_features == 2:
        features[0], features[1] = [1.0, 2.0], [2.0, 1.0]
    found = of_layer(features, responses, kind)
    means = half_means(responses, halves_of(trial_orders(4, n_halves=3)))
    for halving in range(3):
        first, second = means[halving]
        r_target = oracle(first, second, kind)
        assert found.r_target[0, halving, 0] == pytest.approx(r_target, abs=1e-9)
        assert found.r_cross[0, halving, 0] == pytest.approx(oracle(features, second, kind), abs=1e-9)
        if r_target > 0.01:
            score = found.r_cross[0, halving, 0] / np.sqrt(2 * r_target / (1 + r_target))
            assert found.scores[0, halving, 0] == pytest.approx(score, abs=1e-6)


@FEW
@given(kind=KIND, seed=SEEDS, lost=st.floats(0.0, 0.3), n_units=st.integers(3, 25))
def test_missing_trials_leave_out_units_or_the_pair_of_halves(
    kind: ScoreSettings, seed: int, lost: float, n_units: int
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((12, 30))
    responses = rng.standard_normal((6, 12, n_units))
    responses[rng.random(responses.shape) < lost] = np.nan
    found = of_layer(features, responses, kind, n_halves=4)
    means = half_means(responses, halves_of(trial_orders(6, n_halves=4)))
    for halving in range(4):
        kept = ~np.isnan(means[halving]).any(axis=(0, 1))
        r_target, r_cross = found.r_target[0, halving, 0], found.r_cross[0, halving, 0]
        enough = kept.sum() >= {"rsa": 2, "cka": 1}[kind.mapping]
        assert (found.exclusions[0, halving, 0] == ExclusionReason.NO_TRIAL) == (not enough)
        if not enough:
            assert np.isnan([r_target, r_cross]).all()
        elif kind.mapping == "cka" or kept.sum() > 2:
            first, second = means[halving][:, :, kept]
            assert r_target == pytest.approx(oracle(first, second, kind), abs=1e-9)
            assert r_cross == pytest.approx(oracle(features, second, kind), abs=1e-9)


@FEW
@given(kind=KIND, seed=SEEDS, n_source=st.integers(3, 80), n_target=st.integers(3, 80))
def test_two_noisy_populations_against_other_implementations(
    kind: ScoreSettings, seed: int, n_source: int, n_target: int
) -> None:
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((2, 2, 15, n_source))
    target = source[..., :1] + rng.standard_normal((2, 2, 15, n_target))
    found = similarity(source, target, kind)
    for halving in range(2):
        pairs = {
            "r_cross": (source[halving, 0], target[halving, 1]),
            "r_map": source[halving],
            "r_target": target[halving],
        }
        for part, (first, second) in pairs.items():
            expected = oracle(first, second, kind)
            assert getattr(found, part)[0, halving, 0] == pytest.approx(expected, abs=1e-9)


@FEW
@given(kind=KIND, seed=SEEDS, scale=st.floats(1e-3, 1e3), n_features=st.integers(3, 60))
def test_scaling_a_population_changes_nothing(
    kind: ScoreSettings, seed: int, scale: float, n_features: int
) -> None:
    rng = np.random.default_rng(seed)
    features, responses = rng.standard_normal((14, n_features)), rng.standard_normal((4, 14, 9))
    before = of_layer(features, responses, kind)
    after = of_layer(scale * features, responses / scale, kind)
    np.testing.assert_allclose(after.r_cross, before.r_cross, rtol=0, atol=1e-9)
    np.testing.assert_allclose(after.r_target, before.r_target, rtol=0, atol=1e-9)


@FEW
@given(kind=KIND, seed=SEEDS, n_features=st.integers(3, 60))
def test_order_of_units_and_images_does_not_matter(kind: ScoreSettings, seed: int, n_features: int) -> None:
    rng = np.random.default_rng(seed)
    features, responses = rng.standard_normal((14, n_features)), rng.standard_normal((4, 14, 9))
    before = of_layer(features, responses, kind)
    images, units = rng.permutation(14), rng.permutation(9)
    after = of_layer(features[images][:, rng.permutation(n_features)], responses[:, images][..., units], kind)
    np.testing.assert_allclose(after.r_cross, before.r_cross, rtol=0, atol=1e-9)
    np.testing.assert_allclose(after.r_target, before.r_target, rtol=0, atol=1e-9)


@FEW
@given(seed=SEEDS, debiased=st.booleans(), n_units=st.integers(2, 60))
def test_cka_does_not_see_rotations_and_offsets_of_units(seed: int, debiased: bool, n_units: int) -> None:
    rng = np.random.default_rng(seed)
    options = ScoreSettings(mapping="cka", cka_debiased=debiased)
    means = rng.standard_normal((1, 2, 14, n_units))
    rotation = np.linalg.qr(rng.standard_normal((n_units, n_units)))[0]
    moved = similarity(means, means @ rotation + 10.0 * rng.standard_normal(n_units), options)
    still = similarity(means, means, options)
    np.testing.assert_allclose(moved.r_cross, still.r_cross, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved.r_target, still.r_target, rtol=0, atol=1e-9)


@FEW
@given(seed=SEEDS, kind=st.sampled_from(KINDS[:3]), n_units=st.integers(3, 60))
def test_rsa_does_not_see_offset_and_scale_of_patterns(seed: int, kind: ScoreSettings, n_units: int) -> None:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((1, 2, 14, n_units))
    scales, offsets = rng.uniform(0.1, 10.0, (14, 1)), 10.0 * rng.standard_normal((14, 1))
    moved, still = similarity(means, scales * means + offsets, kind), similarity(means, means, kind)
    np.testing.assert_allclose(moved.r_cross, still.r_cross, rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved.r_target, still.r_target, rtol=0, atol=1e-9)


@FEW
@given(kind=KIND, seed=SEEDS, n_units=st.integers(3, 60))
def test_without_noise_a_population_is_its_own_model(kind: ScoreSettings, seed: int, n_units: int) -> None:
    tuning = np.random.default_rng(seed).standard_normal((14, n_units))
    found = of_layer(tuning, np.repeat(tuning[None], 4, axis=0), kind)
    for part in (found.r_cross, found.r_map, found.r_target, found.scores):
        np.testing.assert_allclose(part, 1.0, rtol=0, atol=1e-12)


class Plain:
    """A recording."""

    def __init__(self, responses: Any) -> None:
        self.area = "VISp"
        self.specimen = 1
        self.unit_ids = np.arange(responses.shape[2])
        self.responses = responses


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[4]], ids=["rsa", "debiased cka"])
@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_noise_correction_in_a_simulation_with_known_truth(kind: ScoreSettings, noise: float) -> None:
    """A layer against responses that are its own features plus noise: the truth is 1.

    The correction is exact up to the factor that all corrected scores have, because r_cross is between a
    layer and half of the trials: sqrt((1 + r_target) / 2).
    """
    rng = np.random.default_rng(3)
    tuning = rng.standard_normal((60, 150))
    trials = tuning + noise * rng.standard_normal((20, 60, 150))
    options = kind.model_copy(update={"n_halves": 40})
    columns = score_features({"true": tuning}, [Plain(trials)], options).columns
    r_target = float(columns["response_correlation"][0])
    assert r_target < 0.95
    left = np.sqrt((1 + r_target) / 2)
    assert float(columns["raw_correlation"][0]) == pytest.approx(np.sqrt(r_target), abs=0.01)
    assert float(columns["score"][0]) == pytest.approx(left, abs=0.01)
