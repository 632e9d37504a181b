"""One row per target unit from several sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.ceilings import PairScores, SourceScores, aggregate_sources, no_scores
from mvkit.scoring.protocol import SplitHalfScores, correct_split_halves
from mvkit.scoring.settings import ScoreSettings

SETTINGS = ScoreSettings(ceiling="pairwise", correction="none")


def halvings(r_cross: list[list[float]]) -> SplitHalfScores:
    """One split; rows are halvings, columns units; not corrected, so that scores are r_cross."""
    values = np.array([r_cross])
    gaps = np.zeros(values.shape, dtype=np.uint8)
    missing = np.full(values.shape[2], -1)
    return correct_split_halves((values, np.ones_like(values), np.ones_like(values)), gaps, missing, SETTINGS)


@pytest.fixture
def target(recording: Callable[..., Any]) -> Any:
    return recording(np.zeros((2, 8, 2)), area="VISl", specimen=7)


def test_every_halving_of_every_source_counts_equally(target: Any) -> None:
    first = SourceScores((1,), PairScores(halvings([[0.1, 0.2], [0.3, np.nan], [0.5, 0.4]]), 5, ""))
    second = SourceScores((2, 3), PairScores(halvings([[0.9, 0.8]]), 6, ""))
    columns = aggregate_sources(target, [first, second], 1, SETTINGS).columns
    np.testing.assert_allclose(
        columns["score"].astype(float), [(0.1 + 0.3 + 0.5 + 0.9) / 4, (0.2 + 0.4 + 0.8) / 3]
    )
    assert list(columns["halves_used"]) == [4, 3]
    assert list(columns["halves_dropped"]) == [0, 1]
    assert list(columns["n_sources"]) == [3, 3]
    assert list(columns["n_source_units"]) == [11, 11]
    assert (list(columns["layer"]), list(columns["area"])) == (["pairwise"] * 2, ["VISl"] * 2)
    assert list(columns["specimen"]) == [7, 7]


def test_sources_without_a_map_take_no_part(target: Any) -> None:
    good = SourceScores((1,), PairScores(halvings([[0.1, 0.2]]), 5, ""))
    bad = SourceScores((2, 3), PairScores(no_scores((1, 1, 2), SETTINGS), 4, "too few"))
    columns = aggregate_sources(target, [bad, good], 1, SETTINGS).columns
    np.testing.assert_allclose(columns["score"].astype(float), [0.1, 0.2])
    assert list(columns["n_sources"]) == [1, 1]
    assert list(columns["n_source_units"]) == [5, 5]
    assert list(columns["halves_dropped"]) == [0, 0]
    assert list(columns["dropped_because"]) == ["source 2, 3: too few"] * 2
    assert list(columns["reason"]) == ["", ""]


@pytest.mark.parametrize(
    ("others", "reason"), [(True, "source 2: too few"), (False, "no other animal in this area")]
)
def test_without_any_source_the_reason_is_given(target: Any, others: bool, reason: str) -> None:
    bad = SourceScores((2,), PairScores(no_scores((3, 1, 2), SETTINGS), 4, "too few"))
    found = aggregate_sources(target, [bad] if others else [], 3, SETTINGS)
    assert list(found.columns["reason"]) == [reason] * 2
    assert np.isnan(found.columns["score"].astype(float)).all()
    assert found.by_fold.shape == (2, 2) and np.isnan(found.by_fold).all()
    for column in ("n_sources", "n_source_units", "halves_used", "halves_dropped"):
        assert list(found.columns[column]) == [0, 0]
