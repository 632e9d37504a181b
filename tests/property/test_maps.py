"""Maps against their oracles, over shapes, dtypes and awkward features and units."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from himalaya.ridge import Ridge as HimalayaRidge
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Lasso, Ridge, RidgeCV

from mvkit.scoring import ScoreSettings, one_to_one
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.one_to_one import distinct_sources
from mvkit.scoring.protocol import ImageSplit, split_half_weights, splits_of, training_targets
from mvkit.scoring.ridge import choose_penalties

FEW = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
N_IMAGES = 40
DTYPES = ("float64", "float32", "float16", "int16", "bool")
AWKWARD = ("plain", "duplicated", "constant", "offset", "scaled copies", "sparse")


@dataclass(frozen=True)
class Problem:
    """Features and responses of one split; one unit is constant, another misses a training image."""

    features: Any
    responses: Any
    split: ImageSplit

    @property
    def targets(self) -> Any:
        return training_targets(self.responses[None, self.split.train])

    def predict(self, **options: Any) -> Any:
        """Predictions of our map, (n_test, n_units)."""
        setting = ScoreSettings(**options)
        row = MAPPINGS[setting.mapping]
        prepared = row.prepare("layer", self.features, [self.split], setting)[0]
        assert prepared.reason == ""
        found = row.predict(self.targets[0], prepared, setting)
        assert found.shape == (1, self.split.test.size, self.responses.shape[1])
        assert found.dtype == np.float64
        return found[0]

    @property
    def usable(self) -> Any:
        return self.targets[1][0]

    def parts(self) -> tuple[Any, Any, Any]:
        """Training and test features and training responses of usable units, all float64."""
        values = self.features.astype(np.float64)
        return values[self.split.train], values[self.split.test], self.targets[0][0][:, self.usable]


def make_features(rng: np.random.Generator, n_features: int, kind: str, dtype: str) -> Any:
    features = rng.standard_normal((N_IMAGES, n_features)) * rng.uniform(0.3, 3.0, n_features)
    half = n_features // 2
    if kind == "duplicated":
        features[:, half:] = features[:, rng.integers(0, max(half, 1), n_features - half)]
    elif kind == "constant":
        features[:, 1 : half + 1] = 3.7
    elif kind == "offset":
        features += 10.0 ** rng.integers(0, 4, n_features)
    elif kind == "scaled copies" and half:
        features[:, half:] = 3.0 * features[:, : n_features - half] + 0.1
    elif kind == "sparse":
        features = np.maximum(features - 2.0, 0.0)
        features[:2, 0] = (1.0, 0.0)
    if dtype == "bool":
        return features > features.mean()
    if dtype == "int16":
        return np.round(4 * features).astype(np.int16)
    return features.astype(dtype)


def make_problem(seed: int, n_features: int, n_units: int, kind: str, dtype: str) -> Problem:
    rng = np.random.default_rng(seed)
    features = make_features(rng, n_features, kind, dtype)
    order = rng.permutation(N_IMAGES)
    split = ImageSplit(np.sort(order[:22]), order[22:])
    first = features.astype(np.float64)[:, : min(3, n_features)]
    signal = (first - first.mean(axis=0)) @ rng.standard_normal((first.shape[1], n_units))
    responses = signal + rng.standard_normal((N_IMAGES, n_units)) + rng.uniform(-5, 5, n_units)
    if n_units > 2:
        responses[:, 1] = 0.1
        responses[split.train[4], 2] = np.nan
    # At least one feature varies, whatever was drawn.
    if not (features[split.train] != features[split.train[0]]).any():
        features[split.train[0], 0] = 1 - features[split.train[1], 0]
    return Problem(features, responses, split)


problems = st.builds(
    make_problem,
    seed=SEEDS,
    n_features=st.sampled_from([1, 2, 8, 21, 22, 60, 300]),
    n_units=st.sampled_from([1, 2, 3, 9]),
    kind=st.sampled_from(AWKWARD),
    dtype=st.sampled_from(DTYPES),
)


def assert_predictions(found: Any, expected: Any, usable: Any, tolerance: float = 1e-8) -> None:
    """Compare up to a constant per unit; units without a usable training response are not predicted."""
    np.testing.assert_array_equal(found[:, ~usable], 0.0)
    found = found[:, usable] - found[:, usable].mean(axis=0)
    expected = expected.reshape(found.shape) - expected.reshape(found.shape).mean(axis=0)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@FEW
@given(problem=problems, alpha=st.sampled_from([1e-2, 1.0, 50.0]))
def test_ridge_is_that_of_scikit_learn_and_himalaya(problem: Problem, alpha: float) -> None:
    train, test, responses = problem.parts()
    found = problem.predict(mapping="ridge", ridge_alpha=alpha)
    if responses.shape[1] == 0:
        return
    mean = train.mean(axis=0)
    expected = Ridge(alpha, solver="svd").fit(train - mean, responses).predict(test - mean)
    assert_predictions(found, expected, problem.usable)
    other = HimalayaRidge(alpha, fit_intercept=True, solver_params={"warn": False})
    assert_predictions(found, other.fit(train - mean, responses).predict(test - mean), problem.usable)


def refitted_errors(train: Any, responses: Any, penalty: float) -> Any:
    """Sum of squared leave-one-out errors per unit, by leaving out one image after another."""
    total = np.zeros(responses.shape[1])
    for image in range(len(train)):
        kept = np.arange(len(train)) != image
        centred = train - train[kept].mean(axis=0)
        mean = responses[kept].mean(axis=0)
        kernel = centred[kept] @ centred[kept].T + penalty * np.eye(len(train) - 1)
        weights = np.linalg.solve(kernel, responses[kept] - mean)
        total += (mean + centred[image] @ centred[kept].T @ weights - responses[image]) ** 2
    return total


@settings(max_examples=10, deadline=None)
@given(problem=problems)
def test_cross_validated_ridge_takes_the_penalty_with_the_least_left_out_error(problem: Problem) -> None:
    train, test, responses = problem.parts()
    grid = np.array([1e-3, 0.3, 1.0, 30.0, 1e3])
    coordinates = split_coordinates(layer_coordinates("layer", problem.features), problem.split, 1)
    chosen = choose_penalties(problem.targets[0], coordinates, grid)[0]
    assert (chosen[~problem.usable] == 0).all()
    chosen = chosen[problem.usable]
    errors = np.stack([refitted_errors(train, responses, penalty) for penalty in grid])
    taken = np.take_along_axis(errors, chosen[None], axis=0)[0]
    np.testing.assert_allclose(taken, errors.min(axis=0), rtol=1e-7)
    found = problem.predict(mapping="ridge", ridge_alpha="cv", ridge_grid=tuple(grid))
    expected = np.zeros((len(test), responses.shape[1]))
    mean = train.mean(axis=0)
    for unit, index in enumerate(chosen):
        model = Ridge(grid[index], solver="svd").fit(train - mean, responses[:, unit])
        expected[:, unit] = model.predict(test - mean)
    assert_predictions(found, expected, problem.usable)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, n_features=st.sampled_from([5, 18, 80]))
def test_cross_validated_ridge_is_that_of_scikit_learn_and_himalaya(seed: int, n_features: int) -> None:
    problem = make_problem(seed, n_features, 7, "plain", "float64")
    train, test, responses = problem.parts()
    grid = tuple(np.logspace(-1, 3, 9))
    found = problem.predict(mapping="ridge", ridge_alpha="cv", ridge_grid=grid)
    theirs = RidgeCV(grid, alpha_per_target=True).fit(train, responses)
    assert_predictions(found, theirs.predict(test), problem.usable)
    himalaya = HimalayaRidgeCV(
        grid, fit_intercept=True, cv=len(train), solver_params={"local_alpha": True, "warn": False}
    )
    assert_predictions(found, himalaya.fit(train, responses).predict(test), problem.usable)


def test_equal_errors_take_the_first_penalty_of_the_grid() -> None:
    problem = make_problem(3, 20, 2, "plain", "float64")
    coordinates = split_coordinates(layer_coordinates("layer", problem.features), problem.split, 1)
    once = choose_penalties(problem.targets[0], coordinates, np.array([0.1, 1.0, 10.0]))
    twice = choose_penalties(problem.targets[0], coordinates, np.array([0.1, 0.1, 1.0, 1.0, 10.0, 10.0]))
    np.testing.assert_array_equal(twice, 2 * once)


def brute_force(train: Any, responses: Any) -> list[int]:
    """Go through the features one by one, correlating in extended precision."""
    chosen = []
    train = train.astype(np.longdouble)
    for column in responses.T.astype(np.longdouble):
        best, winner = -np.inf, -1
        centred = column - column.mean()
        for position, feature in enumerate(train.T):
            deviations = feature - feature.mean()
            if (feature == feature[0]).all():
                continue
            r = (deviations @ centred) / np.sqrt((deviations @ deviations) * (centred @ centred))
            if r > best + one_to_one.TIE:
                best, winner = float(r), position
        chosen.append(winner)
    return chosen


@settings(max_examples=40, deadline=None)
@given(problem=problems, blocks=st.sampled_from([(512, 256), (3, 2), (1, 1)]))
def test_one_to_one_takes_what_brute_force_takes(problem: Problem, blocks: tuple[int, int]) -> None:
    train, test, responses = problem.parts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_to_one, "BLOCK_SOURCES", blocks[0])
        patch.setattr(one_to_one, "BLOCK_TARGETS", blocks[1])
        found = problem.predict(mapping="one-to-one")
    expected = test[:, brute_force(train, responses)]
    assert_predictions(found, expected, problem.usable, tolerance=1e-12)


@FEW
@given(seed=SEEDS, offset=st.sampled_from([1e8, -1e12, 1e14]))
def test_one_to_one_sees_small_variations_beside_huge_offsets(seed: int, offset: float) -> None:
    problem = make_problem(seed, 200, 9, "plain", "float64")
    shifted = Problem(offset + np.round(4096 * problem.features), problem.responses, problem.split)
    plain = Problem(np.round(4096 * problem.features), problem.responses, problem.split)
    expected = plain.predict(mapping="one-to-one")[:, problem.usable]
    assert_predictions(shifted.predict(mapping="one-to-one"), expected, problem.usable, tolerance=1e-12)


@FEW
@given(seed=SEEDS, n_same=st.integers(2, 50))
def test_the_first_of_equal_features_is_taken(seed: int, n_same: int) -> None:
    """Features that agree on the training images only: test images tell which one was taken."""
    problem = make_problem(seed, 1, 1, "plain", "float64")
    features = np.repeat(problem.features, n_same, axis=1)
    rng = np.random.default_rng(seed)
    features[problem.split.test] = rng.standard_normal((problem.split.test.size, n_same))
    factors = rng.uniform(0.1, 10.0, n_same)  # a positive factor changes correlations by rounding only
    same = Problem(features * factors, problem.responses, problem.split)
    expected = same.features[problem.split.test, :1]
    assert_predictions(same.predict(mapping="one-to-one"), expected, problem.usable, tolerance=1e-12)


@FEW
@given(problem=problems)
def test_equal_features_are_kept_once(problem: Problem) -> None:
    kept = distinct_sources("layer", problem.features).candidates
    firsts = [
        position
        for position, column in enumerate(problem.features.T)
        if not any((column == earlier).all() for earlier in problem.features.T[:position])
    ]
    if kept is None:
        kept = np.arange(problem.features.shape[1])
    np.testing.assert_array_equal(problem.features[:, kept], problem.features[:, firsts])


@settings(max_examples=10, deadline=None)
@given(problem=problems, penalty=st.sampled_from([0.05, 0.5]))
def test_lasso_and_elastic_net_are_those_of_scikit_learn(problem: Problem, penalty: float) -> None:
    train, test, responses = problem.parts()
    for mapping, model in (
        ("lasso", Lasso(penalty, max_iter=10000)),
        ("elasticnet", ElasticNet(penalty, l1_ratio=0.3, max_iter=10000)),
    ):
        found = problem.predict(mapping=mapping, penalty=penalty, l1_ratio=0.3)
        expected = np.zeros((len(test), responses.shape[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for unit, column in enumerate(responses.T):
                expected[:, unit] = model.fit(train, column).predict(test)
        assert_predictions(found, expected, problem.usable, tolerance=1e-10)


@FEW
@given(
    seed=SEEDS,
    mapping=st.sampled_from(["ridge", "one-to-one", "lasso", "elasticnet"]),
    alpha=st.sampled_from([1.0, "cv"]),
    kind=st.sampled_from(AWKWARD),
)
def test_split_halves_score_alone_as_in_company(seed: int, mapping: str, alpha: Any, kind: str) -> None:
    """Neither the grouping of split halves nor another unit's gaps change a score by a single bit."""
    rng = np.random.default_rng(seed)
    features = make_features(rng, 30, kind, "float64")
    responses = features[:, :3] @ rng.standard_normal((3, 4)) + rng.standard_normal((6, N_IMAGES, 4))
    responses[1:, 5, 0] = np.nan
    options = ScoreSettings(mapping=mapping, ridge_alpha=alpha, penalty=0.1, n_splits=1, n_halves=6)
    weights, splits = split_half_weights(6, N_IMAGES, options), splits_of(N_IMAGES, options)
    row = MAPPINGS[mapping]
    prepared = row.prepare("layer", features, splits, options)
    together = row.score(responses, weights, splits, [prepared], options)[0]
    assert (together.exclusions[0, :, 0] == ExclusionReason.NO_TRIAL).all()
    for halving in range(len(weights)):
        alone = row.score(responses, weights[halving : halving + 1], splits, [prepared], options)[0]
        np.testing.assert_array_equal(alone.r_cross[0, 0], together.r_cross[0, halving])
        np.testing.assert_array_equal(alone.r_map[0, 0], together.r_map[0, halving])
