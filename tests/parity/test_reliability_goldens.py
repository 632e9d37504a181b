"""Reliabilities against the 2020 implementation (goldens section 4, ``reliability.npz``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring import ScoreSettings, response_reliability, split_half_reliability
from mvkit.scoring.correlation import whole_reliability
from mvkit.scoring.protocol import draw_split_half, split_half_weights, trial_orders, trial_orders_in_sequence
from mvkit.scoring.reliability import correlate_sets, split_half_moments

TOLERANCE = 1e-9

#: Every key of the file -> the test that compares it; those of RSA are compared with the similarities.
COMPARED = {
    r"[^|]+\|pearsonr\|per_(trial_seed|unit_seed0)": "test_both_ways_of_drawing",
    r"[^|]+\|pearsonr\|per_unit_seed0\|(mean|std)": "test_mean_and_std_over_split_halves",
    r"per_unit_seed0_trial_perm": "test_sequence_of_shuffles",
    r"mode\|(bootstrap|bootstrap_assume_true_ctr)(\|draws_of_unit0)?": "test_modes",
    r"mode\|spearman_brown_subsample_half(_replacement)?(\|draws_of_unit0)?": "test_modes",
    r"mode\|spearman_brown_split_half_denominator(\|draws_of_unit0)?": "test_uncorrected_split_half",
    r"async\|(pearsonr|trial_perms)": "test_own_draw_for_every_image",
    r"spearmanr": "test_rank_correlation",
    r"odd\d+\|(pearsonr|trial_perm)": "test_odd_number_of_trials",
    r"start_seed\d+\|(pearsonr|trial_perm)": "test_other_first_seed",
    r"[^|]+\|rsa\|per_trial_seed": "test_rsa_goldens.py",
}


@pytest.fixture(scope="module")
def responses(goldens: Path) -> dict[str, Any]:
    return dict(np.load(goldens / "neural" / "responses.npz"))


@pytest.fixture(scope="module")
def expected(goldens: Path) -> dict[str, Any]:
    return dict(np.load(goldens / "neural" / "reliability.npz"))


@pytest.fixture(scope="module")
def first(responses: dict[str, Any]) -> Any:
    """Responses of the first animal, which all keys without a name of their own are about."""
    return next(iter(responses.values()))


def compare(found: Any, expected: Any, key: str) -> None:
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=key)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=key)


def matching(expected: dict[str, Any], pattern: str) -> dict[str, re.Match[str]]:
    found = {key: match for key in expected if (match := re.fullmatch(pattern, key))}
    assert found, f"no key of the file matches {pattern}"
    return found


def counted(draws: Any, n_trials: int) -> Any:
    """How often each trial was drawn: (n_sets, n_trials)."""
    return np.stack([np.bincount(draw, minlength=n_trials) for draw in draws])


def test_every_key_is_compared_by_some_test(expected: dict[str, Any]) -> None:
    for key in expected:
        assert sum(re.fullmatch(pattern, key) is not None for pattern in COMPARED) == 1, key
    for pattern, test in COMPARED.items():
        matching(expected, pattern)
        assert test in globals() or (Path(__file__).parent / test).is_file(), test


@pytest.mark.parametrize("draws", ["per_trial_seed", "per_unit_seed0"])
def test_both_ways_of_drawing(responses: dict[str, Any], expected: dict[str, Any], draws: Any) -> None:
    for key, match in matching(expected, rf"([^|]+)\|pearsonr\|{draws}").items():
        n_halves = len(expected[key])
        compare(
            split_half_reliability(responses[match[1]], n_halves=n_halves, draws=draws), expected[key], key
        )
        if draws == "per_trial_seed":
            settings = ScoreSettings(n_halves=n_halves)
            compare(response_reliability(responses[match[1]], settings), expected[key], key)


@pytest.mark.parametrize("moment", ["mean", "std"])
def test_mean_and_std_over_split_halves(
    responses: dict[str, Any], expected: dict[str, Any], moment: str
) -> None:
    orders = expected["per_unit_seed0_trial_perm"]
    weights = np.zeros((len(orders), 2, orders.shape[1]), dtype=bool)
    for halving, order in enumerate(orders):
        weights[halving, 0, order[: order.size // 2]] = True
        weights[halving, 1, order[order.size // 2 :]] = True
    for key, match in matching(expected, rf"([^|]+)\|pearsonr\|per_unit_seed0\|{moment}").items():
        compare(getattr(split_half_moments(responses[match[1]], weights), moment), expected[key], key)


def test_sequence_of_shuffles(expected: dict[str, Any]) -> None:
    orders = expected["per_unit_seed0_trial_perm"]
    np.testing.assert_array_equal(trial_orders_in_sequence(orders.shape[1], n_halves=len(orders)), orders)


#: Name in the goldens -> the setting; which stored draws are set 1 and set 2 of a pair (None: all trials);
#: and which row and column of the grid of pairs the first settings-driven halving is.
MODES: dict[str, tuple[Any, slice, slice | None, tuple[int, int]]] = {
    "bootstrap": ("bootstrap", slice(0, None, 2), slice(1, None, 2), (0, 0)),
    "bootstrap_assume_true_ctr": ("bootstrap-full-mean", slice(None), None, (0, 0)),
    "spearman_brown_subsample_half": ("subsample-half", slice(None), slice(None), (1, 0)),
    "spearman_brown_subsample_half_replacement": (
        "subsample-half-replacement",
        slice(0, None, 2),
        slice(1, None, 2),
        (0, 0),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(first: Any, expected: dict[str, Any], mode: str) -> None:
    halving, ones, others, pair = MODES[mode]
    draws, values = expected[f"mode|{mode}|draws_of_unit0"], expected[f"mode|{mode}"]
    n_trials = first.shape[0]
    settings = ScoreSettings(halving=halving, n_halves=1)
    if halving == "subsample-half":  # stored as whole shuffles, whose two halves go to the two sets
        sets = counted(draws[:, : n_trials // 2], n_trials), counted(draws[:, n_trials // 2 :], n_trials)
    else:
        chosen = counted(draws[ones], n_trials)
        sets = chosen, np.ones_like(chosen) if others is None else counted(draws[others], n_trials)
    # The draws of the first unit serve every unit.
    pairs = np.array([(one, other) for other in sets[1] for one in sets[0]])
    grid = whole_reliability(correlate_sets(first, pairs), settings).reshape(len(sets[1]), len(sets[0]), -1)
    compare(grid.reshape(values.shape), values, mode)
    # One generator draws pair after pair.
    generator = np.random.RandomState(0)
    n_sets = len(sets[0]) // (2 if halving == "subsample-half" else 1)
    for index, drawn in enumerate(draw_split_half(generator, n_trials, halving) for _ in range(n_sets)):
        places = (2 * index, 2 * index + 1) if halving == "subsample-half" else (index, index)
        for which in range(2):
            np.testing.assert_array_equal(drawn[which], sets[which][places[which]], err_msg=f"{mode} {index}")
    # What the settings give is the first of these pairs.
    compare(response_reliability(first, settings)[0], values.reshape(grid.shape)[pair], mode)


def test_uncorrected_split_half(first: Any, expected: dict[str, Any]) -> None:
    key = "mode|spearman_brown_split_half_denominator"
    draws, values = expected[f"{key}|draws_of_unit0"], expected[key]
    n_trials = first.shape[0]
    np.testing.assert_array_equal(trial_orders_in_sequence(n_trials, n_halves=len(draws)), draws)
    halves = counted(draws[:, : n_trials // 2], n_trials), counted(draws[:, n_trials // 2 :], n_trials)
    compare(correlate_sets(first, np.stack(halves, axis=1)), values, key)


def test_own_draw_for_every_image(first: Any, expected: dict[str, Any]) -> None:
    orders = expected["async|trial_perms"]
    n_halves, n_images, n_trials = orders.shape
    settings = ScoreSettings(n_halves=n_halves, synchronous=False)
    weights = split_half_weights(n_trials, n_images, settings)
    for halving in range(n_halves):
        for image in range(n_images):
            order = orders[halving, image]
            halves = counted([order[: n_trials // 2], order[n_trials // 2 :]], n_trials)
            np.testing.assert_array_equal(weights[halving, :, :, image], halves)
    compare(response_reliability(first, settings), expected["async|pearsonr"], "async")


def test_rank_correlation(first: Any, expected: dict[str, Any]) -> None:
    settings = ScoreSettings(n_halves=len(expected["spearmanr"]), correlation="spearman")
    compare(response_reliability(first, settings), expected["spearmanr"], "spearmanr")


def test_odd_number_of_trials(first: Any, expected: dict[str, Any]) -> None:
    for key, match in matching(expected, r"odd(\d+)\|trial_perm").items():
        n_halves, n_trials = expected[key].shape
        assert n_trials == int(match[1]) and n_trials % 2 == 1
        np.testing.assert_array_equal(trial_orders(n_trials, n_halves=n_halves), expected[key])
        values, wanted = first[:n_trials], expected[f"odd{n_trials}|pearsonr"]
        compare(split_half_reliability(values, n_halves=n_halves), wanted, key)
        compare(response_reliability(values, ScoreSettings(n_halves=n_halves)), wanted, key)


def test_other_first_seed(first: Any, expected: dict[str, Any]) -> None:
    for key, match in matching(expected, r"start_seed(\d+)\|trial_perm").items():
        seed = int(match[1])
        n_halves, n_trials = expected[key].shape
        np.testing.assert_array_equal(trial_orders(n_trials, n_halves=n_halves, seed=seed), expected[key])
        wanted = expected[f"start_seed{seed}|pearsonr"]
        compare(split_half_reliability(first, n_halves=n_halves, seed=seed), wanted, key)
        compare(response_reliability(first, ScoreSettings(n_halves=n_halves, halves_seed=seed)), wanted, key)
