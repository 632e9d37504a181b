"""Consistency between animals of an area against the 2020 implementation (goldens section 6).

What is compared is whatever keys the file holds; animals, counts and seeds are taken from the goldens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.ceilings import draw_pair, measure_ceiling, pairs_of, score_pair
from mvkit.scoring.protocol import SplitHalfScores, pool_responses, splits_of
from mvkit.scoring.settings import ScoreSettings

FILE = "interanimal/interanimal.npz"
CORRECTIONS = {"sb_denominator": "spearman-brown-denominator", "sb_ratio": "spearman-brown-ratio"}

# Over rows, ignoring NaN.
STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda values: np.nanmean(values, axis=0),
    "std": lambda values: np.nanstd(values, axis=0),
    "sem": lambda values: np.nanstd(values, axis=0, ddof=1) / np.sqrt((~np.isnan(values)).sum(axis=0)),
}

GROUP = r"(?P<group>(?P<mode>pairwise|holdout)\|(?P<map>\w+)\|(?P<units>all|equal)\|(?P<correction>\w+))"
PAIR = re.compile(GROUP + r"\|(?P<area>\w+)\|(?P<source>\w+)->(?P<target>\d+)")
AGGREGATE = re.compile(GROUP + r"\|(?P<area>\w+)\|agg_(?P<statistic>mean|std|sem)")

Scored = Callable[[re.Match[str]], dict[tuple[str, int], SplitHalfScores]]


def test_every_key_is_compared(interanimal: Any) -> None:
    interanimal.assert_complete(FILE, [PAIR, AGGREGATE])


def trimmed(interanimal: Any, area: str) -> list[Any]:
    """The animals of an area with their first units, as many as the file predicts of each."""
    n_units: dict[int, int] = {}
    for key, values in interanimal.expected(FILE).items():
        match = PAIR.fullmatch(key)
        if match is not None and match["map"] != "identity":
            n_units[int(match["target"])] = values.shape[-1]
    return [
        replace(animal, unit_ids=animal.unit_ids[:n], responses=animal.responses[:, :, :n])
        for animal in interanimal.animals
        if animal.area == area
        for n in [n_units[animal.specimen]]
    ]


def group_settings(interanimal: Any, match: re.Match[str]) -> ScoreSettings:
    """Settings of a group of keys; a source that is not sub-sampled tells the number of split halves."""
    shapes = [
        values.shape
        for key, values in interanimal.expected(FILE).items()
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
            **interanimal.options(match["map"])[0],
        }
    )


@pytest.fixture(scope="module")
def scored(interanimal: Any) -> Scored:
    """Scores every pair of a group and area once: (source as the key has it, target) -> split halves."""
    known: dict[tuple[str, str], dict[tuple[str, int], SplitHalfScores]] = {}

    def run(match: re.Match[str]) -> dict[tuple[str, int], SplitHalfScores]:
        name = (match["group"], match["area"])
        if name not in known:
            animals = trimmed(interanimal, match["area"])
            settings = group_settings(interanimal, match)
            known[name] = {}
            for pair in pairs_of(animals, settings):
                target = animals[pair.target].responses
                source = pool_responses([animals[index].responses for index in pair.sources])
                splits = splits_of(target.shape[1], settings)
                draws = draw_pair(interanimal.size(target, source, pair.n_predictors), settings)
                pooled = settings.ceiling == "holdout"
                from_whom = "holdout" if pooled else str(animals[pair.sources[0]].specimen)
                found = score_pair(target, source, draws, splits, settings)
                known[name][from_whom, animals[pair.target].specimen] = found.halves
        return known[name]

    return run


def test_pairs_of_the_inter_animal_file(interanimal: Any, scored: Scored) -> None:
    compared = set()
    for key, expected in interanimal.expected(FILE).items():
        match = PAIR.fullmatch(key)
        if match is None:
            continue
        found = scored(match)[match["source"], int(match["target"])].scores
        found = found[:, :, 0] if match["map"] == "identity" else found
        interanimal.assert_equal(found, expected, interanimal.options(match["map"])[1], key)
        compared.add((match["mode"], match["map"].rstrip("0123456789")))
    assert {mode for mode, _ in compared} == {"pairwise", "holdout"}
    assert {name for _, name in compared} == {"pls", "corr", "ridge", "identity"}


def test_aggregates_over_sources_splits_and_split_halves(interanimal: Any, scored: Scored) -> None:
    statistics = set()
    for key, expected in interanimal.expected(FILE).items():
        match = AGGREGATE.fullmatch(key)
        if match is None:
            continue
        by_pair = scored(match)
        found = []
        for target in sorted({target for _, target in by_pair}):
            values = np.concatenate(
                [
                    split_halves.scores.reshape(-1, split_halves.scores.shape[2])
                    for (_, other), split_halves in by_pair.items()
                    if other == target
                ]
            )
            found.append(STATISTICS[match["statistic"]](values))
        interanimal.assert_equal(np.concatenate(found), expected, interanimal.options(match["map"])[1], key)
        statistics.add(match["statistic"])
    assert statistics == {"mean", "std", "sem"}


def test_measured_ceilings_are_the_aggregated_means(interanimal: Any) -> None:
    compared = 0
    for key, expected in interanimal.expected(FILE).items():
        match = AGGREGATE.fullmatch(key)
        if match is None or match["statistic"] != "mean":
            continue
        animals = trimmed(interanimal, match["area"])
        ceiling = measure_ceiling(animals, group_settings(interanimal, match))
        interanimal.assert_equal(
            ceiling.columns["score"], expected, interanimal.options(match["map"])[1], key
        )
        assert set(ceiling.columns["n_sources"]) == {len(animals) - 1}
        compared += 1
    assert compared > 0
