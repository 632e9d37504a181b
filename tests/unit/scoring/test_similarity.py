"""RSA and CKA: populations compared, dissimilarities, Gram matrices, pooled animals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import DataError, UsageError
from mvkit.scoring import ScoreSettings, gram, protocol, score_features
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import (
    ImageSplit,
    half_means,
    halves_of,
    image_splits,
    split_half_weights,
    splits_of,
    trial_orders,
)
from mvkit.scoring.results import POPULATION
from mvkit.scoring.similarity import (
    CKA,
    POOLED_SPECIMEN,
    RSA,
    SIMILARITIES,
    Similarity,
    pool_animals,
)

SETTINGS = {name: ScoreSettings(mapping=name, n_halves=6, n_splits=2) for name in SIMILARITIES}
ROWS: list[Similarity] = list(SIMILARITIES.values())


def rdm(patterns: Any) -> Any:
    return (1.0 - np.corrcoef(patterns))[np.triu_indices(len(patterns), k=1)]


def plain_rsa(first: Any, second: Any) -> float:
    return float(np.corrcoef(rdm(first), rdm(second))[0, 1])


def plain_cka(first: Any, second: Any) -> float:
    """Kornblith et al. 2019, by the covariances between units."""
    x, y = first - first.mean(axis=0), second - second.mean(axis=0)
    squares = [np.square(a.T @ b).sum() for a, b in ((x, y), (x, x), (y, y))]
    return float(squares[0] / np.sqrt(squares[1] * squares[2]))


PLAIN = {"rsa": plain_rsa, "cka": plain_cka}


def draw(n_units: int = 8, n_trials: int = 7, n_images: int = 24, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_images, 40))
    tuning = features[:, :5] @ rng.standard_normal((5, n_units)) + 3.0 * rng.standard_normal(n_units)
    return features, tuning + rng.standard_normal((n_trials, n_images, n_units))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("images", ["all", "test"])
def test_halves_that_are_compared(name: str, images: str) -> None:
    features, responses = draw()
    options = SETTINGS[name].model_copy(update={"similarity_images": images})
    splits = splits_of(24, options)
    weights = split_half_weights(7, 24, options).astype(bool)
    layer = MAPPINGS[name].prepare("a", features, splits, options)
    found = MAPPINGS[name].score(responses, weights, splits, [layer], options)[0]
    assert found.scores.shape == ({"all": 1, "test": 2}[images], 6, 1)
    for split, part in enumerate(splits):
        for halving in range(6):
            first, second = (responses[weights[halving, half]].mean(axis=0)[part.test] for half in (0, 1))
            r_target = PLAIN[name](first, second)
            r_cross = PLAIN[name](features[part.test], second)
            parts = (found.r_target, found.r_cross, found.r_map, found.scores)
            score = r_cross / np.sqrt(2 * r_target / (1 + r_target))
            for array, value in zip(parts, (r_target, r_cross, 1.0, score), strict=True):
                assert array[split, halving, 0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_halves_of_two_noisy_populations(name: str) -> None:
    options = SETTINGS[name]
    splits = splits_of(24, options)
    source, target = (draw(n, seed=seed)[1] for n, seed in ((5, 1), (9, 2)))
    orders = [trial_orders(7, n_halves=4, seed=seed) for seed in (0, 50)]
    means = [
        half_means(values, halves_of(order)) for values, order in zip((source, target), orders, strict=True)
    ]
    found = MAPPINGS[name].between(*means, splits, options)
    compare = PLAIN[name]
    for halving in range(4):
        (source_1, source_2), (target_1, target_2) = (half[halving] for half in means)
        r_map, r_target = compare(source_1, source_2), compare(target_1, target_2)
        r_cross = compare(source_1, target_2)
        assert found.r_map[0, halving, 0] == pytest.approx(r_map, abs=1e-12)
        assert found.r_target[0, halving, 0] == pytest.approx(r_target, abs=1e-12)
        assert found.r_cross[0, halving, 0] == pytest.approx(r_cross, abs=1e-12)
        if min(r_map, r_target) > 0.0:
            product = 4 * r_map * r_target / ((1 + r_map) * (1 + r_target))
            assert found.scores[0, halving, 0] == pytest.approx(r_cross / np.sqrt(product), abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_unit_without_a_valid_trial_is_left_out_of_both_halves(name: str) -> None:
    options = SETTINGS[name]
    splits = splits_of(24, options)
    features, responses = draw()
    weights = split_half_weights(7, 24, options).astype(bool)
    # Unit 2 knows image 5 from trial 0 only: in every pair of halves one half knows nothing.
    responses[1:, 5, 2] = np.nan
    # Unit 4 lacks image 9 in the trials of one half of the first halving.
    responses[weights[0, 1], 9, 4] = np.nan
    layer = MAPPINGS[name].prepare("a", features, splits, options)
    found = MAPPINGS[name].score(responses, weights, splits, [layer], options)[0]
    assert not found.exclusions.any()
    means = half_means(responses, weights)
    lost_units = [np.flatnonzero(np.isnan(mean).any(axis=(0, 1))).tolist() for mean in means]
    assert lost_units[0] == [2, 4] and [2] in lost_units
    for halving, lost in enumerate(lost_units):
        first, second = (np.delete(means[halving, half], lost, axis=1) for half in (0, 1))
        assert found.r_target[0, halving, 0] == pytest.approx(PLAIN[name](first, second), abs=1e-12)
        assert found.r_cross[0, halving, 0] == pytest.approx(PLAIN[name](features, second), abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_groups_of_split_halves_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SETTINGS[name].model_copy(update={"n_halves": 9})
    splits = splits_of(24, options)
    features, responses = draw()
    responses[3:, 5, 2] = np.nan
    weights = split_half_weights(7, 24, options).astype(bool)
    layer = MAPPINGS[name].prepare("a", features, splits, options)
    whole = MAPPINGS[name].score(responses, weights, splits, [layer], options)[0]
    means = half_means(responses, weights)
    pair = MAPPINGS[name].between(means, means[..., :5], splits, options)
    monkeypatch.setattr(protocol, "GROUP_BYTES", 2 * 8 * 24 * 24 * 2)
    again = MAPPINGS[name].score(responses, weights, splits, [layer], options)[0]
    pair_again = MAPPINGS[name].between(means, means[..., :5], splits, options)
    for part in ("r_cross", "r_map", "r_target", "scores", "exclusions", "missing_image"):
        np.testing.assert_array_equal(getattr(again, part), getattr(whole, part))
        np.testing.assert_array_equal(getattr(pair_again, part), getattr(pair, part))


def test_reasons_of_populations(recording: Callable[..., Any]) -> None:
    features, responses = draw(3)
    silent = responses.copy()
    silent[:, 6] = 1.5
    lost = responses.copy()
    lost[:, 4, :2] = np.nan
    constant = np.full_like(responses, 2.0)
    populations = {"one unit": responses[:, :, :1], "silent": silent, "lost": lost, "constant": constant}
    recordings = [recording(values, specimen=index) for index, values in enumerate(populations.values())]
    reasons = {}
    for name, options in SETTINGS.items():
        table = score_features({"a": features}, recordings, options).table()
        assert (table["unit_id"] == POPULATION).all()
        assert (table["score"].isna() == (table["reason"] != "")).all()
        reasons[name] = dict(zip(populations, table["reason"], strict=True))
    assert reasons["rsa"] == {
        "one unit": "few_units",
        "silent": "undefined_rdm",
        "lost": "no_trial",
        "constant": "undefined_rdm",
    }
    assert reasons["cka"] == {
        "one unit": "",
        "silent": "",
        "lost": "",
        "constant": "constant_response",
    }


@pytest.mark.parametrize("row", ROWS, ids=list(SIMILARITIES))
def test_reasons_between_populations(row: Similarity) -> None:
    options = SETTINGS["rsa" if row.title == "RSA" else "cka"]
    splits = splits_of(24, options)
    means = half_means(draw()[1], halves_of(trial_orders(7, n_halves=2)))
    nothing = means.copy()
    nothing[0, 1, 3] = np.nan
    nothing[0, 0, 7] = np.nan
    for source, target in ((nothing, means), (means, nothing)):
        found = row.between(source, target, splits, options)
        assert found.exclusions[0, :, 0].tolist() == [ExclusionReason.NO_TRIAL, ExclusionReason.NONE]
        assert np.isnan(found.scores[0, :, 0]).tolist() == [True, False]
        assert found.missing_image.tolist() == [3]


@pytest.mark.parametrize("name", SIMILARITIES)
def test_layers_that_do_not_vary_say_so(name: str, recording: Callable[..., Any]) -> None:
    features, responses = draw()
    layers = {"constant": np.ones((24, 30)), "good": features}
    table = score_features(layers, [recording(responses)], SETTINGS[name]).table()
    assert table["score"].isna().tolist() == [True, False]
    expected = {
        "rsa": "undefined dissimilarities: no image has two different features",
        "cka": "constant features: the layer does not vary over the images",
    }
    assert table["reason"].tolist() == ["unmapped", ""]
    assert table["detail"].tolist() == [expected[name], ""]
    assert table["map_reliability"].isna().tolist() == [True, False]
    assert table["raw_correlation"].isna().tolist() == [True, False]
    # The population's own reliability does not depend on the layer.
    assert table["response_correlation"][0] == table["response_correlation"][1]


@pytest.mark.parametrize(
    ("options", "n_images", "needed"),
    [
        ({"mapping": "rsa"}, 2, 3),
        ({"mapping": "cka"}, 2, 3),
        ({"mapping": "cka", "cka_debiased": True}, 3, 4),
        ({"mapping": "rsa", "similarity_images": "test"}, 4, 3),
    ],
)
def test_too_few_images_are_refused(options: dict[str, Any], n_images: int, needed: int) -> None:
    settings = ScoreSettings(**options)
    row = SIMILARITIES[settings.mapping]
    splits = splits_of(n_images, settings)
    features, responses = draw(n_images=n_images)
    with pytest.raises(UsageError, match=f"needs at least {needed}"):
        row.prepare("a", features, splits, settings)
    means = half_means(responses, halves_of(trial_orders(7, n_halves=2)))
    with pytest.raises(UsageError, match=f"needs at least {needed}"):
        row.between(means, means, splits, settings)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_pooled_populations_in_a_run(name: str, recording: Callable[..., Any]) -> None:
    features, first = draw(4, n_trials=7)
    _, second = draw(5, n_trials=4, seed=1)
    _, third = draw(3, n_trials=7, seed=2)
    animals = [
        recording(first, area="VISp", specimen=1),
        recording(third, area="VISl", specimen=1),
        recording(second, area="VISp", specimen=2),
    ]
    options = SETTINGS[name].model_copy(update={"population": "pooled"})
    scores = score_features({"a": features}, animals, options)
    table = scores.table()
    assert table["area"].tolist() == ["VISp", "VISl"]
    assert table["specimen"].tolist() == [0, 0]
    by_animal = score_features({"a": features}, animals, SETTINGS[name])
    assert by_animal.table()["specimen"].tolist() == [1, 1, 2]
    # An area with one animal is the same population either way.
    assert table["score"][1] == by_animal.columns["score"][1]
    alone = score_features({"a": features}, pool_animals(animals)[:1], SETTINGS[name])
    assert table["score"][0] == alone.columns["score"][0]
    # What was recorded is the same; how it was taken together is the settings' affair.
    assert scores.context["responses_sha256"] == by_animal.context["responses_sha256"]
    assert scores.digest() != by_animal.digest()


def test_maps_are_never_pooled(recording: Callable[..., Any]) -> None:
    features, responses = draw(4)
    options = ScoreSettings(population="pooled", n_components=3, n_splits=1, n_halves=2)
    table = score_features({"a": features}, [recording(responses, specimen=9)], options).table()
    assert table["specimen"].tolist() == [9] * 4


@pytest.mark.parametrize("name", SIMILARITIES)
def test_worker_processes_change_no_bit(name: str, recording: Callable[..., Any]) -> None:
    features, responses = draw(40)
    recordings = [recording(responses[:, :, :n], specimen=n) for n in (40, 7)]
    layers = {"a": features, "b": features[:, :3], "c": np.exp(features)}
    one, two = (score_features(layers, recordings, SETTINGS[name], n_jobs=n_jobs) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one.by_fold, two.by_fold)
    assert np.isfinite(one.by_fold).all()


RNG = np.random.default_rng(0)
ALL = [ImageSplit(np.empty(0, dtype=np.int64), np.arange(20))]


def test_populations_without_the_units_that_are_not_present() -> None:
    patterns = RNG.poisson(4.0, (3, 20, 9)).astype(float)
    present = np.ones((3, 9), dtype=bool)
    present[1, [0, 4]] = False
    patterns[1, :, [0, 4]] = 0.0
    found = RSA().population_matrices(patterns, present)
    for item in range(3):
        np.testing.assert_allclose(
            found[item], 1.0 - np.corrcoef(patterns[item][:, present[item]]), rtol=0, atol=1e-14
        )


def test_a_constant_unit_belongs_to_the_patterns() -> None:
    patterns = RNG.standard_normal((1, 20, 6))
    with_constant = np.concatenate([patterns, np.full((1, 20, 1), 5.0)], axis=2)
    found = RSA().population_matrices(with_constant, np.ones((1, 7), dtype=bool))[0]
    np.testing.assert_allclose(found, 1.0 - np.corrcoef(with_constant[0]), rtol=0, atol=1e-14)
    without = RSA().population_matrices(patterns, np.ones((1, 6), dtype=bool))[0]
    assert np.abs(found - without).max() > 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_an_image_to_which_all_units_respond_alike(value: float) -> None:
    patterns = RNG.standard_normal((1, 20, 7))
    patterns[0, 3] = value
    found = RSA().population_matrices(patterns, np.ones((1, 7), dtype=bool))[0]
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()
    assert np.isfinite(np.delete(np.delete(found, 3, 0), 3, 1)).all()


@pytest.mark.parametrize("block", [7, 64, 8192])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_layers_in_blocks(block: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = (1000.0 + 30.0 * RNG.standard_normal((20, 300))).astype(dtype)
    splits = [*ALL, *image_splits(20, n_splits=2, train_fraction=0.5)]
    exact = 1.0 - np.corrcoef(features.astype(np.float64))
    for found, split in zip(RSA().layer_matrices("a", features, splits), splits, strict=True):
        np.testing.assert_allclose(found, exact[np.ix_(split.test, split.test)], rtol=0, atol=1e-12)


def test_why_layers_have_no_dissimilarities() -> None:
    features = RNG.standard_normal((20, 30))
    one = RSA().layer_matrices("one feature", features[:, :1], ALL)[0]
    assert RSA().why_undefined(one) == "undefined dissimilarities: no image has two different features"
    features[[2, 5]] = 0.3  # whose mean over 30 features is not 0.3 in float64
    two = RSA().layer_matrices("silent", features, ALL)[0]
    assert RSA().why_undefined(two) == "undefined dissimilarities: 2 images have no two different features"
    equal = RSA().layer_matrices("one-hot", np.eye(20), ALL)[0]
    assert not RSA().vectors(equal[None], ScoreSettings(mapping="rsa")).any()
    assert RSA().why_undefined(equal) == "all dissimilarities are equal"


@pytest.mark.parametrize("features", [np.ones(20), np.full((20, 2), np.nan), np.full((20, 2), "a")])
def test_features_that_are_no_matrix_of_numbers(features: np.ndarray) -> None:
    with pytest.raises(DataError, match="layer 'bad'"):
        RSA().layer_matrices("bad", features, ALL)


def test_rounding_errors_do_not_order_equal_dissimilarities() -> None:
    """Two units: every pattern correlates by 1 or -1 with every other one, up to rounding."""
    patterns = RNG.standard_normal((1, 20, 2)) / 3.0
    rising = patterns[0, :, 1] > patterns[0, :, 0]
    rows, columns = np.triu_indices(20, k=1)
    opposed = (rising[rows] != rising[columns]).astype(float)
    matrices = RSA().population_matrices(patterns, np.ones((1, 2), dtype=bool))
    vector = RSA().vectors(matrices, ScoreSettings(mapping="rsa", rsa_comparison="spearman"))[0]
    assert np.unique(vector).size == 2
    assert np.corrcoef(vector, opposed)[0, 1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("comparison", ["pearson", "spearman", "cosine"])
def test_nothing_but_rounding_errors_is_nothing(comparison: str) -> None:
    """Two units, the second always the stronger one: all dissimilarities are zero."""
    patterns = np.sort(RNG.standard_normal((1, 20, 2)), axis=2)
    matrices = RSA().population_matrices(patterns, np.ones((1, 2), dtype=bool))
    assert not RSA().vectors(matrices, ScoreSettings(mapping="rsa", rsa_comparison=comparison)).any()


RNG_CKA = np.random.default_rng(0)
# CKA does not ask which units are present: those that are not are zero.
PRESENT = np.ones((1, 1), dtype=bool)
ALL_CKA = [ImageSplit(np.empty(0, dtype=np.int64), np.arange(20))]


@pytest.mark.parametrize("block", [7, 8192])
@pytest.mark.parametrize("n_features", [1, 15, 300])
def test_layers_are_centred_over_the_test_images(
    block: int, n_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "BLOCK_FEATURES", block)
    features = (1e4 + RNG_CKA.standard_normal((20, n_features))).astype(np.float32)
    splits = [*ALL_CKA, *image_splits(20, n_splits=2, train_fraction=0.4)]
    for found, split in zip(CKA().layer_matrices("a", features, splits), splits, strict=True):
        exact = features[split.test].astype(np.float64)
        exact -= exact.mean(axis=0)
        np.testing.assert_allclose(found, exact @ exact.T, rtol=0, atol=1e-9 * n_features)


def test_absent_and_constant_units_add_nothing() -> None:
    patterns = RNG_CKA.standard_normal((1, 20, 6))
    more = np.concatenate([patterns, np.zeros((1, 20, 1)), np.full((1, 20, 1), 1e6 / 3)], axis=2)
    expected, found = (CKA().population_matrices(values, PRESENT) for values in (patterns, more))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_products_of_u_centred_matrices_are_the_unbiased_estimator() -> None:
    """Song et al. 2012, the estimator as a sum of three terms over zero-diagonal Gram matrices."""
    settings = ScoreSettings(mapping="cka", cka_debiased=True)
    n = 12
    first, second = RNG_CKA.standard_normal((n, 5)), RNG_CKA.standard_normal((n, 30))
    k, m = first @ first.T, second @ second.T
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(m, 0.0)
    ones = np.ones(n)
    hsic = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    hsic -= 2.0 / (n - 2) * (ones @ k @ m @ ones)
    grams = [CKA().population_matrices(values[None], PRESENT) for values in (first, second)]
    vectors = [CKA().vectors(gram, settings)[0] for gram in grams]
    assert vectors[0] @ vectors[1] == pytest.approx(hsic, rel=1e-12)


def test_unrelated_populations_are_alike_only_with_bias() -> None:
    """30 images, 200 and 300 units: biased CKA of independent noise is near 1, debiased CKA near 0."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        source = rng.standard_normal((1, 2, 30, 200))
        target = rng.standard_normal((1, 2, 30, 300))
        for debiased, values in found.items():
            settings = ScoreSettings(mapping="cka", cka_debiased=debiased)
            parts = MAPPINGS["cka"].between(source, target, splits_of(30, settings), settings)
            values.append(float(parts.r_cross[0, 0, 0]))
    assert np.mean(found[False]) > 0.8
    # The cosine of two independent vectors with n (n - 3) / 2 = 405 degrees of freedom.
    assert abs(np.mean(found[True])) < 4 / np.sqrt(405 * 30)
    assert np.std(found[True]) == pytest.approx(1 / np.sqrt(405), rel=0.5)


def test_why_layers_have_no_gram_matrix() -> None:
    debiased = ScoreSettings(mapping="cka", cka_debiased=True)
    constant = CKA().layer_matrices("constant", np.full((20, 30), 0.1), ALL_CKA)[0]
    assert not constant.any()
    assert CKA().why_undefined(constant) == "constant features: the layer does not vary over the images"
    equal = CKA().layer_matrices("one-hot", np.eye(20), ALL_CKA)[0]
    assert CKA().vectors(equal[None], ScoreSettings(mapping="cka")).any()
    assert not CKA().vectors(equal[None], debiased).any()
    assert CKA().why_undefined(equal) == "all distances between images are equal"


RNG_POOLING = np.random.default_rng(0)


def test_units_of_an_area_stand_side_by_side(recording: Callable[..., Any]) -> None:
    first, second, third = (RNG_POOLING.random((6, 9, n)).astype(np.float32) for n in (3, 2, 4))
    animals = [
        recording(first, area="VISl", specimen=5),
        recording(second, area="VISp", specimen=5),
        recording(third, area="VISl", specimen=6),
    ]
    lateral, primary = pool_animals(animals)
    assert (lateral.area, primary.area) == ("VISl", "VISp")
    assert lateral.specimen == primary.specimen == POOLED_SPECIMEN
    np.testing.assert_array_equal(lateral.responses, np.concatenate([first, third], axis=2))
    np.testing.assert_array_equal(lateral.unit_ids, np.r_[animals[0].unit_ids, animals[2].unit_ids])
    np.testing.assert_array_equal(primary.responses, second)
    assert lateral.responses.dtype == np.float32


def test_trials_are_aligned_by_position(recording: Callable[..., Any]) -> None:
    few, many = RNG_POOLING.random((4, 9, 3)), RNG_POOLING.random((7, 9, 2))
    (pool,) = pool_animals([recording(few, specimen=1), recording(many, specimen=2)])
    np.testing.assert_array_equal(pool.responses[:4, :, :3], few)
    assert np.isnan(pool.responses[4:, :, :3]).all()
    np.testing.assert_array_equal(pool.responses[:, :, 3:], many)
    members = halves_of(trial_orders(7, n_halves=3))
    means = half_means(pool.responses, members)
    np.testing.assert_allclose(means[..., 3:], half_means(many, members), rtol=1e-14)
    np.testing.assert_allclose(means[..., :3], half_means(few, members[:, :, :4]), rtol=1e-14)
