"""Causes of dropped halvings, added up from what scoring writes about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvkit.report.text import count_causes, dropped_halvings
from mvkit.scoring import Scores
from mvkit.scoring.correlation import ExclusionReason, explain

NAMES = {
    ExclusionReason.NO_TRIAL: "no valid trial in one half",
    ExclusionReason.CONSTANT_RESPONSE: "constant response",
    ExclusionReason.NEGATIVE_MAP: "negative map reliability",
    ExclusionReason.NEGATIVE_RESPONSE: "negative response reliability",
}


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from(list(NAMES)), st.integers(1, 90), min_size=1), st.integers(1, 50))
def test_causes_are_read_as_scoring_writes_them(found: dict[ExclusionReason, int], kept: int) -> None:
    counts = np.zeros(len(ExclusionReason), dtype=np.int64)
    for drop, number in found.items():
        counts[drop] = number
    counts[ExclusionReason.NONE] = kept
    dropped = sum(found.values())
    text = explain(counts, kept + dropped, 7)
    expected = Counter({NAMES[drop]: number for drop, number in found.items()})
    assert count_causes([(text, dropped), ("", 0)]) == expected


def test_a_cause_of_all_halvings_counts_for_all() -> None:
    counts = np.zeros(len(ExclusionReason), dtype=np.int64)
    counts[ExclusionReason.NO_TRIAL] = 40
    rows = [(explain(counts, 40, 3), 40), ("negative reliability in all halvings", 40), ("odd words", 2)]
    expected = {"no valid trial in one half": 40, "negative reliability": 40, "odd words": 2}
    assert count_causes(rows) == expected


@pytest.mark.parametrize(
    ("estimator", "start"),
    [
        ("mean-of-corrected", "halvings dropped: 10 of 40 (25.0 %: constant response 10)"),
        (
            "corrected-mean",
            "halvings that alone could not be corrected: 10 of 40 (25.0 %: constant response 10);",
        ),
    ],
)
def test_the_sentence_says_whether_the_estimator_drops(
    estimator: str, start: str, scores_of: Callable[..., Scores]
) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, float("nan")]}, estimator=estimator)
    assert dropped_halvings(scores).startswith(start)
    assert dropped_halvings(scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})) == ""
