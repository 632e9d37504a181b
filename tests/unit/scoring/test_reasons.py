"""Reasons in words."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.scoring.correlation import Drop, explain


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({Drop.KEPT: 10}, ""),
        ({Drop.NO_TRIAL: 10}, "no valid trial in one half (image 7) in all halvings"),
        ({Drop.CONSTANT_RESPONSE: 10}, "constant response in all halvings"),
        ({Drop.NEGATIVE_MAP: 4, Drop.NEGATIVE_BOTH: 6}, "negative reliability in all halvings"),
        ({Drop.NEGATIVE_MAP: 10}, "negative map reliability in all halvings"),
        ({Drop.KEPT: 8, Drop.NEGATIVE_RESPONSE: 2}, "negative response reliability in 2 of 10 halvings"),
        (
            {Drop.NO_TRIAL: 7, Drop.NEGATIVE_MAP: 3},
            "no valid trial in one half (image 7) in 7, negative map reliability in 3 of 10 halvings",
        ),
    ],
)
def test_explanations(counts: dict[Drop, int], text: str) -> None:
    array = np.array([counts.get(drop, 0) for drop in Drop])
    assert explain(array, 10, 7) == text
