"""Bins and trials: edges, order of time, what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit.allen.neuropixels import count_spikes, overlapping
from mvkit.allen.nwb import order_presentations
from mvkit.allen.request import SessionRequest
from mvkit.errors import DataError

EDGES = SessionRequest(window_ms=(0, 30)).edges_s


def test_a_spike_on_an_inner_edge_counts_in_both_bins() -> None:
    onset = np.array([8.0])
    spikes = [8.0 + EDGES[1]]
    assert count_spikes(np.array(spikes), onset, EDGES).tolist() == [[1, 1, 0]]
    assert count_spikes(np.nextafter(spikes, -np.inf), onset, EDGES).tolist() == [[1, 0, 0]]
    assert count_spikes(np.nextafter(spikes, np.inf), onset, EDGES).tolist() == [[0, 1, 0]]


def test_the_first_and_the_last_edge_belong_to_the_window() -> None:
    onset = np.array([8.0])
    both = np.array([8.0, 8.0 + EDGES[-1]])
    assert count_spikes(both, onset, EDGES).tolist() == [[1, 0, 1]]
    outside = np.array([np.nextafter(8.0, 0), np.nextafter(both[1], np.inf)])
    assert count_spikes(outside, onset, EDGES).tolist() == [[0, 0, 0]]


def test_a_unit_without_spikes_has_no_counts() -> None:
    assert not count_spikes(np.empty(0), np.array([1.0, 2.0]), EDGES).any()


@given(
    spikes=st.lists(st.integers(0, 400), max_size=60),
    onsets=st.lists(st.integers(0, 300), min_size=1, max_size=5),
)
def test_counts_equal_comparing_every_spike_with_every_bin(spikes: list[int], onsets: list[int]) -> None:
    # Multiples of 1/128 s are exact, so that many spikes fall on edges.
    times, starts = np.sort(spikes) / 128, np.array(onsets) / 128
    edges = np.arange(6) / 64
    low, high = starts[:, None] + edges[:-1], starts[:, None] + edges[1:]
    wanted = ((times >= low[..., None]) & (times <= high[..., None])).sum(axis=-1)
    assert np.array_equal(count_spikes(times, starts, edges), wanted)


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


def test_intervals_that_touch_overlap() -> None:
    start, stop = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    assert overlapping(start, stop, np.array([[2.0, 2.0]])).tolist() == [False, True, True]
    assert not overlapping(start, stop, np.empty((0, 2))).any()


@pytest.mark.parametrize(("frames", "words"), [([-1.0, np.nan], "no valid"), ([0.5, 1.0], "whole")])
def test_what_is_no_image_is_refused(frames: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        order_presentations(np.arange(2.0), np.array(frames), np.zeros(2, dtype=bool))
