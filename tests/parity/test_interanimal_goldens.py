"""Scores between animals against the numbers of the 2020 implementation (goldens sections 4 and 6).

What is compared is whatever keys the folder holds; animals, counts and seeds are taken from its files.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.ceilings.draws import PairDraws, PairSize, draw_pair
from mvkit.scoring.ceilings.measure import measure_ceiling, pairs_of
from mvkit.scoring.ceilings.pairs import score_pair
from mvkit.scoring.ceilings.sources import pooled_responses
from mvkit.scoring.halvings import HalvingScores
from mvkit.scoring.protocol import halves_of, splits_of
from mvkit.scoring.settings import ScoreSettings

# Name in the goldens -> settings and tolerance; pls is followed by its number of components.
MAPS: dict[str, tuple[dict[str, Any], float]] = {
    "corr": ({"mapping": "one-to-one"}, 1e-9),
    "ridge": ({"mapping": "ridge", "ridge_alpha": 1.0}, 1e-9),
    "identity": ({"mapping": "rsa"}, 1e-9),
    "identity_rsa": ({"mapping": "rsa"}, 1e-9),
    "pls": ({"mapping": "pls"}, 1e-6),
}
CORRECTIONS = {"sb_denominator": "spearman-brown-denominator", "sb_ratio": "spearman-brown-ratio"}

# Over rows, ignoring NaN.
STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda values: np.nanmean(values, axis=0),
    "std": lambda values: np.nanstd(values, axis=0),
    "sem": lambda values: np.nanstd(values, axis=0, ddof=1) / np.sqrt((~np.isnan(values)).sum(axis=0)),
}

# Every key of neural/animal_to_animal.npz and of interanimal/interanimal.npz fits one of these.
ON_A_SPLIT = re.compile(r"(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)\|(?P<map>\w+)\|split(?P<split>\d+)")
ALL_IMAGES = re.compile(r"(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)\|(?P<map>\w+)\|all")
SUB_SAMPLED = re.compile(r"(?P<case>subsample(?P<kept>\d+)_nss(?P<n_subsamples>\d+)_niter(?P<n_halves>\d+))")
SUB_SAMPLED_SCORES = re.compile(SUB_SAMPLED.pattern + r"\|(?P<map>(?!draw)\w+)")
SUB_SAMPLED_DRAW = re.compile(SUB_SAMPLED.pattern + r"\|draw(?P<number>\d+)")
DRAWS = re.compile("draws")
GROUP = r"(?P<group>(?P<mode>pairwise|holdout)\|(?P<map>\w+)\|(?P<units>all|equal)\|(?P<correction>\w+))"
PAIR = re.compile(GROUP + r"\|(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)")
AGGREGATE = re.compile(GROUP + r"\|(?P<area>\w+)\|agg_(?P<statistic>mean|std|sem)")
BETWEEN = {
    "animal_to_animal": [ON_A_SPLIT, ALL_IMAGES, SUB_SAMPLED_SCORES, SUB_SAMPLED_DRAW, DRAWS],
    "interanimal": [PAIR, AGGREGATE],
}


@dataclass(frozen=True)
class Animal:
    """What scoring needs of a recording."""

    area: str
    specimen: int
    unit_ids: Any
    responses: Any


class Neural:
    """Responses, splits and expected numbers."""

    def __init__(self, folder: Path) -> None:
        self.animals = [
            Animal(area, int(specimen), np.arange(responses.shape[2]), responses)
            for key, responses in np.load(folder / "neural" / "responses.npz").items()
            for area, specimen in [key.split("_")]
        ]
        self.animals.sort(key=lambda animal: animal.specimen)
        self.expected = {
            "animal_to_animal": dict(np.load(folder / "neural" / "animal_to_animal.npz")),
            "interanimal": dict(np.load(folder / "interanimal" / "interanimal.npz")),
        }

    def of_pair(self, match: re.Match[str]) -> tuple[Any, Any]:
        """Responses of target and source; "holdout" means all other animals of the area."""
        area = {str(animal.specimen): animal for animal in self.animals if animal.area == match["area"]}
        target = area.pop(match["target"])
        sources = area.values() if match["source"] == "holdout" else [area[match["source"]]]
        return target.responses, pooled_responses([animal.responses for animal in sources])

    def pair_of_sizes(self, n_target: int, n_source: int) -> tuple[Any, Any]:
        """Responses of the first target and source in one area with so many units."""
        return next(
            (target.responses, source.responses)
            for source, target in itertools.permutations(self.animals, 2)
            if source.area == target.area
            and (target.responses.shape[2], source.responses.shape[2]) == (n_target, n_source)
        )

    def trimmed(self, area: str) -> list[Animal]:
        """The animals of an area with their first units, as many as ``interanimal.npz`` predicts of each."""
        n_units: dict[int, int] = {}
        for key, values in self.expected["interanimal"].items():
            match = PAIR.fullmatch(key)
            if match is not None and match["map"] != "identity":
                n_units[int(match["target"])] = values.shape[-1]
        return [
            Animal(area, animal.specimen, animal.unit_ids[:n], animal.responses[:, :, :n])
            for animal in self.animals
            if animal.area == area
            for n in [n_units[animal.specimen]]
        ]


@pytest.fixture(scope="module")
def neural(goldens: Path) -> Neural:
    return Neural(goldens)


def options_of(name: str) -> tuple[dict[str, Any], float]:
    """Settings and tolerance of a map's name in the goldens."""
    pls = re.fullmatch(r"pls(\d+)", name)
    if pls is None:
        return MAPS[name]
    return {**MAPS["pls"][0], "n_components": int(pls[1])}, MAPS["pls"][1]


def size_of(target: Any, source: Any, n_kept: int | None = None) -> PairSize:
    n_units = source.shape[2]
    return PairSize(target.shape[0], source.shape[0], target.shape[1], n_units, n_kept or n_units)


def assert_equal(found: Any, expected: Any, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, what
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=what)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("file", BETWEEN)
def test_every_key_is_compared(neural: Neural, file: str) -> None:
    """The tests below go through all keys of these patterns."""
    count = dict.fromkeys((pattern.pattern for pattern in BETWEEN[file]), 0)
    for key in neural.expected[file]:
        fitting = [pattern.pattern for pattern in BETWEEN[file] if pattern.fullmatch(key)]
        assert len(fitting) == 1, f"{file}: {key} fits {fitting}"
        count[fitting[0]] += 1
    assert all(count.values()), count


def test_both_animals_of_a_pair_are_halved_as_stored(neural: Neural) -> None:
    stored = neural.expected["animal_to_animal"]["draws"]
    n_halves, _, n_trials = stored.shape
    drawn = draw_pair(PairSize(n_trials, n_trials, 10, 5, 5), ScoreSettings(n_halves=n_halves))
    np.testing.assert_array_equal(drawn.target, halves_of(stored[:, 0]))
    np.testing.assert_array_equal(drawn.source, halves_of(stored[:, 1]))


def test_scores_from_one_animal_and_from_the_others(neural: Neural) -> None:
    compared = set()
    for key, expected in neural.expected["animal_to_animal"].items():
        match = ON_A_SPLIT.fullmatch(key)
        if match is None:
            continue
        options, tolerance = options_of(match["map"])
        number = int(match["split"])
        settings = ScoreSettings(parity=True, n_splits=number + 1, n_halves=len(expected), **options)
        target, source = neural.of_pair(match)
        split = splits_of(target.shape[1], settings)[number]
        draws = draw_pair(size_of(target, source), settings)
        found = score_pair(target, source, draws, [split], settings)
        assert found.n_source_units == source.shape[2]
        assert_equal(found.halvings.scores[0], expected, tolerance, key)
        compared.add(match["map"].rstrip("0123456789"))
    assert compared == {"pls", "corr"}


def test_representational_similarity_of_animals(neural: Neural) -> None:
    compared = 0
    for key, expected in neural.expected["animal_to_animal"].items():
        match = ALL_IMAGES.fullmatch(key)
        if match is None:
            continue
        options, tolerance = options_of(match["map"])
        settings = ScoreSettings(parity=True, n_halves=len(expected), **options)
        target, source = neural.of_pair(match)
        draws = draw_pair(size_of(target, source), settings)
        found = score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)
        assert_equal(found.halvings.scores[0, :, 0], expected, tolerance, key)
        compared += 1
    assert compared > 0


def stored_draws(neural: Neural, case: str) -> list[Any]:
    """The shuffles of a case, in the order in which they were drawn."""
    stored = {
        int(match["number"]): values
        for key, values in neural.expected["animal_to_animal"].items()
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


def test_sub_samples_of_source_units(neural: Neural) -> None:
    orders = set()
    for key, expected in neural.expected["animal_to_animal"].items():
        match = SUB_SAMPLED_SCORES.fullmatch(key)
        if match is None:
            continue
        options, tolerance = options_of(match["map"])
        counts = {name: int(match[name]) for name in ("n_subsamples", "n_halves")}
        settings = ScoreSettings(parity=True, n_splits=1, **counts, **options)
        shuffles = stored_draws(neural, match["case"])
        target, source = neural.pair_of_sizes(expected.shape[1], len(shuffles[0]))
        draws = draw_pair(size_of(target, source, int(match["kept"])), settings)
        rows = rows_of(shuffles, **counts)
        assert_drawn(draws, rows)
        found = score_pair(target, source, draws, splits_of(target.shape[1], settings), settings)
        assert found.n_source_units == int(match["kept"])
        assert_equal(found.halvings.scores[0], expected, tolerance, key)
        orders.add(counts["n_subsamples"] > counts["n_halves"])
    assert orders == {False, True}


def assert_drawn(draws: PairDraws, rows: list[tuple[Any, Any, Any]]) -> None:
    units, target_trials, source_trials = (np.stack(shuffles) for shuffles in zip(*rows, strict=True))
    np.testing.assert_array_equal(draws.units, units)
    np.testing.assert_array_equal(draws.target, halves_of(target_trials))
    np.testing.assert_array_equal(draws.source, halves_of(source_trials))


def group_settings(neural: Neural, match: re.Match[str]) -> ScoreSettings:
    """Settings of a group of keys; a source that is not sub-sampled tells the number of halvings."""
    shapes = [
        values.shape
        for key, values in neural.expected["interanimal"].items()
        for other in [PAIR.fullmatch(key)]
        if other is not None and other["group"] == match["group"]
    ]
    rows = [shape[1] for shape in shapes]
    return ScoreSettings.model_validate(
        {
            "parity": True,
            "n_splits": shapes[0][0],
            "n_halves": min(rows),
            "n_subsamples": max(rows) // min(rows),
            "ceiling": match["mode"],
            "source_units": match["units"],
            "correction": CORRECTIONS[match["correction"]],
            **options_of(match["map"])[0],
        }
    )


@pytest.fixture(scope="module")
def scored(neural: Neural) -> Callable[[re.Match[str]], dict[tuple[str, int], HalvingScores]]:
    """Scores every pair of a group and area once: (source as the key has it, target) -> halvings."""
    known: dict[tuple[str, str], dict[tuple[str, int], HalvingScores]] = {}

    def run(match: re.Match[str]) -> dict[tuple[str, int], HalvingScores]:
        name = (match["group"], match["area"])
        if name not in known:
            animals = neural.trimmed(match["area"])
            settings = group_settings(neural, match)
            known[name] = {}
            for pair in pairs_of(animals, settings):
                target = animals[pair.target].responses
                source = pooled_responses([animals[index].responses for index in pair.sources])
                splits = splits_of(target.shape[1], settings)
                draws = draw_pair(size_of(target, source, pair.n_kept), settings)
                pooled = settings.ceiling == "holdout"
                from_whom = "holdout" if pooled else str(animals[pair.sources[0]].specimen)
                found = score_pair(target, source, draws, splits, settings)
                known[name][from_whom, animals[pair.target].specimen] = found.halvings
        return known[name]

    return run


def test_pairs_of_the_inter_animal_file(
    neural: Neural, scored: Callable[[re.Match[str]], dict[tuple[str, int], HalvingScores]]
) -> None:
    compared = set()
    for key, expected in neural.expected["interanimal"].items():
        match = PAIR.fullmatch(key)
        if match is None:
            continue
        found = scored(match)[match["source"], int(match["target"])].scores
        found = found[:, :, 0] if match["map"] == "identity" else found
        assert_equal(found, expected, options_of(match["map"])[1], key)
        compared.add((match["mode"], match["map"].rstrip("0123456789")))
    assert {mode for mode, _ in compared} == {"pairwise", "holdout"}
    assert {name for _, name in compared} == {"pls", "corr", "ridge", "identity"}


def test_aggregates_over_sources_splits_and_halvings(
    neural: Neural, scored: Callable[[re.Match[str]], dict[tuple[str, int], HalvingScores]]
) -> None:
    statistics = set()
    for key, expected in neural.expected["interanimal"].items():
        match = AGGREGATE.fullmatch(key)
        if match is None:
            continue
        by_pair = scored(match)
        found = []
        for target in sorted({target for _, target in by_pair}):
            values = np.concatenate(
                [
                    halvings.scores.reshape(-1, halvings.scores.shape[2])
                    for (_, other), halvings in by_pair.items()
                    if other == target
                ]
            )
            found.append(STATISTICS[match["statistic"]](values))
        assert_equal(np.concatenate(found), expected, options_of(match["map"])[1], key)
        statistics.add(match["statistic"])
    assert statistics == {"mean", "std", "sem"}


def test_measured_ceilings_are_the_aggregated_means(neural: Neural) -> None:
    compared = 0
    for key, expected in neural.expected["interanimal"].items():
        match = AGGREGATE.fullmatch(key)
        if match is None or match["statistic"] != "mean":
            continue
        animals = neural.trimmed(match["area"])
        ceiling = measure_ceiling(animals, group_settings(neural, match))
        assert_equal(ceiling.columns["score"], expected, options_of(match["map"])[1], key)
        assert set(ceiling.columns["n_sources"]) == {len(animals) - 1}
        compared += 1
    assert compared > 0
