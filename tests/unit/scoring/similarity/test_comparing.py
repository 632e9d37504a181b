"""Halvings of populations: which halves are compared, who is left out, and why there is no score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, protocol, score_features
from mvkit.scoring.correlation import Drop
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import half_means, halves_of, split_half_weights, splits_of, trial_orders
from mvkit.scoring.results import POPULATION
from mvkit.scoring.similarity import SIMILARITIES, Similarity, pool_animals

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
    # Unit 2 knows image 5 from trial 0 only: in every halving one half knows nothing.
    responses[1:, 5, 2] = np.nan
    # Unit 4 lacks image 9 in the trials of one half of the first halving.
    responses[weights[0, 1], 9, 4] = np.nan
    layer = MAPPINGS[name].prepare("a", features, splits, options)
    found = MAPPINGS[name].score(responses, weights, splits, [layer], options)[0]
    assert not found.drops.any()
    means = half_means(responses, weights)
    lost_units = [np.flatnonzero(np.isnan(mean).any(axis=(0, 1))).tolist() for mean in means]
    assert lost_units[0] == [2, 4] and [2] in lost_units
    for halving, lost in enumerate(lost_units):
        first, second = (np.delete(means[halving, half], lost, axis=1) for half in (0, 1))
        assert found.r_target[0, halving, 0] == pytest.approx(PLAIN[name](first, second), abs=1e-12)
        assert found.r_cross[0, halving, 0] == pytest.approx(PLAIN[name](features, second), abs=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_groups_of_halvings_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for part in ("r_cross", "r_map", "r_target", "scores", "drops", "missing_image"):
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
    undefined = "undefined dissimilarities (all units respond alike to an image, or all are equal)"
    assert reasons["rsa"] == {
        "one unit": "fewer than two units in all halvings",
        "silent": f"{undefined} in all halvings",
        "lost": "no valid trial in one half (image 4) in all halvings",
        "constant": f"{undefined} in all halvings",
    }
    assert reasons["cka"] == {
        "one unit": "",
        "silent": "",
        "lost": "",
        "constant": "constant response in all halvings",
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
        assert found.drops[0, :, 0].tolist() == [Drop.NO_TRIAL, Drop.KEPT]
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
    assert table["reason"].tolist() == [expected[name], ""]
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
