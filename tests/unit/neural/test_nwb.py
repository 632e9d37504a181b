"""Presentations in the order of time: trials of every image, and which presentations are left out."""

from __future__ import annotations

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.neural.nwb import order_presentations


def test_trials_are_numbered_in_the_order_of_time() -> None:
    start = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    frames = np.array([7.0, 7.0, 2.0, -1.0, 7.0, np.nan])
    shown = order_presentations(start, frames, np.array([False] * 6))
    assert shown.onset.tolist() == [1, 3, 4, 5]
    assert shown.frame_ids.tolist() == [2, 7]
    assert shown.frame_index.tolist() == [1, 0, 1, 1]
    assert shown.trial_index.tolist() == [0, 0, 1, 2]
    assert shown.present.tolist() == [[True, True], [False, True], [False, True]]


def test_a_masked_presentation_was_never_made() -> None:
    start, frames = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0])
    shown = order_presentations(start, frames, np.array([False, True, False]))
    assert shown.onset.tolist() == [1, 3] and shown.trial_index.tolist() == [0, 1]


@pytest.mark.parametrize(("frames", "words"), [([-1.0, np.nan], "no valid"), ([0.5, 1.0], "whole")])
def test_what_is_no_image_is_refused(frames: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        order_presentations(np.arange(2.0), np.array(frames), np.zeros(2, dtype=bool))
