"""Scores from one animal, or from all others, against the 2020 implementation (goldens section 4).

What is compared is whatever keys the file holds; animals, counts and seeds are taken from the goldens.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from mvkit.scoring.ceilings import PairDraws, PairSize, draw_pair, score_pair
from mvkit.scoring.protocol import halves_of, splits_of
from mvkit.scoring.settings import ScoreSettings

FILE = "neural/animal_to_animal.npz"
ON_A_SPLIT = re.compile(r"(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)\|(?P<map>\w+)\|split(?P<split>\d+)")
ALL_IMAGES = re.compile(r"(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)\|(?P<map>\w+)\|all")
SUB_SAMPLED = re.compile(r"(?P<case>subsample(?P<kept>\d+)_nss(?P<n_subsamples>\d+)_niter(?P<n_halves>\d+))")
SUB_SAMPLED_SCORES = re.compile(SUB_SAMPLED.pattern + r"\|(?P<map>(?!draw)\w+)")
SUB_SAMPLED_DRAW = re.compile(SUB_SAMPLED.pattern + r"\|draw(?P<number>\d+)")
DRAWS = re.compile("draws")


def test_every_key_is_compared(interanimal: Any) -> None:
    interanimal.assert_complete(FILE, [ON_A_SPLIT, ALL_IMAGES, SUB_SAMPLED_SCORES, SUB_SAMPLED_DRAW, DRAWS])


def test_both_animals_of_a_pair_are_halved_as_stored(interanimal: Any) -> None:
    stored = interanimal.expected(FILE)["draws"]
    n_halves, _, n_trials = stored.shape
    drawn = draw_pair(PairSize(n_trials, n_trials, 10, 5, 5), ScoreSettings(n_halves=n_halves))
    np.testing.assert_array_equal(drawn.target, halves_of(stored[:, 0]))
    np.testing.assert_array_equal(drawn.source, halves_of(stored[:, 1]))


def test_scores_from_one_animal_and_from_the_others(interanimal: Any) -> None:
    compared = set()
    for key, expected in interanimal.expected(FILE).items():
        match = ON_A_SPLIT.fullmatch(key)
        if match is None:
            continue
        options, tolerance = interanimal.options(match["map"])
        number = int(match["split"])
        settings = ScoreSettings(parity=True, n_splits=number + 1, n_halves=len(expected), **options)
        target, source = interanimal.of_pair(match)
        split = splits_of(target.shape[1], settings)[number]
        draws = draw_pair(interanimal.size(target, source), settings)
        found = score_pair(target, source, draws, [split], settings)
        assert found.n_source_units == source.shape[2]
        interanimal.assert_equal(found.halves.scores[0], expected, tolerance, key)
        compared.add(match["map"].rstrip("0123456789"))
    assert compared == {"pls", "corr"}


def test_representational_similarity_of_animals(interanimal: Any) -> None:
    compared = 0
    for key, expected in interanimal.expected(FILE).items():
        match = ALL_IMAGES.fullmatch(key)
        if match is None:
            continue
        options, tolerance = interanimal.options(match["map"])
        settings = ScoreSettings(parity=True, n_halves=len(expected), **options)
        target, source = interanimal.of_pair(match)
        draws = draw_pair(interanimal.size(target, source), settings)
        found = score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)
        interanimal.assert_equal(found.halves.scores[0, :, 0], expected, tolerance, key)
        compared += 1
    assert compared > 0


def stored_draws(interanimal: Any, case: str) -> list[Any]:
    """The shuffles of a case, in the order in which they were drawn."""
    stored = {
        int(match["number"]): values
        for key, values in interanimal.expected(FILE).items()
        for match in [SUB_SAMPLED_DRAW.fullmatch(key)]
        if match is not None and match["case"] == case
    }
    assert sorted(stored) == list(range(len(stored)))
    return [stored[number].astype(np.int64) for number in range(len(stored))]


def rows_of(shuffles: list[Any], *, n_subsamples: int, n_halves: int) -> list[tuple[Any, Any, Any]]:
    """Units, target trials and source trials of each row, by the two orders of the goldens' README."""
    per_units = n_halves if n_subsamples > n_halves else 1
    step = 1 + 2 * per_units
    return [
        (shuffles[begin], shuffles[begin + 1 + 2 * row], shuffles[begin + 2 + 2 * row])
        for begin in range(0, len(shuffles), step)
        for row in range(per_units)
    ]


def pair_of_sizes(interanimal: Any, n_target: int, n_source: int) -> tuple[Any, Any]:
    """Responses of the first target and source in one area with so many units."""
    return next(
        (target.responses, source.responses)
        for source, target in itertools.permutations(interanimal.animals, 2)
        if source.area == target.area
        and (target.responses.shape[2], source.responses.shape[2]) == (n_target, n_source)
    )


def test_sub_samples_of_source_units(interanimal: Any) -> None:
    orders = set()
    for key, expected in interanimal.expected(FILE).items():
        match = SUB_SAMPLED_SCORES.fullmatch(key)
        if match is None:
            continue
        options, tolerance = interanimal.options(match["map"])
        counts = {name: int(match[name]) for name in ("n_subsamples", "n_halves")}
        settings = ScoreSettings(parity=True, n_splits=1, **counts, **options)
        shuffles = stored_draws(interanimal, match["case"])
        target, source = pair_of_sizes(interanimal, expected.shape[1], len(shuffles[0]))
        draws = draw_pair(interanimal.size(target, source, int(match["kept"])), settings)
        rows = rows_of(shuffles, **counts)
        assert_drawn(draws, rows)
        found = score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)
        assert found.n_source_units == int(match["kept"])
        interanimal.assert_equal(found.halves.scores[0], expected, tolerance, key)
        orders.add(counts["n_subsamples"] > counts["n_halves"])
    assert orders == {False, True}


def assert_drawn(draws: PairDraws, rows: list[tuple[Any, Any, Any]]) -> None:
    units, target_trials, source_trials = (np.stack(shuffles) for shuffles in zip(*rows, strict=True))
    np.testing.assert_array_equal(draws.units, units)
    np.testing.assert_array_equal(draws.target, halves_of(target_trials))
    np.testing.assert_array_equal(draws.source, halves_of(source_trials))
