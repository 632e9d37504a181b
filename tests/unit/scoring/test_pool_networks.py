"""Networks that differ in their seed, pooled as one model: intervals over networks and animals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mvkit.errors import UsageError
from mvkit.scoring import Scores, ScoreSettings, compare_models, pool_networks, read_scores, save_scores
from mvkit.scoring.comparison import fraction_of_ceiling
from mvkit.scoring.intervals import median_interval

ScoresOf = Callable[..., Scores]
UNITS = [(area, animal, unit) for area in ("VISp", "VISl") for animal in range(5) for unit in range(4)]
NAN = math.nan


def networks_of(scores_of: ScoresOf, levels: list[float], *, seed: int = 0) -> dict[str, Scores]:
    """Scores of networks of two layers and two splits; each network has a level of its own."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.4, 0.05, (2, 2, len(UNITS)))
    return {f"net{index}": scores_of(UNITS, base + level) for index, level in enumerate(levels)}


def test_scores_are_means_and_what_a_network_lacks_is_missing(scores_of: ScoresOf) -> None:
    first = scores_of(UNITS[:4], [[0.1, 0.2, 0.3, NAN]], context={"dataset": "toy", "weights_source": "a"})
    second = scores_of(UNITS[:4], [[0.3, 0.2, 0.5, 0.6]], context={"dataset": "toy", "weights_source": "b"})
    pooled = pool_networks({"one": first, "two": second}, "both")
    np.testing.assert_allclose(pooled.columns["score"], [0.2, 0.2, 0.4, NAN])
    assert pooled.context["model"] == "both"
    assert pooled.context["weights_source"] == "2 networks: one, two"
    assert pooled.context["networks"] == [{"name": "one", "weights": "a"}, {"name": "two", "weights": "b"}]
    assert pooled.digest() == first.digest()
    np.testing.assert_array_equal(pooled.networks[:, 0], [first.columns["score"], second.columns["score"]])


def test_one_layer_is_chosen_for_all_networks(scores_of: ScoresOf) -> None:
    # Alone the first network prefers layer0, the second layer1, by more.
    first = scores_of(UNITS, np.array([[0.5], [0.4]]) + np.zeros((2, len(UNITS))))
    second = scores_of(UNITS, np.array([[0.2], [0.6]]) + np.zeros((2, len(UNITS))))
    pooled = pool_networks({"a": first, "b": second}, "both")
    units = pooled.chosen_units("paper")["VISp"]
    assert units.layer == pooled.layers[1]
    np.testing.assert_allclose(units.score, 0.5)
    np.testing.assert_allclose(units.networks, [[0.4] * 20, [0.6] * 20])


def test_equal_networks_change_no_interval_and_different_ones_widen_it(scores_of: ScoresOf) -> None:
    same = networks_of(scores_of, [0.0, 0.0, 0.0])
    alone = same["net0"].best_layers()
    pooled = pool_networks(same, "all").best_layers()
    assert pooled["median"].tolist() == pytest.approx(alone["median"].tolist(), abs=1e-12)
    # t of Welch and Satterthwaite, without any variance of networks, is that of the animals.
    np.testing.assert_allclose(pooled[["low", "high"]], alone[["low", "high"]], atol=1e-9)
    differing = pool_networks(networks_of(scores_of, [-0.1, 0.0, 0.1]), "all")
    for choice in (differing.best_layers(), differing.held_out_layers()):
        assert (choice["high"] - choice["low"] > 3 * (alone["high"] - alone["low"])).all()
    summary = differing.summary()
    assert (summary["low"] < summary["median"]).all() and (summary["median"] < summary["high"]).all()


def test_with_animals_alike_the_interval_is_the_t_interval_of_the_networks() -> None:
    animals = np.repeat(np.arange(6), 10)
    levels = np.array([0.0, 0.1, 0.3, 0.4])
    deviations = np.repeat((levels - levels.mean())[:, None], 60, axis=1)
    found = median_interval(np.full(60, 0.2), animals, ScoreSettings(n_resamples=400), networks=[deviations])
    expected = 2 * stats.t.ppf(0.975, 3) * stats.sem(levels)
    assert found.high - found.low == pytest.approx(expected, rel=1e-9)
    assert found.freedom == pytest.approx(3.0)


def test_comparisons_and_fractions_hold_the_variance_of_networks(scores_of: ScoresOf) -> None:
    nets = networks_of(scores_of, [-0.1, 0.0, 0.1])
    pooled, other = pool_networks(nets, "all"), networks_of(scores_of, [-0.05], seed=1)["net0"]
    single = compare_models({"one": nets["net1"], "other": other}).pairs[-1]
    pair = compare_models({"all": pooled, "other": other}).pairs[-1]
    assert pair.difference == pytest.approx(single.difference, abs=1e-9)
    assert pair.high - pair.low > 3 * (single.high - single.low)
    assert single.resolved and not pair.resolved
    # Two groups of networks have a variance each.
    both = compare_models(
        {"all": pooled, "others": pool_networks(networks_of(scores_of, [-0.1, 0.1], seed=1), "o")}
    )
    assert both.pairs[-1].high - both.pairs[-1].low > pair.high - pair.low
    ceiling = scores_of(UNITS, [np.full(len(UNITS), 0.8)])
    of_one = fraction_of_ceiling(nets["net1"], ceiling).iloc[-1]
    of_all = fraction_of_ceiling(pooled, ceiling).iloc[-1]
    assert of_all["high"] - of_all["low"] > 3 * (of_one["high"] - of_one["low"])


def test_they_are_read_back_with_their_networks(scores_of: ScoresOf, tmp_path: Path) -> None:
    pooled = pool_networks(networks_of(scores_of, [-0.1, 0.0, 0.1]), "all")
    save_scores(pooled, tmp_path)
    again = read_scores(tmp_path)
    np.testing.assert_array_equal(again.networks, pooled.networks)
    np.testing.assert_allclose(again.held_out_layers()["low"], pooled.held_out_layers()["low"], rtol=1e-12)
    part = again.in_areas(["VISl"])
    assert part.networks.shape == (3, 3, 40) and part.areas == ("VISl",)
    assert part.best_layers()["low"].iloc[0] == pytest.approx(pooled.best_layers()["low"].iloc[1])


def test_what_cannot_be_pooled_is_refused(scores_of: ScoresOf) -> None:
    nets = networks_of(scores_of, [0.0, 0.1])
    with pytest.raises(UsageError, match="pooling as 'x' needs two networks or more, got net0 alone"):
        pool_networks({"net0": nets["net0"]}, "x")
    other = dataclasses.replace(nets["net1"], layers=("a", "b"))
    with pytest.raises(UsageError, match="net0 and net1 cannot be pooled: their layers differ"):
        pool_networks({"net0": nets["net0"], "net1": other}, "x")
    fewer = scores_of(UNITS[:-1], np.zeros((2, 2, len(UNITS) - 1)))
    with pytest.raises(UsageError, match="other units or protocol"):
        pool_networks({"net0": nets["net0"], "net1": fewer}, "x")


@pytest.mark.parametrize("n_networks", [3, 6])
def test_intervals_hold_the_truth_over_networks_and_animals(n_networks: int) -> None:
    # Networks and animals have effects of their own. The truth is the median over both populations, 0.
    rng = np.random.default_rng(n_networks)
    settings = ScoreSettings(n_resamples=200)
    hits = hits_without = 0
    for _ in range(200):
        sizes = np.round(np.exp(rng.uniform(np.log(10), np.log(60), 6))).astype(int)
        animals = np.repeat(np.arange(6), sizes)
        units = 0.1 * rng.normal(size=len(animals)) + 0.03 * rng.normal(size=6)[animals]
        networks = (
            units
            + 0.06 * rng.normal(size=(n_networks, 1))
            + 0.05 * rng.normal(size=(n_networks, len(animals)))
        )
        means = networks.mean(axis=0)
        found = median_interval(means, animals, settings, networks=[networks - means])
        hits += found.low <= 0.0 <= found.high
        without = median_interval(means, animals, settings)
        hits_without += without.low <= 0.0 <= without.high
    # Binomial(200, .95): 3 standard deviations are .046; animals alone cover 70 to 88 %.
    assert 0.904 <= hits / 200 <= 0.996
    assert hits_without < hits - 15
